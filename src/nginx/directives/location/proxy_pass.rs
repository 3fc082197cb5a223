//! `proxy_pass`: the group that gets a location's requests, and their URI there.

use std::borrow::Cow;

use http::header::HOST;

use super::{Matcher, PassUri, is_plain};
use crate::backend::http1::{Address, HttpBackendBuilder};
use crate::kylin::NormalizedPath;
use crate::nginx::directives::context::ReadContext;
use crate::nginx::directives::rewrite::KYLIN;
use crate::nginx::directives::settings::{BlockSettings, Change, CookieEdits, NodeSide, Redirect, RedirectRule};
use crate::nginx::directives::upstream::{NodeTls, Upstream};
use crate::nginx::readings::{RequestPaths, merged, readings};
use crate::nginx::syntax::{Fault, Word, address};
use crate::nginx::uri::escape;
use crate::nginx::variables::{Maps, Scope, Template};

/// The target of a location's requests.
#[derive(Debug, Clone)]
pub(crate) struct ProxyPass {
    /// The index of the upstream.
    pub(crate) upstream: usize,
    /// `$proxy_host`, which nginx sends as `Host` if no `proxy_set_header` sets it.
    pub(crate) host: String,
    /// The target as written.
    pub(crate) written: String,
    pub(crate) uri: PassUri,
    /// The URI of [`PassUri::Variables`].
    uri_template: Option<Template>,
    /// Whether the URI may be below `/kylin`; `None` if that depends on the request.
    leads_to_kylin: Option<bool>,
    redirects: Vec<Redirect>,
    /// The path at the nodes and the location's path, if the location maps one to the other.
    prefix: Option<(String, String)>,
    /// The part of `prefix` at or below `/kylin`. nginx changes no such path by itself.
    kylin_prefix: Option<(String, String)>,
}

/// A URL up to the variables of its host, and the URL for each of their values.
type UrlsByHost = (Template, Vec<(String, String)>);

/// Prefixes of a `Location`, and the replacement of each.
pub(crate) type Redirects<'s> = Vec<Change<'s>>;

