//! The changes to a response.

use std::borrow::Cow;

use http::Response;
use http::header::{self, HeaderMap, HeaderValue};
use kylin_lb::Body;
use kylin_lb::observe::ServedBy;

use super::session::Asked;
use crate::httpd::directives::{Balancer, From, Pass, Scope, Settings, Target, reversed};
use crate::httpd::kylin::is_below_kylin as is_of_kylin;

/// The changes to a response, computed before the request is sent.
#[derive(Default)]
pub struct ResponseEdits<'s> {
    settings: Vec<&'s Settings>,
    scope: Scope<'s>,
    origin: Option<Origin<'s>>,
}

/// The destination of the request.
struct Origin<'s> {
    balancer: &'s Balancer,
    /// The path at the nodes and the client's path, if they differ.
    prefix: Option<(String, &'s str)>,
}

impl<'s> ResponseEdits<'s> {
    pub fn new(settings: Vec<&'s Settings>, scope: Scope<'s>) -> Self {
        ResponseEdits { settings, scope, origin: None }
    }

    pub fn scope(&self) -> &Scope<'s> {
        &self.scope
    }

    /// Records the destination of the request and the node that its session names.
    pub fn is_from(&mut self, balancer: &'s Balancer, pass: &'s Pass, target: &Target, asked: Asked<'s>) {
        let at_nodes = format!("{}{}", balancer.path, target.path);
        let prefix = match &pass.from {
            From::Prefix(of) if *of != at_nodes && !(of == "/" && at_nodes.is_empty()) => Some((at_nodes, of.as_str())),
            From::Prefix(_) | From::Pattern(_) => None,
        };
        self.origin = Some(Origin { balancer, prefix });
        self.scope.session_name = asked.name;
        self.scope.session_route = asked.route.map(Cow::Owned);
    }

    /// Changes a response of the front end: `Header always`.
    pub fn apply_to_own(&self, mut response: Response<Body>) -> Response<Body> {
        self.add_always(response.headers_mut());
        response
    }

    /// Changes a response of the proxy.
    pub fn apply(mut self, mut response: Response<Body>) -> Response<Body> {
        let served = response.extensions().get::<ServedBy>().map(|served| served.endpoint.clone());
        let is_error = response.status().is_client_error() || response.status().is_server_error();
        let Some(Origin { balancer, prefix }) = self.origin.take() else { return self.apply_to_own(response) };
        if served.is_none() && is_error {
            return self.apply_to_own(response);
        }
        let member = served.and_then(|id| balancer.members.iter().find(|member| member.address == id.as_str()));
        if let Some(member) = member {
            let route = member.route.as_deref().unwrap_or_default();
            self.scope.route_changed = balancer.sticky.is_some() && self.scope.session_route.as_deref() != Some(route);
            self.scope.worker = Some((route, Cow::Owned(format!("{}{}", member.url(), balancer.path))));
        }
        let headers = response.headers_mut();
        self.change_location(headers, balancer, prefix.as_ref());
        self.change_cookies(headers, prefix.as_ref());
        for rule in self.settings.iter().flat_map(|settings| &settings.headers).filter(|rule| !rule.always) {
            rule.apply(headers, &self.scope);
        }
        self.add_always(headers);
        response
    }

    /// Applies the directives with `always`, which do not see the headers of a node, and adds their
    /// headers.
    fn add_always(&self, headers: &mut HeaderMap) {
        let mut always = HeaderMap::new();
        for rule in self.settings.iter().flat_map(|settings| &settings.headers).filter(|rule| rule.always) {
            rule.apply(&mut always, &self.scope);
        }
        for name in always.keys() {
            // These headers precede those of the node.
            let of_node: Vec<_> = headers.get_all(name).iter().cloned().collect();
            headers.remove(name);
            for value in always.get_all(name).iter().cloned().chain(of_node) {
                headers.append(name, value);
            }
        }
    }

    /// Applies `ProxyPassReverse`.
    ///
    /// A node gets the client's `Host`, and uses it in its own URLs, or sends only a path. So if
    /// the paths differ, a directive for a node also applies to that host, and to paths below
    /// `/kylin`.
    fn change_location(&self, headers: &mut HeaderMap, balancer: &Balancer, prefix: Option<&(String, &str)>) {
        for name in [header::LOCATION, header::CONTENT_LOCATION] {
            let Some(value) = headers.get(&name).and_then(|value| value.to_str().ok()) else { continue };
            let mut rules: Vec<(Cow<'_, str>, Cow<'_, str>)> = Vec::new();
            for reverse in self.settings.iter().flat_map(|settings| &settings.reverses) {
                let (scheme, rest) = reverse.from.split_once("://").unwrap_or(("", &reverse.from));
                let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
                let to = Cow::Borrowed(reverse.to.as_str());
                if let (true, Some(url)) = (host.is_empty() && scheme.is_empty(), host_of_url(value)) {
                    // As in httpd, a directive without a host counts for every host.
                    rules.push((Cow::Owned(format!("{url}{path}")), to.clone()));
                }
                let is_of_balancer = scheme.eq_ignore_ascii_case("balancer")
                    && balancer.name.split('@').next().is_some_and(|name| name.eq_ignore_ascii_case(host));
                match scheme.is_empty() {
                    false if is_of_balancer => {
                        let urls = balancer.members.iter().flat_map(|member| member.urls());
                        rules.extend(urls.map(|url| (Cow::Owned(format!("{url}{}{path}", balancer.path)), to.clone())));
                    }
                    _ => rules.push((Cow::Borrowed(reverse.from.as_str()), to.clone())),
                }
                if prefix.is_some() && !path.is_empty() && path.trim_end_matches('/') != to.trim_end_matches('/') {
                    let own = |scheme: &str, path: &str| Cow::Owned(format!("{scheme}//{}{path}", self.scope.host));
                    rules.push((own("http:", path), to.clone()));
                    if self.scope.is_tls {
                        rules.push((own("https:", path), to.clone()));
                    } else if is_of_kylin(path) {
                        // The node redirects the client to TLS.
                        rules.push((own("https:", path), own("https:", &to)));
                    }
                    // `//` begins a host without a scheme, not a path.
                    rules.push((own("", path), to.clone()));
                    if value.starts_with("//") || !is_of_kylin(value) {
                        continue;
                    }
                    rules.push((Cow::Borrowed(path), to.clone()));
                    // The path itself, without a trailing slash.
                    let bare = Some(path.trim_end_matches('/')).filter(|bare| !bare.is_empty());
                    rules.extend(bare.map(|bare| (Cow::Borrowed(bare), to)));
                }
            }
            if let Some(changed) = reversed(value, rules)
                && let Ok(changed) = HeaderValue::try_from(changed)
            {
                headers.insert(name, changed);
            }
        }
    }

    /// Applies `ProxyPassReverseCookiePath` and `-Domain`.
    ///
    /// Without the former, a path below that of the nodes is mapped to the client's path, so that
    /// the client sends the cookie back.
    fn change_cookies(&self, headers: &mut HeaderMap, prefix: Option<&(String, &str)>) {
        if !headers.contains_key(header::SET_COOKIE) {
            return;
        }
        let written: Vec<_> = self.settings.iter().flat_map(|settings| &settings.cookie_paths).collect();
        let domains: Vec<_> = self.settings.iter().flat_map(|settings| &settings.cookie_domains).collect();
        if prefix.is_none() && written.is_empty() && domains.is_empty() {
            return;
        }
        // The path of a cookie has no trailing slash.
        let bare = |path: &str| path.trim_end_matches('/').to_owned();
        let or_root = |to: String| if to.is_empty() { "/".to_owned() } else { to };
        let is_bare = |path: &str, from: &str| path == bare(from) && !path.is_empty();
        let change_path = |path: &str| match (&written[..], prefix) {
            ([], Some(_)) if !is_of_kylin(path) => None,
            ([], Some((from, to))) if is_bare(path, from) => Some(or_root(bare(to))),
            ([], Some((from, to))) => reversed(path, [(Cow::Borrowed(from.as_str()), Cow::Borrowed(*to))]),
            ([], None) => None,
            // httpd replaces the whole path.
            (rules, _) => rules.iter().find_map(|(from, to)| match path.starts_with(from.as_str()) {
                true => Some(to.clone()),
                false => is_bare(path, from).then(|| or_root(bare(to))),
            }),
        };
        // A leading dot matters.
        let change_domain =
            |domain: &str| domains.iter().find(|(from, _)| from.eq_ignore_ascii_case(domain)).map(|(_, to)| to.clone());
        let change = |cookie: &str| {
            let attributes = cookie.split(';').enumerate().map(|(index, part)| {
                let (name, value) = part.split_once('=').unwrap_or((part, ""));
                let changed = match name.trim().to_ascii_lowercase().as_str() {
                    "path" if index > 0 => change_path(value.trim()),
                    "domain" if index > 0 => change_domain(value.trim()),
                    _ => None,
                };
                changed.map_or(Cow::Borrowed(part), |changed| Cow::Owned(format!("{name}={changed}")))
            });
            attributes.collect::<Vec<_>>().join(";")
        };
        let changed: Vec<HeaderValue> = headers
            .get_all(header::SET_COOKIE)
            .iter()
            .map(|cookie| {
                cookie.to_str().ok().and_then(|text| HeaderValue::try_from(change(text)).ok()).unwrap_or(cookie.clone())
            })
            .collect();
        headers.remove(header::SET_COOKIE);
        changed.into_iter().for_each(|cookie| _ = headers.append(header::SET_COOKIE, cookie));
    }
}

/// Returns the scheme and host of a URL that has a path.
fn host_of_url(url: &str) -> Option<&str> {
    let host = url.find("://")? + "://".len();
    Some(&url[..host + url[host..].find('/')?])
}
