use std::net::IpAddr;

use super::{Balancer, Candidate, Candidates};
use crate::request::{ClientAddr, RequestView};

/// Unsuccessful draws after which nginx falls back to round robin
/// (ngx_http_upstream_ip_hash_module.c).
const MAX_DRAWS: usize = 21;

/// Picks by the hash of the client's address. Choose it to keep clients on one endpoint without a
/// cookie.
#[derive(Debug, Clone, Copy)]
pub struct IpHash {
    mapping: Mapping,
}

#[derive(Debug, Clone, Copy)]
enum Mapping {
    Nginx,
    Rendezvous,
}

impl IpHash {
    /// Returns nginx's `ip_hash`, bit for bit. The first three bytes of an IPv4 address or all of
    /// an IPv6 address are hashed into 6271 buckets. If the endpoint of a bucket is not eligible,
    /// another bucket is drawn, up to 21 times. Clients of one /24, or behind one NAT, share an
    /// endpoint. A pick costs constant time.
    ///
    /// To take an endpoint out of service without remapping other clients, put it into
    /// [maintenance](crate::endpoint::AdminState::Maintenance). Removing it or changing the order
    /// remaps nearly all clients, as in nginx.
    pub fn new() -> Self {
        IpHash { mapping: Mapping::Nginx }
    }

    /// Returns a policy of rendezvous hashing over the whole address. Clients of one /24 are
    /// spread, shares follow the weights closely, and an endpoint that leaves moves only its own
    /// clients. The mapping is not nginx's. A pick costs time in proportion to the number of
    /// endpoints.
    pub fn whole_address() -> Self {
        IpHash { mapping: Mapping::Rendezvous }
    }
}

impl Default for IpHash {
    fn default() -> Self {
        IpHash::new()
    }
}

impl Balancer for IpHash {
    fn reads_query(&self) -> bool {
        false
    }

    fn pick<'c>(&self, request: &RequestView<'_>, from: &Candidates<'c>) -> Option<Candidate<'c>> {
        let client = request.client();
        match (self.mapping, client.ip().map(|ip| ip.to_canonical())) {
            (Mapping::Nginx, _) => nginx(client, from),
            (Mapping::Rendezvous, Some(IpAddr::V4(ip))) => from.rendezvous(&ip.octets()),
            (Mapping::Rendezvous, Some(IpAddr::V6(ip))) => from.rendezvous(&ip.octets()),
            (Mapping::Rendezvous, None) => None,
        }
    }
}

fn nginx<'c>(client: ClientAddr, from: &Candidates<'c>) -> Option<Candidate<'c>> {
    if from.len() < 2 {
        return None;
    }
    // An IPv4-mapped IPv6 address is hashed as its 16 bytes, as in nginx.
    let (v4, v6);
    let key: &[u8] = match client.ip() {
        Some(IpAddr::V4(ip)) => {
            v4 = ip.octets();
            &v4[..3]
        }
        Some(IpAddr::V6(ip)) => {
            v6 = ip.octets();
            &v6
        }
        None => &[0, 0, 0],
    };
    let mut hash = 89_u64;
    for _ in 0..MAX_DRAWS {
        // A redraw continues from the last hash, so a client's second choice is as fixed as its
        // first. nginx takes the remainder after each byte. Taking it after seven bytes gives the
        // same result, and nothing overflows before.
        hash = key
            .chunks(7)
            .fold(hash, |hash, piece| piece.iter().fold(hash, |hash, byte| hash * 113 + u64::from(*byte)) % 6271);
        let candidate = from.at_weight_modulo(hash as u32);
        if from.is_eligible(candidate) {
            return Some(candidate);
        }
    }
    None
}