impl ProxyPass {
    /// Returns the path and query for the node.
    ///
    /// `paths` are the readings of `request_uri`; `decoded` is nginx's, with `;parameters`.
    ///
    /// Returns `None` if the node would read the new path differently. For example, `/bi../x` is
    /// `/kylin/../x` after `location /bi { proxy_pass http://k/kylin/; }`.
    pub(crate) fn upstream_uri<'r>(
        &self,
        request_uri: &'r str,
        decoded: &[u8],
        paths: &RequestPaths<'_>,
    ) -> Option<Cow<'r, str>> {
        let (raw, query) = request_uri.split_once('?').map_or((request_uri, None), |(raw, query)| (raw, Some(query)));
        let query = query.filter(|query| !query.is_empty());
        let path = paths.path();
        // nginx escapes only a path that was escaped before.
        let append = |uri: &str, rest: &[u8]| match std::str::from_utf8(rest) {
            Ok(rest) if rest.is_ascii() && !raw.contains('%') => format!("{uri}{rest}"),
            _ => uri.to_owned() + &escape(rest),
        };
        // Each path that the node may read must be the intended one, or have its prefix.
        let is_read_as = |uri: &String, start: &[u8], path: &[u8]| match paths.is_certain() {
            true => NormalizedPath::parse(uri).is_ok_and(|read| read.as_str().as_bytes() == merged(path)),
            false => readings(uri).is_some_and(|all| all.iter().all(|read| read.starts_with(start))),
        };
        let (uri, query) = match &self.uri {
            PassUri::Unchanged | PassUri::Original => return Some(Cow::Borrowed(request_uri)),
            PassUri::Variables => return None,
            PassUri::Replace { prefix, with } => {
                let (prefix, rest) = path.split_at_checked(*prefix)?;
                let new = NormalizedPath::parse(with).ok()?;
                // The rest of the path is appended to the query, if there is one.
                let expected = [new.as_str().as_bytes(), if with.contains('?') { b"" } else { rest }].concat();
                // `;parameters` may contain a session id, so they stay if the path is the same.
                let uris = [decoded.strip_prefix(prefix), Some(rest)].into_iter().flatten();
                (
                    uris.map(|rest| append(with, rest))
                        .find(|uri| is_read_as(uri, new.as_str().as_bytes(), &expected))?,
                    query,
                )
            }
            PassUri::Normalised { query: with_query } => {
                let uri = append("", decoded);
                (Some(uri).filter(|uri| is_read_as(uri, b"/", path))?, query.filter(|_| *with_query))
            }
        };
        Some(Cow::Owned(match query {
            Some(query) => format!("{uri}?{query}"),
            None => uri,
        }))
    }

    /// Returns the URI of [`PassUri::Variables`]; `None` if it cannot be sent. The `;parameters` of
    /// `as_written` stay if the node reads the same path with them.
    pub(crate) fn uri_of_variables(&self, scope: &Scope<'_>, as_written: Option<&Scope<'_>>) -> Option<String> {
        let template = self.uri_template.as_ref()?;
        let uri = |scope: &Scope<'_>| String::from_utf8(template.to_uri(scope)).ok().filter(|uri| is_plain(uri));
        let plain = uri(scope)?;
        let read = |uri: &str| NormalizedPath::parse(uri).ok().map(|path| path.as_str().to_owned());
        let with_parameters =
            as_written.and_then(uri).filter(|uri| read(&plain).is_some() && read(uri) == read(&plain));
        Some(with_parameters.unwrap_or(plain))
    }

    /// Returns the URI of [`PassUri::Variables`] for an undecoded path; `None` if it cannot be
    /// sent.
    pub(crate) fn raw_uri(&self, scope: &Scope<'_>) -> Option<String> {
        let uri = self.uri_template.as_ref()?.to_bytes(scope);
        String::from_utf8(uri).ok().filter(|uri| is_plain(uri))
    }

    /// Returns whether requests may get a path below `/kylin`; `None` if the request decides.
    pub(crate) fn leads_to_kylin(&self) -> Option<bool> {
        self.leads_to_kylin
    }

    /// Returns the `proxy_pass` for a host from variables: its URI replaces path and arguments.
    pub(super) fn with_variables(self, word: &Word) -> Self {
        let (uri, uri_template) = match self.uri {
            PassUri::Replace { with, .. } => (PassUri::Variables, Some(Template::literal(&with))),
            uri => (uri, self.uri_template),
        };
        let fixed = uri_template.as_ref().filter(|uri| uri.as_literal().is_some());
        let leads_to_kylin = fixed.map_or(self.leads_to_kylin, |uri| uri.may_begin_with(KYLIN, &Maps::default()));
        ProxyPass {
            written: word.text.clone(),
            uri,
            uri_template,
            leads_to_kylin,
            prefix: None,
            kylin_prefix: None,
            ..self
        }
    }

    /// Returns the URL up to the variables of its host, if any, and the URL for each value.
    pub(super) fn urls(word: &Word, maps: &Maps) -> Result<Option<UrlsByHost>, Fault> {
        let text = word.text.as_str();
        let start = match text.find("://") {
            Some(at) => at + 3,
            None if text.starts_with('$') => 0,
            None => return Ok(None),
        };
        let mut end = text[start..].find('/').map_or(text.len(), |at| start + at);
        // In `http://kylin$request_uri`, the variable belongs to the URI.
        for variable in ["$request_uri", "${request_uri}", "$uri", "${uri}", "$document_uri", "$is_args", "$1", "$2"] {
            end = text[start..end].find(variable).map_or(end, |at| start + at);
        }
        if !text[start..end].contains('$') {
            return Ok(None);
        }
        let host = Template::new(&Word { text: text[..end].to_owned(), span: word.span }, maps)?;
        let Some(values) = host.possible_values(maps) else {
            let expected = "http://UPSTREAM; or a variable of map or set, each value of which is the name of an upstream or HOST:PORT";
            let expected = match text[start..end].split_once('$') {
                // The text before the variable is a whole name or address, so a path is meant.
                Some((before, _)) if !before.is_empty() => {
                    let at = start + before.len();
                    format!(
                        "{}/{}, if the variable is a path without its first slash; {expected}",
                        &text[..at],
                        &text[at..]
                    )
                }
                _ => expected.to_owned(),
            };
            return Err(word.span.unsupported("variables in proxy_pass are not supported", expected));
        };
        let named = values.into_iter().filter(|value| !value.is_empty() && !value.ends_with("://"));
        let urls: Vec<_> = named.map(|value| (value.clone(), value + &text[end..])).collect();
        if urls.is_empty() {
            return Err(word.span.missing(
                "the variables of proxy_pass never have a value",
                "set $NAME VALUE; or map ... $NAME { ... }",
            ));
        }
        Ok(Some((host, urls)))
    }

    /// Returns the prefixes of a `Location` in a node's response, and the replacement of each.
    ///
    /// Without `proxy_set_header Host`, a node uses the client's `Host` in its URLs, not the name
    /// of the upstream as in nginx. So a rule for `$proxy_host` also applies to that host. For
    /// Kylin, which redirects to a path alone, it also applies to paths below `/kylin`.
    pub(crate) fn redirects(&self, settings: &BlockSettings, scope: &Scope<'_>) -> Redirects<'_> {
        let mut changes: Redirects<'_> = self.redirects.iter().map(|redirect| redirect.for_request(scope)).collect();
        let Some((passed, mapped)) = &self.prefix else { return changes };
        let own = format!("http://{}", self.host).into_bytes();
        let is_changed = |change: &Change<'_>| change.from.strip_prefix(&own[..]) == Some(passed.as_bytes());
        if !changes.iter().any(is_changed) {
            return changes;
        }
        let host = scope.headers.get(HOST).map(|host| host.as_bytes()).unwrap_or_default();
        let url = |scheme: &[u8], path: &str| [scheme, host, path.as_bytes()].concat();
        if settings.set_headers.iter().all(|header| header.name != HOST) {
            changes.push(Change::of_prefix(url(b"http://", passed), mapped.as_bytes()));
            if scope.tls.is_some() {
                changes.push(Change::of_prefix(url(b"https://", passed), mapped.as_bytes()));
            }
        }
        if let Some((from, to)) = &self.kylin_prefix {
            // `//` begins a host without a scheme, not a path.
            for scheme in [&b"http://"[..], b"//"] {
                changes.push(Change::of_prefix(url(scheme, from), to.as_bytes()).of_segments());
            }
            changes.push(Change::of_prefix(url(b"https://", from), url(b"https://", to)).of_segments());
            changes.push(Change::of_path(from.as_bytes(), to.as_bytes()).of_segments());
        }
        changes
    }

    /// Returns the changes to the cookies of a node's response.
    ///
    /// Without `proxy_cookie_path`, a path below that of `proxy_pass` is mapped to the location's.
    pub(crate) fn cookies<'s>(&'s self, settings: &'s BlockSettings, scope: &Scope<'_>) -> CookieEdits<'s> {
        let changes = |rules: &'s [RedirectRule]| {
            let is_off = rules.iter().any(|rule| matches!(rule, RedirectRule::Off));
            let rules = rules.iter().filter(|_| !is_off).filter_map(|rule| match rule {
                RedirectRule::Replace(redirect) => Some(redirect.for_request(scope)),
                RedirectRule::Default | RedirectRule::Off => None,
            });
            rules.collect::<Vec<_>>()
        };
        let mut paths = changes(&settings.cookie_paths);
        if let (true, Some((from, to))) = (settings.cookie_paths.is_empty(), &self.kylin_prefix) {
            paths.push(Change::of_prefix(from.as_bytes(), to.as_bytes()).of_segments());
            // The path of a cookie has no trailing slash.
            let bare = |path: &str| path.trim_end_matches('/').to_owned().into_bytes();
            let to = if bare(to).is_empty() { b"/".to_vec() } else { bare(to) };
            paths.push(Change::of_prefix(bare(from), to).of_segments());
        }
        CookieEdits { paths, domains: changes(&settings.cookie_domains), flags: &settings.cookie_flags }
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
        if let (PassUri::Replace { with, .. }, Matcher::Prefix { path, .. }) = (&uri, at)
            && with.ends_with('/')
            && !path.ends_with('/')
        {
            let text = format!(
                "location {path} without a slash at its end: {path}/x becomes {with}/x with two slashes, as in nginx; \
                 location {path}/ is meant"
            );
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
        let longest = settings.node_head_bytes.unwrap_or(HttpBackendBuilder::DEFAULT_MAX_HEAD_BYTES as u64);
        let of_upstream = &mut context.upstreams.all[upstream].head_bytes;
        *of_upstream = Some(of_upstream.map_or(longest, |before| before.max(longest)));
        let url = &text[..scheme.len() + 3 + authority.len()];
        let default = match &uri {
            PassUri::Unchanged if written_uri.is_empty() => Some((format!("{url}/"), "/")),
            PassUri::Replace { .. } => Some((text.to_owned(), at.text())),
            PassUri::Unchanged | PassUri::Normalised { .. } | PassUri::Original | PassUri::Variables => None,
        };
        let default = default.map(|(from, to)| Redirect::literal(&from, to));
        let prefix = match &uri {
            // An exact location does not lead to paths beside its own.
            PassUri::Replace { with, .. } if with != at.text() && matches!(at, Matcher::Prefix { .. }) => {
                Some((with.clone(), at.text().to_owned()))
            }
            _ => None,
        };
        let kylin_prefix = prefix.as_ref().and_then(below_kylin);
        if let (Some((from, to)), Some((below, _))) = (&prefix, &kylin_prefix)
            && from == below
            && !to.starts_with(KYLIN)
        {
            let text = format!(
                "location {to}: Kylin's own pages and drivers know only paths below /kylin, which do not lead here"
            );
            context.remarks.note(word.span, text);
        }
        let redirects = match rules {
            [] => default.into_iter().collect(),
            rules if rules.iter().any(|rule| matches!(rule, RedirectRule::Off)) => Vec::new(),
            rules => rules.iter().filter_map(|rule| rule.with_default(&default)).collect(),
        };
        let uri_template = match uri {
            PassUri::Variables => {
                let at = text.len() - written_uri.len();
                let uri = Word { text: written_uri.to_owned(), span: word.span.right(at) };
                Some(Template::for_header(&uri, &context.maps)?)
            }
            _ => None,
        };
        let of_template = uri_template.as_ref().map(|uri: &Template| uri.may_begin_with(KYLIN, &context.maps));
        let (leads_to_kylin, written) = (of_template.unwrap_or(Some(false)), text.to_owned());
        Ok(ProxyPass { upstream, host, written, uri, uri_template, leads_to_kylin, redirects, prefix, kylin_prefix })
    }
}

/// Returns the upstream of a URL and its `$proxy_host`. A plain host gets its own upstream.
fn find_group(
    authority: &str,
    default_port: u16,
    word: &Word,
    context: &mut ReadContext<'_>,
) -> Result<(usize, String), Fault> {
    let place = context.remarks.position(word.span);
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
    let upstream = upstreams.find(&name).unwrap_or_else(|| {
        let of_host = Upstream::of_host(name, written.address, place);
        upstreams.add(Upstream { span: Some(word.span), ..of_host })
    });
    Ok((upstream, host))
}

/// Sets whether the upstream uses TLS. Locations share its connections, so they must agree.
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

/// Returns the part of a mapped prefix that is at or below `/kylin`.
fn below_kylin((from, to): &(String, String)) -> Option<(String, String)> {
    match KYLIN.strip_prefix(from.as_str()) {
        Some(rest) => Some((KYLIN.to_owned(), format!("{to}{rest}"))),
        None => {
            let is_below = from.strip_prefix(KYLIN).is_some_and(|rest| rest.starts_with('/'));
            is_below.then(|| (from.clone(), to.clone()))
        }
    }
}
