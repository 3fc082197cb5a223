//! The changes of a request's headers: `RequestHeader`.

use http::header::{HOST, HeaderMap, HeaderName, HeaderValue};
use kylin_lb::proxy::HeaderEdits;

use crate::httpd::directives::{Scope, Server, Settings, names_client};

/// Applies the lines for a request. Headers that the proxy sets or drops itself are changed afterwards, by the edits that this returns.
pub(super) fn apply(
    server: &Server,
    settings: &[&Settings],
    headers: &mut HeaderMap,
    is_trusted: bool,
    scope: &Scope<'_>,
) -> HeaderEdits {
    let rules = || settings.iter().flat_map(|settings| &settings.request_headers);
    // The proxy reads `RemoteIPHeader` itself, so it has to stay until then.
    let is_of_proxy =
        |name: &HeaderName| *name == HOST || names_client(name) || server.remote_header.as_ref() == Some(name);
    let mut known = HeaderMap::new();
    if rules().any(|rule| is_of_proxy(rule.name())) {
        let counts = |name: &HeaderName| is_of_proxy(name) && (is_trusted || !names_client(name));
        for (name, value) in headers.iter().filter(|(name, _)| counts(name)) {
            known.append(name, value.clone());
        }
    }
    let mut changed = known.clone();
    for rule in rules() {
        rule.apply(if is_of_proxy(rule.name()) { &mut changed } else { headers }, scope);
    }
    let adds = settings.iter().rev().find_map(|settings| settings.adds_headers).unwrap_or(true);
    let mut edits = HeaderEdits::default();
    for rule in rules().filter(|rule| is_of_proxy(rule.name())) {
        let name = rule.name();
        let values = |headers: &HeaderMap| headers.get_all(name).iter().cloned().collect::<Vec<HeaderValue>>();
        let is_unset = rules().any(|other| other.name() == name && other.is_unset());
        if values(&changed) == values(&known) && !is_unset {
            continue;
        }
        // httpd puts its own behind the values of these two.
        let own = match name.as_str() {
            "x-forwarded-for" if adds => scope.client.map(|client| client.to_canonical().to_string()),
            "x-forwarded-host" if adds => Some(scope.host.to_string()).filter(|host| !host.is_empty()),
            _ => None,
        };
        let mut joined = values(&changed).iter().map(|value| value.as_bytes().to_vec()).collect::<Vec<_>>();
        joined.extend(own.map(String::into_bytes));
        edits = match HeaderValue::from_bytes(&joined.join(&b", "[..])) {
            Ok(value) if !value.is_empty() => edits.set(name.clone(), value),
            _ => edits.remove(name.clone()),
        };
    }
    edits
}
