//! Fields that belong to one connection, and fields that tell the node about the client.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr};

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::request::ClientAddr;

pub(super) const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
pub(super) const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED: HeaderName = HeaderName::from_static("forwarded");

/// Which fields a head has that may have to go or to be changed. To see all names pass costs less than to look these up.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Found {
    connection: bool,
    hop_by_hop: bool,
    told_by_proxies: bool,
    cookies: usize,
}

impl Found {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let mut found = Found::default();
        // Not by keys, of which there is one for all fields of a name.
        headers.iter().for_each(|(name, _)| found.note(name));
        found
    }

    pub(super) fn note(&mut self, name: &HeaderName) {
        // By length first: no comparison at all for most names.
        match name.as_str().len() {
            6 => self.cookies += usize::from(name == header::COOKIE),
            9 => self.told_by_proxies |= TOLD_BY_PROXIES.contains(name),
            10 if name == header::CONNECTION => self.connection = true,
            16 | 18 => {
                self.told_by_proxies |= TOLD_BY_PROXIES.contains(name);
                self.hop_by_hop |= HOP_BY_HOP.contains(name);
            }
            2 | 7 | 10 | 14 | 17 | 19 => self.hop_by_hop |= HOP_BY_HOP.contains(name),
            _ => {}
        }
    }
}

/// Removes what is meant for this connection only (RFC 9110, 7.6.1), the fields that `Connection` names included.
///
/// `Connection` cannot name fields on which framing, routing or identity rest: a client could otherwise have the front end
/// take them away from itself or from others (CVE-2022-31813).
pub(super) fn remove_hop_by_hop(headers: &mut HeaderMap, found: Found) {
    if found.connection {
        for nominated in nominated(headers) {
            headers.remove(nominated);
        }
        headers.remove(header::CONNECTION);
    }
    if found.hop_by_hop {
        for field in &HOP_BY_HOP {
            headers.remove(field);
        }
    }
}

// Statics, for a constant of names is made and dropped wherever it is used.
static HOP_BY_HOP: [HeaderName; 9] = [
    KEEP_ALIVE,
    PROXY_CONNECTION,
    HTTP2_SETTINGS,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
];

fn nominated(headers: &HeaderMap) -> Vec<HeaderName> {
    headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        // These two name no field that would not go anyway, and are nearly all there is.
        .filter(|option| !(option.eq_ignore_ascii_case(b"keep-alive") || option.eq_ignore_ascii_case(b"close")))
        .filter_map(|option| HeaderName::from_bytes(option).ok())
        .filter(|name| !is_protected(name))
        .collect()
}

fn is_protected(name: &HeaderName) -> bool {
    static PROTECTED: [HeaderName; 7] = [
        header::HOST,
        header::CONTENT_LENGTH,
        header::CONTENT_TYPE,
        header::AUTHORIZATION,
        header::COOKIE,
        header::SET_COOKIE,
        FORWARDED,
    ];
    PROTECTED.contains(name) || name.as_str().starts_with("x-forwarded-")
}

/// HTTP/2 clients send each cookie in a line of its own; on HTTP/1.1 they belong into one (RFC 9113, 8.2.3).
pub(super) fn join_cookies(headers: &mut HeaderMap, found: Found) {
    if found.cookies < 2 {
        return;
    }
    let lines: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(whole) = HeaderValue::from_maybe_shared(bytes::Bytes::from(lines.join(&b"; "[..]))) {
        headers.insert(header::COOKIE, whole);
    }
}

/// What else proxies tell of a client, and a stranger might.
static TOLD_BY_PROXIES: [HeaderName; 4] = [
    FORWARDED,
    HeaderName::from_static("x-real-ip"),
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-forwarded-server"),
];

/// Tells the node who the client is. A trusted peer's own word is continued, anybody else's is replaced.
pub(super) fn set_forwarded(
    headers: &mut HeaderMap,
    found: Found,
    peer: ClientAddr,
    trusted: bool,
    secure: bool,
    host: Option<&HeaderValue>,
) {
    let mut text = [0; 46];
    let address = address(peer, &mut text);
    let chain = if trusted {
        let before = headers.get_all(&X_FORWARDED_FOR).iter().filter_map(|line| line.to_str().ok());
        let whole: String = before.flat_map(|line| [line, ", "]).chain([address]).collect();
        HeaderValue::from_str(&whole)
    } else {
        if found.told_by_proxies {
            for told in &TOLD_BY_PROXIES {
                headers.remove(told);
            }
        }
        HeaderValue::from_str(address)
    };
    if let Ok(chain) = chain {
        headers.insert(X_FORWARDED_FOR, chain);
    }
    if !(trusted && headers.contains_key(&X_FORWARDED_PROTO)) {
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(if secure { "https" } else { "http" }));
    }
    if !(trusted && headers.contains_key(&X_FORWARDED_HOST)) {
        match host {
            Some(host) => _ = headers.insert(X_FORWARDED_HOST, host.clone()),
            None => _ = headers.remove(X_FORWARDED_HOST),
        }
    }
}

/// The peer's address in `text`, which has room for any.
fn address(peer: ClientAddr, text: &mut [u8; 46]) -> &str {
    let length = match peer.ip().map(|ip| ip.to_canonical()) {
        Some(IpAddr::V4(ip)) => dotted(ip, text),
        Some(IpAddr::V6(ip)) => {
            let mut rest = &mut text[..];
            // There is always room.
            _ = write!(rest, "{ip}");
            46 - rest.len()
        }
        None => return "unknown",
    };
    std::str::from_utf8(&text[..length]).unwrap_or("unknown")
}

