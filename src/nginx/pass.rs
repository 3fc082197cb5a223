//! `proxy_pass`: to which group a location's requests go, and under which URI.

use std::borrow::Cow;

use super::address;
use super::config::Reader;
use super::error::{ErrorKind, Fault};
use super::lexer::Word;
use super::location::Matcher;
use super::redirect::{Redirect, RedirectRule};
use super::upstream::Upstream;
use super::uri::escape;
use super::values;
use super::variables::{Scope, Template};
use crate::backend::http1::Address;

/// Where a location sends its requests.
#[derive(Debug, Clone)]
pub(crate) struct ProxyPass {
    /// The position of the group in [`Config::upstreams`](super::Config::upstreams).
    pub(crate) upstream: usize,
    /// `$proxy_host`: what nginx sends as `Host` when no `proxy_set_header` says otherwise.
    pub(crate) host: String,
    /// The target as written.
    pub(crate) written: String,
    /// How the URI is made.
    pub(crate) uri: PassUri,
    redirects: Vec<Redirect>,
}

/// Prefixes of a `Location`, and what replaces each.
pub(crate) type Redirects<'s> = Vec<(Cow<'s, [u8]>, Cow<'s, [u8]>)>;

/// How the URI for the node is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PassUri {
    /// As received.
    Unchanged,
    /// So many bytes of the normalised path are replaced.
    Replace {
        /// The length of what the location matched.
        prefix: usize,
        /// What stands in its place.
        with: String,
    },
    /// The normalised path, escaped again (`$uri`).
    Normalised {
        /// Whether the query follows (`$uri$is_args$args`).
        query: bool,
    },
}

impl ProxyPass {
    /// Path and query for the node. `path` is `request_uri` [normalised](super::normalise).
    pub(crate) fn upstream_uri<'r>(&self, request_uri: &'r str, path: &[u8]) -> Cow<'r, str> {
        let target = request_uri.split('#').next().unwrap_or_default();
        let (raw, query) = target.split_once('?').map_or((target, None), |(raw, query)| (raw, Some(query)));
        let query = query.filter(|query| !query.is_empty());
        let (mut uri, rest, query) = match &self.uri {
            PassUri::Unchanged => return Cow::Borrowed(request_uri),
            PassUri::Replace { prefix, with } => (with.clone(), path.get(*prefix..).unwrap_or_default(), query),
            PassUri::Normalised { query: with_query } => (String::new(), path, query.filter(|_| *with_query)),
        };
        // nginx escapes again only what was escaped.
        match std::str::from_utf8(rest) {
            Ok(rest) if rest.is_ascii() && !raw.contains('%') => uri.push_str(rest),
            _ => uri.push_str(&escape(rest)),
        }
        if let Some(query) = query {
            uri.push('?');
            uri.push_str(query);
        }
        Cow::Owned(uri)
    }

    /// The prefixes of a `Location` in a node's answer that are replaced, and by what.
    pub(crate) fn redirects(&self, scope: &Scope<'_>) -> Redirects<'_> {
        self.redirects.iter().map(|redirect| (redirect.from.value(scope), redirect.to.value(scope))).collect()
    }

    pub(super) fn read(
        word: &Word,
        at: &Matcher,
        rules: &[RedirectRule],
        reader: &mut Reader<'_>,
    ) -> Result<ProxyPass, Fault> {
        let unsupported =
            |message: &str, expected: &str| Fault::new(ErrorKind::Unsupported, word.span, message).expecting(expected);
        let text = word.text.as_str();
        let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
        if scheme.eq_ignore_ascii_case("https") {
            return Err(unsupported("https to a node is not supported", "http://..."));
        }
        if !scheme.eq_ignore_ascii_case("http") {
            return Err(values::invalid(word, "URL")
                .expecting("http://UPSTREAM[/URI], http://HOST[:PORT][/URI] or http://unix:PATH[:/URI]"));
        }
        let (authority, uri) = match rest.strip_prefix("unix:") {
            Some(path) => {
                let (path, uri) = path.split_once(':').unwrap_or((path, ""));
                (&rest[..path.len() + "unix:".len()], uri)
            }
            None => rest.split_at(rest.find(['/', '?', '#', '$']).unwrap_or(rest.len())),
        };
        let variables = "http://UPSTREAM$request_uri, or $uri or $uri$is_args$args in its place; no other variables";
        let uri = match (uri, at) {
            ("" | "$request_uri", _) => PassUri::Unchanged,
            ("$uri" | "$uri$is_args$args", _) => PassUri::Normalised { query: uri.len() > 4 },
            (uri, _) if uri.contains('$') => {
                return Err(unsupported("variables in proxy_pass are not supported", variables));
            }
            (uri, _) if !uri.starts_with('/') || !is_sendable(uri) => {
                return Err(values::invalid(word, "URI in proxy_pass")
                    .expecting("a path that begins with \"/\" and is escaped"));
            }
            (_, Matcher::Regex(_)) => {
                let message = "proxy_pass cannot have a URI part in a location given by a regular expression";
                return Err(Fault::new(ErrorKind::Value, word.span, message).expecting(format!("http://{authority}")));
            }
            (with, at) => PassUri::Replace { prefix: at.text().len(), with: with.to_owned() },
        };
        if matches!(uri, PassUri::Normalised { .. }) {
            reader.note(word.span, "proxy_pass with $uri: the path is escaped again, where nginx sends it decoded");
        }
        let (upstream, host) = group(authority, word, reader)?;
        let url = &text[..scheme.len() + 3 + authority.len()];
        let default = match &uri {
            PassUri::Unchanged if text.contains('$') => None,
            PassUri::Unchanged => Some((format!("{url}/"), "/".to_owned())),
            PassUri::Replace { .. } => Some((text.to_owned(), at.text().to_owned())),
            PassUri::Normalised { .. } => None,
        };
        let default = default.map(|(from, to)| Redirect { from: Template::literal(&from), to: Template::literal(&to) });
        let off = rules.iter().any(|rule| matches!(rule, RedirectRule::Off));
        let redirects = match rules {
            _ if off => Vec::new(),
            [] => default.into_iter().collect(),
            rules => rules
                .iter()
                .filter_map(|rule| match rule {
                    RedirectRule::Replace(redirect) => Some(redirect.clone()),
                    _ => default.clone(),
                })
                .collect(),
        };
        Ok(ProxyPass { upstream, host, written: text.to_owned(), uri, redirects })
    }
}

