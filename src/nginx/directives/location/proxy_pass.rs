//! `proxy_pass`: the group that a location's requests go to, and the URI that they have there.

use std::borrow::Cow;

use super::Matcher;
use crate::backend::http1::Address;
use crate::kylin::NormalizedPath;
use crate::nginx::directives::context::ReadContext;
use crate::nginx::directives::settings::{BlockSettings, NodeSide, Redirect, RedirectRule};
use crate::nginx::directives::upstream::{NodeTls, Upstream};
use crate::nginx::syntax::{Fault, Word, address};
use crate::nginx::uri::escape;
use crate::nginx::variables::{Scope, Template};

/// Where a location sends its requests.
#[derive(Debug, Clone)]
pub(crate) struct ProxyPass {
    /// The position of the group among the upstreams.
    pub(crate) upstream: usize,
    /// `$proxy_host`, which nginx sends as `Host` if no `proxy_set_header` sets it.
    pub(crate) host: String,
    /// The target as written.
    pub(crate) written: String,
    pub(crate) uri: PassUri,
    redirects: Vec<Redirect>,
}

/// Prefixes of a `Location`, and the replacement of each.
pub(crate) type Redirects<'s> = Vec<(Cow<'s, [u8]>, Cow<'s, [u8]>)>;

/// How the URI for the node is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PassUri {
    /// As received.
    Unchanged,
    /// The normalised path, with its first `prefix` bytes replaced.
    Replace { prefix: usize, with: String },
    /// The normalised path, escaped again (`$uri`); with the query or without
    /// (`$uri$is_args$args`).
    Normalised { query: bool },
}

impl ProxyPass {
    /// Returns path and query for the node. `decoded` is the path of `request_uri` as
    /// [nginx](crate::nginx::uri::normalise) reads it, with its `;parameters`, and `path` as the node does.
    ///
    /// Returns `None` if the node would not read the new path as `path` with its prefix replaced. For example `/bi../x` is
    /// `/kylin/../x` after `location /bi { proxy_pass http://k/kylin/; }`.
    pub(crate) fn upstream_uri<'r>(
        &self,
        request_uri: &'r str,
        decoded: &[u8],
        path: &NormalizedPath<'_>,
    ) -> Option<Cow<'r, str>> {
        let (raw, query) = request_uri.split_once('?').map_or((request_uri, None), |(raw, query)| (raw, Some(query)));
        let query = query.filter(|query| !query.is_empty());
        let path = path.as_str().as_bytes();
        // nginx escapes again only a path that was escaped.
        let append = |uri: &str, rest: &[u8]| match std::str::from_utf8(rest) {
            Ok(rest) if rest.is_ascii() && !raw.contains('%') => format!("{uri}{rest}"),
            _ => uri.to_owned() + &escape(rest),
        };
        let is_read_as =
            |uri: &String, path: &[u8]| NormalizedPath::parse(uri).is_ok_and(|read| read.as_str().as_bytes() == path);
        let (uri, query) = match &self.uri {
            PassUri::Unchanged => return Some(Cow::Borrowed(request_uri)),
            PassUri::Replace { prefix, with } => {
                let (prefix, rest) = path.split_at_checked(*prefix)?;
                let new = NormalizedPath::parse(with).ok()?;
                // The rest of the path is appended to the query, if there is one.
                let expected = [new.as_str().as_bytes(), if with.contains('?') { b"" } else { rest }].concat();
                // With parameters behind the prefix, which may hold a session id, if that leads to the path too.
                let uris = [decoded.strip_prefix(prefix), Some(rest)].into_iter().flatten();
                (uris.map(|rest| append(with, rest)).find(|uri| is_read_as(uri, &expected))?, query)
            }
            PassUri::Normalised { query: with_query } => {
                let uri = append("", decoded);
                (Some(uri).filter(|uri| is_read_as(uri, path))?, query.filter(|_| *with_query))
            }
        };
        Some(Cow::Owned(match query {
            Some(query) => format!("{uri}?{query}"),
            None => uri,
        }))
    }

    /// Returns the prefixes of a `Location` in a node's response, and the replacement of each.
    pub(crate) fn redirects(&self, scope: &Scope<'_>) -> Redirects<'_> {
        self.redirects.iter().map(|redirect| (redirect.from.value(scope), redirect.to.value(scope))).collect()
    }

    pub(super) fn read(
        word: &Word,
        at: &Matcher,
        settings: &BlockSettings,
        context: &mut ReadContext<'_>,
    ) -> Result<ProxyPass, Fault> {
        let rules = &settings.redirect[..];
        let text = word.text.as_str();
        let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
        let is_https = scheme.eq_ignore_ascii_case("https");
        if is_https && !cfg!(feature = "tls") {
            let expected = "a build with the feature tls, or http://...";
            return Err(word.span.unsupported("https to a node is not supported", expected));
        }
        if !is_https && !scheme.eq_ignore_ascii_case("http") {
            let expected = "http://UPSTREAM[/URI], http://HOST[:PORT][/URI] or http://unix:PATH[:/URI]";
            return Err(word.invalid("URL", expected));
        }
        let (authority, written_uri) = match rest.strip_prefix("unix:") {
            Some(path) => {
                let (path, uri) = path.split_once(':').unwrap_or((path, ""));
                (&rest[..path.len() + "unix:".len()], uri)
            }
            None => rest.split_at(rest.find(['/', '?', '#', '$']).unwrap_or(rest.len())),
        };
        let uri = PassUri::read(written_uri, authority, word, at)?;
        if matches!(uri, PassUri::Normalised { .. }) {
            let text = "proxy_pass with $uri: the path is escaped again, where nginx sends it decoded";
            context.remarks.note(word.span, text);
        }
        let (upstream, host) = find_group(authority, if is_https { 443 } else { 80 }, word, context)?;
        let tls = is_https.then(|| NodeTls {
            settings: NodeSide::clone(&settings.node_tls),
            proxy_host: host.rsplit_once(':').map_or(host.as_str(), |(host, _)| host).to_owned(),
        });
        if is_https && settings.node_tls.verify.is_none() {
            let text = "proxy_ssl_verify: nodes are verified, where nginx does not unless it is on";
            context.remarks.note(word.span, text);
        }
        set_tls(&mut context.upstreams.all[upstream], tls, word)?;
        let url = &text[..scheme.len() + 3 + authority.len()];
        let default = match &uri {
            PassUri::Unchanged if written_uri.is_empty() => Some((format!("{url}/"), "/")),
            PassUri::Replace { .. } => Some((text.to_owned(), at.text())),
            PassUri::Unchanged | PassUri::Normalised { .. } => None,
        };
        let default = default.map(|(from, to)| Redirect { from: Template::literal(&from), to: Template::literal(to) });
        let redirects = match rules {
            [] => default.into_iter().collect(),
            rules if rules.iter().any(|rule| matches!(rule, RedirectRule::Off)) => Vec::new(),
            rules => rules.iter().filter_map(|rule| rule.with_default(&default)).collect(),
        };
        Ok(ProxyPass { upstream, host, written: text.to_owned(), uri, redirects })
    }
}

