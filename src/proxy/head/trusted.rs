use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName};
use ipnet::IpNet;

use crate::request::ClientAddr;

/// The proxies in front that may name the client in a header (nginx: the realip module).
///
/// The header counts only on connections from one of the networks. The client is the last address
/// in it, which the nearest proxy added. With [`recursive`](Self::recursive), the client is the
/// last address that is not a trusted proxy itself. A text that is not an address ends the search.
#[derive(Debug, Clone)]
#[must_use]
pub struct TrustedProxies {
    networks: Vec<IpNet>,
    unix: bool,
    header: HeaderName,
    recursive: bool,
    /// The rule for requests whose client this rule does not name.
    next: Option<Box<TrustedProxies>>,
}

impl TrustedProxies {
    /// Trusts no proxy.
    pub const fn none() -> Self {
        TrustedProxies {
            networks: Vec::new(),
            unix: false,
            header: HeaderName::from_static("x-forwarded-for"),
            recursive: false,
            next: None,
        }
    }

    /// Trusts the proxies in `networks`, which name the client in `X-Forwarded-For`, recursively.
    pub fn new(networks: impl IntoIterator<Item = IpNet>) -> Self {
        TrustedProxies { networks: networks.into_iter().collect(), recursive: true, ..TrustedProxies::none() }
    }

    /// Sets whether the peers of unix sockets are trusted too. Default: no.
    pub fn unix(mut self, trusted: bool) -> Self {
        self.unix = trusted;
        self
    }

    /// Sets the header that names the client (nginx: `real_ip_header`). Default: `X-Forwarded-For`.
    pub fn header(mut self, header: HeaderName) -> Self {
        self.header = header;
        self
    }

    /// Sets whether addresses that are trusted proxies themselves are skipped (nginx:
    /// `real_ip_recursive`). Default: yes after [`new`](Self::new), no after [`none`](Self::none).
    pub fn recursive(mut self, recursive: bool) -> Self {
        self.recursive = recursive;
        self
    }

    /// Adds another rule for requests whose client this rule does not name (nginx: the rule of a
    /// `location`, then that of its `server`).
    pub fn or_else(mut self, other: TrustedProxies) -> Self {
        self.next = Some(Box::new(match self.next {
            Some(next) => next.or_else(other),
            None => other,
        }));
        self
    }

    /// Returns whether `peer` is one of the trusted proxies.
    pub fn trusts(&self, peer: ClientAddr) -> bool {
        self.has(peer) || self.next.as_ref().is_some_and(|next| next.trusts(peer))
    }

    /// Returns whether `peer` is a trusted proxy by this rule alone.
    fn has(&self, peer: ClientAddr) -> bool {
        match peer.ip() {
            // A dual-stack socket shows IPv4 peers as mapped addresses.
            Some(ip) => {
                let ip = ip.to_canonical();
                self.networks.iter().any(|network| network.contains(&ip))
            }
            None => self.unix,
        }
    }

    /// Returns the client behind `peer`; `peer` itself if it is not trusted or names no client.
    pub fn client(&self, peer: ClientAddr, headers: &HeaderMap) -> ClientAddr {
        let named = self.named(peer, headers);
        named.or_else(|| Some(self.next.as_ref()?.client(peer, headers))).unwrap_or(peer)
    }

    /// Returns the client that the header names by this rule alone.
    fn named(&self, peer: ClientAddr, headers: &HeaderMap) -> Option<ClientAddr> {
        if self.networks.is_empty() && !self.unix {
            return None;
        }
        // Proxies append: the last address of the last line is the newest.
        let lines = headers.get_all(&self.header).iter().rev();
        let mut addresses = lines.flat_map(|line| line.as_bytes().rsplit(|byte| matches!(byte, b',' | b' ')));
        let mut named = None;
        while self.has(named.unwrap_or(peer)) {
            let next = addresses.by_ref().find(|address| !address.is_empty());
            let Some(address) = next.and_then(parse) else { break };
            named = Some(address);
            if !self.recursive {
                break;
            }
        }
        named
    }
}