/// Writes the address, and returns its length. Formatting takes ten times as long, for every request.
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

    fn map(fields: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_bytes(value.as_bytes()).unwrap(),
            );
        }
        headers
    }

    #[test]
    fn removes_what_belongs_to_the_connection_and_what_it_names() {
        let mut headers = map(&[
            ("connection", "X-Secret, close"),
            ("connection", "x-other"),
            ("x-secret", "1"),
            ("x-other", "2"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("te", "trailers"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAM"),
            ("proxy-authorization", "Basic eA=="),
            ("accept", "*/*"),
        ]);
        let found = Found::of(&headers);
        remove_hop_by_hop(&mut headers, found);
        assert_eq!(headers, map(&[("accept", "*/*")]));
    }

    #[test]
    fn connection_cannot_name_what_framing_routing_or_identity_rest_on() {
        let kept = [
            ("host", "kylin"),
            ("content-length", "3"),
            ("authorization", "Basic eA=="),
            ("cookie", "JSESSIONID=1"),
            ("x-forwarded-for", "1.1.1.1"),
        ];
        let mut headers = map(&kept);
        let names = kept.map(|(name, _)| name).join(", ");
        headers.append(header::CONNECTION, names.parse().unwrap());
        let found = Found::of(&headers);
        remove_hop_by_hop(&mut headers, found);
        assert_eq!(headers, map(&kept));
    }

    #[test]
    fn addresses_are_written_as_usual() {
        for ip in [
            "0.0.0.0",
            "1.20.99.100",
            "255.255.255.255",
            "10.0.0.199",
            "2001:db8::7",
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        ] {
            let parsed = ip.parse::<std::net::IpAddr>().unwrap();
            assert_eq!(address(parsed.into(), &mut [0; 46]), ip);
        }
        let mapped = "::ffff:10.1.2.3".parse::<std::net::IpAddr>().unwrap();
        assert_eq!(address(mapped.into(), &mut [0; 46]), "10.1.2.3");
        assert_eq!(address(ClientAddr::Unix, &mut [0; 46]), "unknown");
    }

    #[test]
    fn forwarded_fields_of_strangers_are_replaced_and_of_trusted_proxies_continued() {
        let sent =
            [("host", "kylin"), ("x-forwarded-for", "6.6.6.6"), ("x-forwarded-proto", "https"), ("forwarded", "for=x")];
        let peer = ClientAddr::from("10.0.0.1".parse::<std::net::IpAddr>().unwrap());

        let mut headers = map(&sent);
        let found = Found::of(&headers);
        set_forwarded(&mut headers, found, peer, false, false, Some(&HeaderValue::from_static("kylin")));
        assert_eq!(headers["x-forwarded-for"], "10.0.0.1");
        assert_eq!(headers["x-forwarded-proto"], "http");
        assert_eq!(headers["x-forwarded-host"], "kylin");
        assert!(!headers.contains_key("forwarded"));

        let mut headers = map(&sent);
        headers.append("x-forwarded-for", HeaderValue::from_static("7.7.7.7"));
        let found = Found::of(&headers);
        set_forwarded(&mut headers, found, peer, true, false, None);
        assert_eq!(headers.get_all("x-forwarded-for").iter().collect::<Vec<_>>(), ["6.6.6.6, 7.7.7.7, 10.0.0.1"]);
        assert_eq!(headers["x-forwarded-proto"], "https");
    }

    proptest::proptest! {
        #[test]
        fn no_connection_field_removes_a_protected_one(line in "[ -~]{0,80}") {
            let mut headers = map(&[("host", "kylin"), ("cookie", "a=b"), ("content-length", "0")]);
            headers.append(header::CONNECTION, HeaderValue::from_str(&line).unwrap());
            let found = Found::of(&headers);
            remove_hop_by_hop(&mut headers, found);
            proptest::prop_assert!(headers.len() == 3 && !headers.contains_key(header::CONNECTION));
        }
    }

    #[test]
    fn every_field_that_may_have_to_go_is_found() {
        let found = |name: &HeaderName| {
            let mut found = Found::default();
            found.note(name);
            found
        };
        assert!(HOP_BY_HOP.iter().all(|name| found(name).hop_by_hop));
        assert!(TOLD_BY_PROXIES.iter().all(|name| found(name).told_by_proxies));
        assert!(found(&header::CONNECTION).connection && !found(&header::CONNECTION).hop_by_hop);
        for name in [header::HOST, header::COOKIE, header::AUTHORIZATION, header::CONTENT_TYPE, header::ACCEPT] {
            let Found { connection, hop_by_hop, told_by_proxies, cookies } = found(&name);
            assert!(!connection && !hop_by_hop && !told_by_proxies, "{name}");
            assert_eq!(cookies, usize::from(name == header::COOKIE));
        }
    }

    #[test]
    fn cookies_of_several_lines_are_joined() {
        let mut headers = HeaderMap::new();
        for line in ["a=1", "b=2; c=3", "d=4"] {
            headers.append(header::COOKIE, HeaderValue::from_static(line));
        }
        let found = Found::of(&headers);
        join_cookies(&mut headers, found);
        assert_eq!(headers.get_all(header::COOKIE).iter().collect::<Vec<_>>(), ["a=1; b=2; c=3; d=4"]);
    }
}