/// The group that is meant, which for a plain host is made here, and its `$proxy_host`.
fn group(authority: &str, word: &Word, reader: &mut Reader<'_>) -> Result<(usize, String), Fault> {
    let named = |name: &str, reader: &Reader<'_>| reader.upstream(name);
    if let Some(upstream) = named(authority, reader) {
        return Ok((upstream, authority.to_owned()));
    }
    let written = address::parse(authority, 80).map_err(|reason| {
        values::invalid(word, "host in proxy_pass")
            .expecting(format!("the name of an upstream, HOST[:PORT] or unix:PATH ({reason})"))
    })?;
    let (name, host) = match (&written.address, written.port) {
        (Address::Unix(_), _) => (authority.to_owned(), "localhost".to_owned()),
        (address, port) => {
            let bare = port
                .map_or(authority, |port| authority.strip_suffix(&port.to_string()).unwrap_or(authority))
                .trim_end_matches(':');
            if named(bare, reader).is_some_and(|known| reader.is_declared(known)) {
                let message = format!("upstream \"{bare}\" may not have a port");
                return Err(Fault::new(ErrorKind::Value, word.span, message).expecting(format!("http://{bare}")));
            }
            let host = if port.is_none_or(|port| port == 80) { bare } else { authority };
            (address.to_string(), host.to_owned())
        }
    };
    if let Some(upstream) = named(&name, reader) {
        return Ok((upstream, host));
    }
    Ok((reader.add_upstream(Upstream::of_host(name, written.address)), host))
}

/// True when a text can stand in a request line as it is.
fn is_sendable(uri: &str) -> bool {
    uri.bytes().all(|byte| {
        (0x21..0x7f).contains(&byte)
            && !matches!(byte, b'#' | b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}')
    })
}
