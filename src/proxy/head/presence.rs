use http::header::{self, HeaderMap, HeaderName};

use super::edits::{KEEP_ALIVE, PROXY_CONNECTION};
use crate::header_walk::walk;
use crate::kylin::ROUTED;

/// The headers of a head that the proxy may have to remove or change. One pass over all names costs
/// less than a lookup for each.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct HeaderPresence {
    pub(super) connection: bool,
    pub(super) hop_by_hop: bool,
    /// Any header that [`is_named_by_proxies`], except those that the proxy sets.
    pub(super) named_by_proxies: bool,
    /// Any of the headers by which a proxy names its client.
    pub(crate) names_client: bool,
    /// `Cache-Control` or `Pragma`.
    pub(crate) cache_directives: bool,
    /// The header by which nodes mark requests that they forward.
    pub(crate) routed: bool,
    /// The number of `Cookie` headers.
    pub(super) cookies: usize,
}

impl HeaderPresence {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let mut presence = HeaderPresence::default();
        // Walks lines, not keys: several headers of one name have one key.
        walk(headers).for_each(|(name, _)| presence.note(name));
        presence
    }

    pub(super) fn note(&mut self, name: &HeaderName) {
        let text = name.as_str();
        // The length is matched first, so that most names need no comparison.
        match text.len() {
            2 => self.hop_by_hop |= name == header::TE,
            6 => match name == header::COOKIE {
                true => self.cookies += 1,
                false => {
                    self.routed |= name == ROUTED;
                    self.cache_directives |= name == header::PRAGMA;
                }
            },
            7 => self.hop_by_hop |= name == header::TRAILER || name == header::UPGRADE,
            13 => self.cache_directives |= name == header::CACHE_CONTROL,
            9 => self.named_by_proxies |= is_named_by_proxies(text),
            10 => match name == header::CONNECTION {
                true => self.connection = true,
                false => self.hop_by_hop |= name == KEEP_ALIVE,
            },
            14 => self.hop_by_hop |= name == HTTP2_SETTINGS,
            16 | 18 => self.hop_by_hop |= HOP_BY_HOP.contains(name),
            17 => self.hop_by_hop |= name == header::TRANSFER_ENCODING,
            19 => self.hop_by_hop |= name == header::PROXY_AUTHORIZATION,
            _ => {}
        }
        // Few other names begin so.
        if let [b'x', b'-' | b'_', b'f', ..] = text.as_bytes() {
            self.note_forwarded(text);
        }
    }

    #[cold]
    fn note_forwarded(&mut self, name: &str) {
        let is_one = is_named_by_proxies(name);
        self.names_client |= is_one;
        self.named_by_proxies |= is_one && !SET_BY_PROXY.contains(&name);
    }
}

const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// The headers that belong to one connection, without `Connection` itself (RFC 9110, 7.6.1). A
/// static, because a constant is built and dropped at each use.
pub(super) static HOP_BY_HOP: [HeaderName; 9] = [
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

/// The headers of the family that the proxy sets itself.
pub(super) const SET_BY_PROXY: [&str; 3] = ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"];

/// Returns whether proxies use this header to tell nodes about the client and its request:
/// `Forwarded`, `X-Real-IP`, `X-Forwarded` and all that begin with `X-Forwarded-`. Servers that
/// pass headers on as variables, as with CGI, do not distinguish an underscore from a hyphen.
pub(crate) fn is_named_by_proxies(name: &str) -> bool {
    let is = |known: &[u8]| {
        let mut same = name.bytes().zip(known).map(|(byte, known)| if byte == b'_' { b'-' } else { byte } == *known);
        name.len() >= known.len() && same.all(|is_same| is_same)
    };
    name == header::FORWARDED.as_str()
        || name.len() == 9 && is(b"x-real-ip")
        || is(b"x-forwarded") && matches!(name.as_bytes().get(11), None | Some(b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_header_that_may_have_to_go_is_noted() {
        let noted = |name: &HeaderName| {
            let mut presence = HeaderPresence::default();
            presence.note(name);
            presence
        };
        assert!(HOP_BY_HOP.iter().all(|name| noted(name).hop_by_hop));
        for name in [
            "forwarded",
            "x-real-ip",
            "x_real_ip",
            "x-forwarded",
            "x_forwarded_for",
            "x-forwarded_for",
            "x-forwarded-ssl",
        ] {
            assert!(noted(&HeaderName::from_static(name)).named_by_proxies, "{name}");
        }
        for name in [
            "x-forwarded-for",
            "x-forwarded-proto",
            "x-forwarded-host",
            "x-forwardedfor",
            "x-forward",
            "x-frame-options",
        ] {
            assert!(!noted(&HeaderName::from_static(name)).named_by_proxies, "{name}");
        }
        assert!(noted(&ROUTED).routed);
        assert!(noted(&header::CONNECTION).connection && !noted(&header::CONNECTION).hop_by_hop);
        assert!([header::CACHE_CONTROL, header::PRAGMA].iter().all(|name| noted(name).cache_directives));
        for name in ["for", "proto", "host", "port", "prefix", "ssl"] {
            assert!(noted(&HeaderName::try_from(format!("x-forwarded-{name}")).unwrap()).names_client, "{name}");
        }
        for name in [header::HOST, header::COOKIE, header::AUTHORIZATION, header::CONTENT_TYPE, header::ACCEPT] {
            let presence = noted(&name);
            let HeaderPresence { connection, hop_by_hop, named_by_proxies, names_client, cookies, .. } = presence;
            assert!(!connection && !hop_by_hop && !named_by_proxies && !names_client, "{name}");
            assert!(!presence.cache_directives && !presence.routed, "{name}");
            assert_eq!(cookies, usize::from(name == header::COOKIE));
        }
    }
}
