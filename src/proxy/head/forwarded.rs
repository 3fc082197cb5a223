use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr};

use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::presence::{HeaderPresence, SET_BY_PROXY, is_named_by_proxies};
use crate::header_walk::walk;
use crate::request::ClientAddr;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// The facts about the client that go into `X-Forwarded-For`, `-Proto` and `-Host`.
pub(crate) struct Forwarded<'r> {
    pub(crate) peer: ClientAddr,
    /// The peer is a trusted proxy: its headers are continued. Otherwise they are replaced.
    pub(crate) is_trusted: bool,
    pub(crate) is_secure: bool,
    pub(crate) host: Option<&'r HeaderValue>,
}

impl Forwarded<'_> {
    /// Names the client in the headers for the node.
    pub(crate) fn apply(&self, headers: &mut HeaderMap, presence: HeaderPresence) {
        let mut text = [0; 46];
        let address = address(self.peer, &mut text);
        let chain = if self.is_trusted {
            let before = headers.get_all(&X_FORWARDED_FOR).iter().filter_map(|line| line.to_str().ok());
            let chain: Vec<&[u8]> = before.map(str::as_bytes).chain([address]).collect();
            HeaderValue::from_bytes(&chain.join(&b", "[..]))
        } else {
            if presence.named_by_proxies {
                remove_others(headers);
            }
            HeaderValue::from_bytes(address)
        };
        if let Ok(chain) = chain {
            headers.insert(X_FORWARDED_FOR, chain);
        }
        if !(self.is_trusted && headers.contains_key(&X_FORWARDED_PROTO)) {
            let scheme = if self.is_secure { "https" } else { "http" };
            headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(scheme));
        }
        if !(self.is_trusted && headers.contains_key(&X_FORWARDED_HOST)) {
            match self.host {
                Some(host) => _ = headers.insert(X_FORWARDED_HOST, host.clone()),
                None => _ = headers.remove(X_FORWARDED_HOST),
            }
        }
    }
}

/// Removes the headers in which proxies name the client, except those that the proxy sets anyway.
fn remove_others(headers: &mut HeaderMap) {
    let is_other = |name: &&HeaderName| is_named_by_proxies(name.as_str()) && !SET_BY_PROXY.contains(&name.as_str());
    let names: Vec<HeaderName> = walk(headers).map(|(name, _)| name).filter(is_other).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

/// Writes the address of `peer` into `text`, which is long enough for any address.
fn address(peer: ClientAddr, text: &mut [u8; 46]) -> &[u8] {
    let length = match peer.ip().map(|ip| ip.to_canonical()) {
        Some(IpAddr::V4(ip)) => dotted(ip, text),
        Some(IpAddr::V6(ip)) => {
            let mut rest = &mut text[..];
            // An address of IPv6 has at most 46 characters.
            _ = write!(rest, "{ip}");
            46 - rest.len()
        }
        None => return b"unknown",
    };
    &text[..length]
}

/// Writes an address of IPv4 and returns its length. The formatter of the standard library takes
/// ten times as long.
fn dotted(ip: Ipv4Addr, text: &mut [u8; 46]) -> usize {
    let mut length = 0;
    let mut push = |byte| {
        text[length] = byte;
        length += 1;
    };
    for (index, number) in ip.octets().into_iter().enumerate() {
        if index > 0 {
            push(b'.');
        }
        if number >= 100 {
            push(b'0' + number / 100);
        }
        if number >= 10 {
            push(b'0' + number / 10 % 10);
        }
        push(b'0' + number % 10);
    }
    length
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_like_by_the_standard_library() {
        for ip in [
            "0.0.0.0",
            "1.20.99.100",
            "255.255.255.255",
            "10.0.0.199",
            "2001:db8::7",
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        ] {
            let parsed = ip.parse::<std::net::IpAddr>().unwrap();
            assert_eq!(address(parsed.into(), &mut [0; 46]), ip.as_bytes());
        }
        let mapped = "::ffff:10.1.2.3".parse::<std::net::IpAddr>().unwrap();
        assert_eq!(address(mapped.into(), &mut [0; 46]), b"10.1.2.3");
        assert_eq!(address(ClientAddr::Unix, &mut [0; 46]), b"unknown");
    }

    #[test]
    fn forwarded_headers_are_replaced_unless_a_trusted_proxy_sent_them() {
        let sent =
            [("host", "kylin"), ("x-forwarded-for", "6.6.6.6"), ("x-forwarded-proto", "https"), ("forwarded", "for=x")];
        let peer = ClientAddr::from("10.0.0.1".parse::<std::net::IpAddr>().unwrap());

        let mut headers = map(&sent);
        let presence = HeaderPresence::of(&headers);
        let host = HeaderValue::from_static("kylin");
        let stranger = Forwarded { peer, is_trusted: false, is_secure: false, host: Some(&host) };
        stranger.apply(&mut headers, presence);
        assert_eq!(headers["x-forwarded-for"], "10.0.0.1");
        assert_eq!(headers["x-forwarded-proto"], "http");
        assert_eq!(headers["x-forwarded-host"], "kylin");
        assert!(!headers.contains_key("forwarded"));

        let mut headers = map(&sent);
        headers.append("x-forwarded-for", HeaderValue::from_static("7.7.7.7"));
        let presence = HeaderPresence::of(&headers);
        Forwarded { is_trusted: true, host: None, ..stranger }.apply(&mut headers, presence);
        assert_eq!(headers.get_all("x-forwarded-for").iter().collect::<Vec<_>>(), ["6.6.6.6, 7.7.7.7, 10.0.0.1"]);
        assert_eq!(headers["x-forwarded-proto"], "https");

        let sent = [("x-forwarded-proto", "https"), ("x-forwarded-host", "public"), ("x-forwarded-port", "443")];
        for is_trusted in [true, false] {
            let mut headers = map(&sent);
            let presence = HeaderPresence::of(&headers);
            assert!(presence.names_client);
            Forwarded { is_trusted, host: Some(&host), ..stranger }.apply(&mut headers, presence);
            for (name, value) in sent {
                assert_eq!(headers.get(name).is_some_and(|kept| kept == value), is_trusted, "{name}");
            }
        }
    }

    fn map(headers: &[(&str, &str)]) -> HeaderMap {
        let header = |(name, value): &(&str, &str)| {
            (HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap())
        };
        let mut map = HeaderMap::new();
        headers.iter().map(header).for_each(|(name, value)| _ = map.append(name, value));
        map
    }
}
