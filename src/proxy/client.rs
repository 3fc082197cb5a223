//! Who the client is, when the connection comes from another proxy.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName};
use ipnet::IpNet;

use crate::request::ClientAddr;

/// The proxies whose word about a client's address is taken, and where they say it (nginx: the realip module).
///
/// Only a connection that comes from one of `networks` is asked. Of several addresses in the field the last is taken, which
/// the proxy nearest to us added; with [`recursive`](Self::recursive), the last that is not itself a trusted proxy. What
/// is not an address ends the search.
#[derive(Debug, Clone)]
#[must_use]
pub struct TrustedProxies {
    networks: Vec<IpNet>,
    unix: bool,
    field: HeaderName,
    recursive: bool,
}

impl TrustedProxies {
    /// Nobody is trusted.
    pub const fn none() -> Self {
        TrustedProxies {
            networks: Vec::new(),
            unix: false,
            field: HeaderName::from_static("x-forwarded-for"),
            recursive: false,
        }
    }

    /// Trusts the proxies in `networks`, which name the client in `X-Forwarded-For`, recursively.
    pub fn new(networks: impl IntoIterator<Item = IpNet>) -> Self {
        TrustedProxies { networks: networks.into_iter().collect(), recursive: true, ..TrustedProxies::none() }
    }

    /// Also trusts the peers of unix sockets.
    pub fn unix(mut self, trusted: bool) -> Self {
        self.unix = trusted;
        self
    }

    /// The field that names the client (nginx: `real_ip_header`).
    pub fn field(mut self, field: HeaderName) -> Self {
        self.field = field;
        self
    }

    /// Whether to go on past addresses that are trusted proxies themselves (nginx: `real_ip_recursive`).
    pub fn recursive(mut self, recursive: bool) -> Self {
        self.recursive = recursive;
        self
    }

    /// Is `peer` one of the trusted proxies?
    pub fn trusts(&self, peer: ClientAddr) -> bool {
        match peer.ip() {
            // A dual-stack socket shows IPv4 peers as mapped addresses.
            Some(ip) => {
                let ip = ip.to_canonical();
                self.networks.iter().any(|network| network.contains(&ip))
            }
            None => self.unix,
        }
    }

    /// The client behind `peer`.
    pub fn client(&self, peer: ClientAddr, headers: &HeaderMap) -> ClientAddr {
        if self.networks.is_empty() && !self.unix {
            return peer;
        }
        // The last line was added last; within a line the last address was.
        let lines = headers.get_all(&self.field).iter().rev();
        let mut addresses = lines.flat_map(|line| line.as_bytes().rsplit(|byte| matches!(byte, b',' | b' ')));
        let mut client = peer;
        while self.trusts(client) {
            let next = addresses.by_ref().find(|address| !address.is_empty());
            let Some(address) = next.and_then(parse) else { break };
            client = address;
            if !self.recursive {
                break;
            }
        }
        client
    }
}

/// An address with or without a port, IPv6 in brackets or bare.
fn parse(text: &[u8]) -> Option<ClientAddr> {
    let text = std::str::from_utf8(text).ok()?;
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some(ip.into());
    }
    if let Ok(socket) = text.parse::<SocketAddr>() {
        return Some(socket.into());
    }
    let bracketed = text.strip_prefix('[')?.strip_suffix(']')?;
    bracketed.parse::<IpAddr>().ok().map(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(text: &str) -> ClientAddr {
        text.parse::<IpAddr>().unwrap().into()
    }

    fn client(trusted: &TrustedProxies, from: &str, lines: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append("x-forwarded-for", http::HeaderValue::from_bytes(line.as_bytes()).unwrap());
        }
        trusted.client(peer(from), &headers).ip().unwrap().to_string()
    }

    fn trust(networks: &[&str]) -> TrustedProxies {
        TrustedProxies::new(networks.iter().map(|network| network.parse().unwrap()))
    }

    #[test]
    fn believes_only_trusted_peers() {
        let trusted = trust(&["10.0.0.0/8"]);
        assert_eq!(client(&trusted, "192.0.2.1", &["1.1.1.1"]), "192.0.2.1");
        assert_eq!(client(&trusted, "10.0.0.1", &["1.1.1.1"]), "1.1.1.1");
        assert_eq!(client(&trusted, "::ffff:10.0.0.1", &["1.1.1.1"]), "1.1.1.1");
        assert_eq!(client(&TrustedProxies::none(), "10.0.0.1", &["1.1.1.1"]), "10.0.0.1");
    }

    #[test]
    fn takes_the_rightmost_address_that_is_not_trusted() {
        let trusted = trust(&["10.0.0.0/8"]);
        assert_eq!(client(&trusted, "10.0.0.1", &["6.6.6.6, 1.1.1.1, 10.9.9.9"]), "1.1.1.1");
        assert_eq!(client(&trusted, "10.0.0.1", &["6.6.6.6, 1.1.1.1", "10.9.9.9"]), "1.1.1.1");
        assert_eq!(client(&trusted, "10.0.0.1", &["10.1.1.1, 10.2.2.2"]), "10.1.1.1", "all trusted: the first");
        let once = trust(&["10.0.0.0/8"]).recursive(false);
        assert_eq!(client(&once, "10.0.0.1", &["6.6.6.6, 1.1.1.1, 10.9.9.9"]), "10.9.9.9");
    }

    #[test]
    fn what_is_no_address_ends_the_search() {
        let trusted = trust(&["10.0.0.0/8"]);
        assert_eq!(client(&trusted, "10.0.0.1", &["1.1.1.1, unknown"]), "10.0.0.1");
        assert_eq!(client(&trusted, "10.0.0.1", &["1.1.1.1, _hidden, 10.2.2.2"]), "10.2.2.2");
        assert_eq!(client(&trusted, "10.0.0.1", &["\u{1f980}", ""]), "10.0.0.1");
        assert_eq!(client(&trusted, "10.0.0.1", &[]), "10.0.0.1");
    }

    #[test]
    fn reads_ports_and_brackets() {
        let trusted = trust(&["10.0.0.0/8"]);
        assert_eq!(client(&trusted, "10.0.0.1", &["1.1.1.1:4711"]), "1.1.1.1");
        assert_eq!(client(&trusted, "10.0.0.1", &["[2001:db8::1]:4711"]), "2001:db8::1");
        assert_eq!(client(&trusted, "10.0.0.1", &["[2001:db8::1]"]), "2001:db8::1");
        assert_eq!(client(&trusted, "10.0.0.1", &["2001:db8::1"]), "2001:db8::1");
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_yield_some_address(line in proptest::collection::vec(0x20_u8..0xff, 0..200)) {
            if let Ok(value) = http::HeaderValue::from_bytes(&line) {
                let mut headers = HeaderMap::new();
                headers.append("x-forwarded-for", value);
                trust(&["0.0.0.0/0"]).client(peer("10.0.0.1"), &headers);
            }
        }
    }
}
