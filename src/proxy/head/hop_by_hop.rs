use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::presence::{HOP_BY_HOP, HeaderPresence, is_named_by_proxies};

/// Removes the headers of one connection (RFC 9110, 7.6.1), with those that `Connection` names.
///
/// Headers that framing, routing, identity or tracing depend on stay even if `Connection` names
/// them. Otherwise a client could make the proxy drop headers that nodes rely on (CVE-2022-31813).
pub(crate) fn remove_hop_by_hop(headers: &mut HeaderMap, presence: HeaderPresence) {
    if presence.connection {
        for name in named_by_connection(headers) {
            headers.remove(name);
        }
        headers.remove(header::CONNECTION);
    }
    if presence.hop_by_hop {
        for name in &HOP_BY_HOP {
            headers.remove(name);
        }
    }
}

fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        // Nearly all options are these two, and they name no header that has to be removed.
        .filter(|option| !(option.eq_ignore_ascii_case(b"keep-alive") || option.eq_ignore_ascii_case(b"close")))
        .filter_map(|option| HeaderName::from_bytes(option).ok())
        .filter(|name| !is_protected(name))
        .collect()
}

fn is_protected(name: &HeaderName) -> bool {
    static PROTECTED: [HeaderName; 9] = [
        header::HOST,
        header::CONTENT_LENGTH,
        header::CONTENT_TYPE,
        header::AUTHORIZATION,
        header::COOKIE,
        header::SET_COOKIE,
        // Operators trace a request by these.
        HeaderName::from_static("x-request-id"),
        HeaderName::from_static("traceparent"),
        HeaderName::from_static("tracestate"),
    ];
    PROTECTED.contains(name) || is_named_by_proxies(name.as_str())
}

/// Joins several `Cookie` headers into one. HTTP/2 clients may split them; HTTP/1.1 allows one (RFC
/// 9113, 8.2.3).
pub(crate) fn join_cookies(headers: &mut HeaderMap, presence: HeaderPresence) {
    if presence.cookies < 2 {
        return;
    }
    let lines: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_maybe_shared(bytes::Bytes::from(lines.join(&b"; "[..]))) {
        headers.insert(header::COOKIE, joined);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(headers: &[(&str, &str)]) -> HeaderMap {
        let header = |(name, value): &(&str, &str)| {
            (HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap())
        };
        let mut map = HeaderMap::new();
        headers.iter().map(header).for_each(|(name, value)| _ = map.append(name, value));
        map
    }

    #[test]
    fn headers_of_the_connection_and_those_that_it_names_are_removed() {
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
        let presence = HeaderPresence::of(&headers);
        remove_hop_by_hop(&mut headers, presence);
        assert_eq!(headers, map(&[("accept", "*/*")]));
    }

    #[test]
    fn connection_cannot_name_headers_of_framing_routing_or_identity() {
        let kept = [
            ("host", "kylin"),
            ("content-length", "3"),
            ("authorization", "Basic eA=="),
            ("cookie", "JSESSIONID=1"),
            ("x-forwarded-for", "1.1.1.1"),
            ("x-request-id", "a1"),
            ("traceparent", "00-1-2-01"),
            ("tracestate", "a=1"),
        ];
        let mut headers = map(&kept);
        let names = kept.map(|(name, _)| name).join(", ");
        headers.append(header::CONNECTION, names.parse().unwrap());
        let presence = HeaderPresence::of(&headers);
        remove_hop_by_hop(&mut headers, presence);
        assert_eq!(headers, map(&kept));
    }

    #[test]
    fn several_cookie_headers_become_one() {
        let mut headers = HeaderMap::new();
        for line in ["a=1", "b=2; c=3", "d=4"] {
            headers.append(header::COOKIE, HeaderValue::from_static(line));
        }
        let presence = HeaderPresence::of(&headers);
        join_cookies(&mut headers, presence);
        assert_eq!(headers.get_all(header::COOKIE).iter().collect::<Vec<_>>(), ["a=1; b=2; c=3; d=4"]);
    }

    proptest::proptest! {
        #[test]
        fn no_connection_header_removes_a_protected_one(line in "[ -~]{0,80}") {
            let mut headers = map(&[("host", "kylin"), ("cookie", "a=b"), ("content-length", "0")]);
            headers.append(header::CONNECTION, HeaderValue::from_str(&line).unwrap());
            let presence = HeaderPresence::of(&headers);
            remove_hop_by_hop(&mut headers, presence);
            proptest::prop_assert!(headers.len() == 3 && !headers.contains_key(header::CONNECTION));
        }
    }
}
