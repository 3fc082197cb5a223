use std::net::IpAddr;

use super::{Balancer, Candidate, Candidates};
use crate::request::{ClientAddr, RequestView};

/// Draws after which nginx gives the hash up for round robin (ngx_http_upstream_ip_hash_module.c).
const DRAWS: usize = 21;

/// Keeps a client on one endpoint by its address, without a cookie.
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
    /// nginx's `ip_hash`, bit for bit: the first three bytes of an IPv4 address or all of an IPv6 address are hashed into
    /// 6271 buckets, and a bucket whose endpoint cannot serve is drawn again, 21 times at most. Clients of one /24, or
    /// behind one NAT, share an endpoint.
    ///
    /// To take an endpoint out without remapping everybody, [`maintain`](crate::Cluster::set_admin_state) it; removing it or
    /// changing the order remaps nearly all clients, as in nginx.
    pub fn new() -> Self {
        IpHash { mapping: Mapping::Nginx }
    }

    /// Rendezvous hashing of the whole address. Clients of one /24 are spread, shares follow the weights closely, and an
    /// endpoint that leaves moves only its own clients. Not nginx's mapping. Costs time in proportion to the endpoints.
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
    // An IPv4-mapped IPv6 address is hashed as the 16 bytes it is, as nginx does.
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
    for _ in 0..DRAWS {
        // A redraw goes on from the last hash, so a client's second choice is as fixed as its first. nginx takes the remainder
        // after each byte; after seven it is the same, and nothing overflows before.
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