impl PassUri {
    fn read(uri: &str, authority: &str, word: &Word, at: &Matcher) -> Result<PassUri, Fault> {
        match uri {
            "" | "$request_uri" => Ok(PassUri::Unchanged),
            "$uri" => Ok(PassUri::Normalised { query: false }),
            "$uri$is_args$args" => Ok(PassUri::Normalised { query: true }),
            uri if uri.contains('$') => {
                let expected =
                    "http://UPSTREAM$request_uri, or $uri or $uri$is_args$args in its place; no other variables";
                Err(word.span.unsupported("variables in proxy_pass are not supported", expected))
            }
            uri if NormalizedPath::parse(uri).is_err() || !is_sendable(uri) => {
                Err(word.invalid("URI in proxy_pass", "a path that begins with \"/\" and is escaped"))
            }
            _ if matches!(at, Matcher::Regex(_)) => {
                let message = "proxy_pass cannot have a URI part in a location given by a regular expression";
                Err(word.span.value(message, format!("http://{authority}")))
            }
            with => Ok(PassUri::Replace { prefix: at.text().len(), with: with.to_owned() }),
        }
    }
}

/// Returns the position of the group that is meant and its `$proxy_host`. A plain host gets a group
/// of its own.
fn find_group(
    authority: &str,
    default_port: u16,
    word: &Word,
    context: &mut ReadContext<'_>,
) -> Result<(usize, String), Fault> {
    let upstreams = &mut context.upstreams;
    if let Some(upstream) = upstreams.find(authority) {
        return Ok((upstream, authority.to_owned()));
    }
    let written = address::parse(authority, default_port).map_err(|reason| {
        let expected = format!("the name of an upstream, HOST[:PORT] or unix:PATH ({reason})");
        word.invalid("host in proxy_pass", expected)
    })?;
    let (name, host) = match (&written.address, written.port) {
        (Address::Unix(_), _) => (authority.to_owned(), "localhost".to_owned()),
        (address, port) => {
            let bare = port
                .map_or(authority, |port| authority.strip_suffix(&port.to_string()).unwrap_or(authority))
                .trim_end_matches(':');
            if upstreams.find(bare).is_some_and(|upstream| upstreams.all[upstream].declared) {
                let message = format!("upstream \"{bare}\" may not have a port");
                return Err(word.span.value(message, format!("http://{bare}")));
            }
            let host = if port.is_none_or(|port| port == default_port) { bare } else { authority };
            (address.to_string(), host.to_owned())
        }
    };
    let upstream = upstreams.find(&name);
    Ok((upstream.unwrap_or_else(|| upstreams.add(Upstream::of_host(name, written.address))), host))
}

/// Notes whether the group is reached over TLS. Its connections are made one way, whichever location a request comes from.
fn set_tls(upstream: &mut Upstream, tls: Option<NodeTls>, word: &Word) -> Result<(), Fault> {
    match &upstream.passed {
        Some(before) if *before != tls => {
            let message = format!("upstream \"{}\" is reached with different settings of TLS", upstream.name);
            Err(word.span.unsupported(
                message,
                "http:// or https:// and the same proxy_ssl_* in each location, or two upstreams",
            ))
        }
        _ => {
            upstream.passed = Some(tls);
            Ok(())
        }
    }
}

/// Returns whether a text can stand in a request line as it is.
fn is_sendable(uri: &str) -> bool {
    uri.bytes().all(|byte| {
        (0x21..0x7f).contains(&byte)
            && !matches!(byte, b'#' | b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}')
    })
}