/// Parses an address with or without a port, IPv6 in brackets or bare.
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
    fn only_trusted_peers_name_the_client() {
        let trusted = trust(&["10.0.0.0/8"]);
        assert_eq!(client(&trusted, "192.0.2.1", &["1.1.1.1"]), "192.0.2.1");
        assert_eq!(client(&trusted, "10.0.0.1", &["1.1.1.1"]), "1.1.1.1");
        assert_eq!(client(&trusted, "::ffff:10.0.0.1", &["1.1.1.1"]), "1.1.1.1");
        assert_eq!(client(&TrustedProxies::none(), "10.0.0.1", &["1.1.1.1"]), "10.0.0.1");
    }

    #[test]
    fn the_rightmost_address_that_is_not_trusted_is_the_client() {
        let trusted = trust(&["10.0.0.0/8"]);
        assert_eq!(client(&trusted, "10.0.0.1", &["6.6.6.6, 1.1.1.1, 10.9.9.9"]), "1.1.1.1");
        assert_eq!(client(&trusted, "10.0.0.1", &["6.6.6.6, 1.1.1.1", "10.9.9.9"]), "1.1.1.1");
        assert_eq!(client(&trusted, "10.0.0.1", &["10.1.1.1, 10.2.2.2"]), "10.1.1.1", "all trusted: the first");
        let once = trust(&["10.0.0.0/8"]).recursive(false);
        assert_eq!(client(&once, "10.0.0.1", &["6.6.6.6, 1.1.1.1, 10.9.9.9"]), "10.9.9.9");
    }

    #[test]
    fn a_rule_applies_where_those_before_it_name_no_client() {
        let server = trust(&["10.0.0.0/8"]).header(HeaderName::from_static("x-real-ip"));
        let both = server.or_else(trust(&["10.1.0.0/16", "192.0.2.0/24"]));
        let client = |from: &str, lines: &[(&'static str, &str)]| {
            let lines = lines
                .iter()
                .map(|(name, value)| (HeaderName::from_static(name), http::HeaderValue::from_str(value).unwrap()));
            both.client(peer(from), &lines.collect()).ip().unwrap().to_string()
        };
        assert_eq!(client("10.0.0.1", &[("x-real-ip", "1.1.1.1"), ("x-forwarded-for", "2.2.2.2")]), "1.1.1.1");
        // The client that the first rule names is the client, even if a later rule trusts it.
        assert_eq!(client("10.0.0.1", &[("x-real-ip", "192.0.2.1"), ("x-forwarded-for", "2.2.2.2")]), "192.0.2.1");
        assert_eq!(client("10.1.0.1", &[("x-forwarded-for", "2.2.2.2")]), "2.2.2.2");
        assert_eq!(client("10.0.0.1", &[("x-forwarded-for", "2.2.2.2")]), "10.0.0.1");
        assert!(both.trusts(peer("192.0.2.1")) && both.trusts(peer("10.0.0.1")) && !both.trusts(peer("1.1.1.1")));
    }

    #[test]
    fn a_text_that_is_not_an_address_ends_the_search() {
        let trusted = trust(&["10.0.0.0/8"]);
        assert_eq!(client(&trusted, "10.0.0.1", &["1.1.1.1, unknown"]), "10.0.0.1");
        assert_eq!(client(&trusted, "10.0.0.1", &["1.1.1.1, _hidden, 10.2.2.2"]), "10.2.2.2");
        assert_eq!(client(&trusted, "10.0.0.1", &["\u{1f980}", ""]), "10.0.0.1");
        assert_eq!(client(&trusted, "10.0.0.1", &[]), "10.0.0.1");
    }

    #[test]
    fn addresses_may_have_ports_and_brackets() {
        let trusted = trust(&["10.0.0.0/8"]);
        assert_eq!(client(&trusted, "10.0.0.1", &["1.1.1.1:4711"]), "1.1.1.1");
        assert_eq!(client(&trusted, "10.0.0.1", &["[2001:db8::1]:4711"]), "2001:db8::1");
        assert_eq!(client(&trusted, "10.0.0.1", &["[2001:db8::1]"]), "2001:db8::1");
        assert_eq!(client(&trusted, "10.0.0.1", &["2001:db8::1"]), "2001:db8::1");
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_yield_a_client(line in proptest::collection::vec(0x20_u8..0xff, 0..200)) {
            if let Ok(value) = http::HeaderValue::from_bytes(&line) {
                let mut headers = HeaderMap::new();
                headers.append("x-forwarded-for", value);
                trust(&["0.0.0.0/0"]).client(peer("10.0.0.1"), &headers);
            }
        }
    }
}
