//! Which client a request is from when proxies stand in front: `ngx_http_realip_module`.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName};

use super::lexer::Word;
use super::values;

/// `set_real_ip_from`, `real_ip_header` and `real_ip_recursive`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RealIp {
    /// Who may say whom it speaks for. Empty: nobody, and [`RealIp::client`] changes nothing.
    pub trusted: Vec<Trusted>,
    /// The field that says it.
    pub header: HeaderName,
    /// True: the last address that is not trusted itself; false: the last address.
    pub recursive: bool,
}

/// Peers that are believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Trusted {
    /// All addresses that share `length` leading bits with `network`.
    Network {
        /// An address of the network.
        network: IpAddr,
        /// The bits that count.
        length: u8,
    },
    /// Every peer on a unix socket.
    Unix,
}

impl Default for RealIp {
    fn default() -> Self {
        RealIp { trusted: Vec::new(), header: HeaderName::from_static("x-real-ip"), recursive: false }
    }
}

impl RealIp {
    /// The client's address for a connection from `peer` (`None`: a unix socket). The port is 0 unless the field names one.
    pub fn client(&self, peer: Option<SocketAddr>, headers: &HeaderMap) -> Option<SocketAddr> {
        let mut client = peer;
        if self.trusted.is_empty() {
            return client;
        }
        // From the right: each hop adds behind what it was told. Only X-Forwarded-For is a list over several lines.
        let mut lines = headers.get_all(&self.header).iter();
        let mut line = if self.header == "x-forwarded-for" { lines.next_back() } else { lines.next() };
        while let Some(value) = line {
            let separator = |byte: &u8| matches!(byte, b' ' | b',');
            let mut rest = value.as_bytes();
            loop {
                if !self.trusts(client) {
                    return client;
                }
                let end = rest.iter().rposition(|byte| !separator(byte)).map_or(0, |at| at + 1);
                rest = &rest[..end];
                let start = rest.iter().rposition(separator).map_or(0, |at| at + 1);
                let Some(address) = std::str::from_utf8(&rest[start..]).ok().and_then(address) else { return client };
                client = Some(address);
                if !self.recursive {
                    return client;
                }
                if start == 0 {
                    break;
                }
                rest = &rest[..start - 1];
            }
            line = if self.header == "x-forwarded-for" { lines.next_back() } else { None };
        }
        client
    }

    fn trusts(&self, peer: Option<SocketAddr>) -> bool {
        self.trusted.iter().any(|trusted| match (trusted, peer) {
            (Trusted::Unix, None) => true,
            (Trusted::Network { network, length }, Some(peer)) => contains(*network, *length, peer.ip()),
            _ => false,
        })
    }
}

/// `1.2.3.4`, `1.2.3.4:5`, `::1` or `[::1]:5`.
fn address(text: &str) -> Option<SocketAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    bare.parse().map(|ip: IpAddr| SocketAddr::new(ip, 0)).or_else(|_| text.parse()).ok()
}

fn contains(network: IpAddr, length: u8, ip: IpAddr) -> bool {
    let shared = |a: u128, b: u128, bits: u8| (a ^ b).checked_shr(u32::from(bits - length.min(bits))).unwrap_or(0) == 0;
    match (network, ip) {
        (IpAddr::V4(network), IpAddr::V4(ip)) => shared(network.to_bits().into(), ip.to_bits().into(), 32),
        (IpAddr::V6(network), IpAddr::V6(ip)) => shared(network.to_bits(), ip.to_bits(), 128),
        // A socket for both families shows IPv4 clients in this form.
        (IpAddr::V4(network), IpAddr::V6(ip)) => {
            ip.to_ipv4_mapped().is_some_and(|ip| shared(network.to_bits().into(), ip.to_bits().into(), 32))
        }
        (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}

impl Trusted {
    pub(super) fn read(word: &Word) -> Result<Trusted, super::error::Fault> {
        let text = word.text.as_str();
        if text == "unix:" {
            return Ok(Trusted::Unix);
        }
        let read = match text.split_once('/') {
            None => text.parse().ok().map(|ip: IpAddr| (ip, None)),
            Some((ip, length)) => ip.parse().ok().zip(length.parse().ok()).map(|(ip, length)| (ip, Some(length))),
        };
        let read = read.and_then(|(network, length)| {
            let bits = if network.is_ipv4() { 32 } else { 128 };
            let length = length.unwrap_or(bits);
            (length <= bits).then_some(Trusted::Network { network, length })
        });
        read.ok_or_else(|| {
            values::invalid(word, "trusted address")
                .expecting("ADDRESS, ADDRESS/BITS or unix: (names are not looked up)")
        })
    }
}

impl fmt::Display for Trusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trusted::Unix => f.write_str("unix:"),
            Trusted::Network { network, length: 32 } if network.is_ipv4() => network.fmt(f),
            Trusted::Network { network, length: 128 } => network.fmt(f),
            Trusted::Network { network, length } => write!(f, "{network}/{length}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(header: &'static str, recursive: bool) -> RealIp {
        let network = |ip: &str, length| Trusted::Network { network: ip.parse().unwrap(), length };
        RealIp {
            trusted: vec![network("10.0.0.0", 8), network("fd00::", 8), Trusted::Unix],
            header: HeaderName::from_static(header),
            recursive,
        }
    }

    fn client(rule: &RealIp, peer: Option<&str>, lines: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(rule.header.clone(), line.parse().unwrap());
        }
        let peer = peer.map(|peer| SocketAddr::new(peer.parse().unwrap(), 1));
        rule.client(peer, &headers).map_or_else(|| "unix".into(), |address| address.ip().to_string())
    }

    #[test]
    fn only_trusted_peers_are_believed() {
        let rule = rule("x-real-ip", false);
        assert_eq!(client(&rule, Some("10.1.2.3"), &["1.2.3.4"]), "1.2.3.4");
        assert_eq!(client(&rule, Some("::ffff:10.1.2.3"), &["1.2.3.4"]), "1.2.3.4");
        assert_eq!(client(&rule, Some("fd12::1"), &["2001:db8::1"]), "2001:db8::1");
        assert_eq!(client(&rule, None, &["1.2.3.4"]), "1.2.3.4");
        assert_eq!(client(&rule, Some("11.1.2.3"), &["1.2.3.4"]), "11.1.2.3");
        assert_eq!(client(&rule, Some("10.1.2.3"), &["nonsense"]), "10.1.2.3");
        assert_eq!(client(&rule, Some("10.1.2.3"), &[]), "10.1.2.3");
        assert_eq!(client(&RealIp::default(), Some("10.1.2.3"), &["1.2.3.4"]), "10.1.2.3");
    }

    #[test]
    fn the_list_is_read_from_the_right() {
        let last = rule("x-forwarded-for", false);
        assert_eq!(client(&last, Some("10.0.0.1"), &["8.8.8.8, 10.0.0.2"]), "10.0.0.2");
        let recursive = rule("x-forwarded-for", true);
        assert_eq!(client(&recursive, Some("10.0.0.1"), &["8.8.8.8, 9.9.9.9,10.0.0.2 , "]), "9.9.9.9");
        assert_eq!(client(&recursive, Some("10.0.0.1"), &["8.8.8.8", "10.0.0.2"]), "8.8.8.8");
        assert_eq!(client(&recursive, Some("10.0.0.1"), &["10.0.0.3, 10.0.0.2"]), "10.0.0.3");
        assert_eq!(client(&recursive, Some("10.0.0.1"), &["x, 10.0.0.2:80"]), "10.0.0.2");
    }
}
