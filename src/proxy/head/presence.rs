use http::header::{self, HeaderMap, HeaderName};

use super::edits::{KEEP_ALIVE, PROXY_CONNECTION};
use crate::header_walk::walk;
use crate::kylin::ROUTED;

/// The headers of a head that the proxy may have to remove or change. One pass over all names costs less than a lookup for
/// each.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct HeaderPresence {
    pub(super) connection: bool,
    pub(super) hop_by_hop: bool,
    /// Any of [`NAMED_BY_PROXIES`].
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
        // Not the keys: several headers of one name have one key.
        walk(headers).for_each(|(name, _)| presence.note(name));
        presence
    }

    pub(super) fn note(&mut self, name: &HeaderName) {
        // The length is matched first, so that most names need no comparison.
        match name.as_str().len() {
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
            9 => self.named_by_proxies |= NAMED_BY_PROXIES.contains(name),
            10 => match name == header::CONNECTION {
                true => self.connection = true,
                false => self.hop_by_hop |= name == KEEP_ALIVE,
            },
            14 => self.hop_by_hop |= name == HTTP2_SETTINGS,
            15 => self.names_client |= name == "x-forwarded-for",
            16 | 18 => {
                self.named_by_proxies |= NAMED_BY_PROXIES.contains(name);
                self.names_client |= name.as_str().starts_with("x-forwarded-");
                self.hop_by_hop |= HOP_BY_HOP.contains(name);
            }
            17 => {
                self.names_client |= name == "x-forwarded-proto";
                self.hop_by_hop |= name == header::TRANSFER_ENCODING;
            }
            19 => self.hop_by_hop |= name == header::PROXY_AUTHORIZATION,
            _ => {}
        }
    }
}

const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// The headers that belong to one connection, without `Connection` itself (RFC 9110, 7.6.1). A static, because a constant is
/// built and dropped at each use.
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

/// The headers, besides those that the proxy sets, in which proxies name the client.
pub(super) static NAMED_BY_PROXIES: [HeaderName; 4] = [
    header::FORWARDED,
    HeaderName::from_static("x-real-ip"),
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-forwarded-server"),
];

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
        assert!(NAMED_BY_PROXIES.iter().all(|name| noted(name).named_by_proxies));
        assert!(noted(&ROUTED).routed);
        assert!(noted(&header::CONNECTION).connection && !noted(&header::CONNECTION).hop_by_hop);
        assert!([header::CACHE_CONTROL, header::PRAGMA].iter().all(|name| noted(name).cache_directives));
        for name in ["for", "proto", "host", "port"] {
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
