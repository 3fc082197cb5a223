//! The changes to a request's headers: `RequestHeader`.

use std::net::{IpAddr, SocketAddr};

use http::header::{HOST, HeaderMap, HeaderName, HeaderValue};
use kylin_lb::proxy::HeaderEdits;

use crate::httpd::directives::{Scope, Server, Settings, names_client};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Applies the directives to a request. Headers that the proxy sets or drops itself are changed
/// later, by the returned edits.
///
/// `of_node` is the host of a node. HTTP/1.1 requires `Host`, so nodes get it if neither the client
/// nor a directive names a host.
pub(super) fn apply(
    server: &Server,
    settings: &[&Settings],
    headers: &mut HeaderMap,
    is_trusted: bool,
    of_node: Option<HeaderValue>,
    scope: &Scope<'_>,
) -> HeaderEdits {
    let rules = || settings.iter().flat_map(|settings| &settings.request_headers);
    // The proxy reads the header of `RemoteIPHeader` itself, so it must stay until then.
    let is_of_proxy =
        |name: &HeaderName| *name == HOST || names_client(name) || server.remote_header.as_ref() == Some(name);
    let chain = scope.client.filter(|_| is_trusted).and_then(|client| Chain::of(server, headers, client));
    let mut known = HeaderMap::new();
    if rules().any(|rule| is_of_proxy(rule.name())) {
        let counts = |name: &HeaderName| is_of_proxy(name) && (is_trusted || !names_client(name));
        for (name, value) in headers.iter().filter(|(name, _)| counts(name)) {
            known.append(name, value.clone());
        }
    }
    if let Some(Chain { header, rest, .. }) = &chain
        && known.remove(*header).is_some()
        && let Some(rest) = rest
    {
        known.insert(*header, rest.clone());
    }
    let mut changed = known.clone();
    for rule in rules() {
        rule.apply(if is_of_proxy(rule.name()) { &mut changed } else { headers }, scope);
    }
    let adds = settings.iter().rev().find_map(|settings| settings.adds_headers).unwrap_or(true);
    let mut edits = HeaderEdits::default();
    if let Some(host) = of_node.clone().filter(|_| headers.get(HOST).is_none_or(HeaderValue::is_empty)) {
        edits = edits.set(HOST, host);
    }
    if let Some(chain) = chain {
        edits = chain.edit(edits);
    }
    for rule in rules().filter(|rule| is_of_proxy(rule.name())) {
        let name = rule.name();
        let values = |headers: &HeaderMap| headers.get_all(name).iter().cloned().collect::<Vec<HeaderValue>>();
        let is_unset = rules().any(|other| other.name() == name && other.is_unset());
        if values(&changed) == values(&known) && !is_unset {
            continue;
        }
        // httpd appends its own value to these two headers.
        let own = match name.as_str() {
            "x-forwarded-for" if adds => scope.client.map(|client| client.to_canonical().to_string()),
            "x-forwarded-host" if adds => Some(scope.host.to_string()).filter(|host| !host.is_empty()),
            _ => None,
        };
        let mut joined = values(&changed).iter().map(|value| value.as_bytes().to_vec()).collect::<Vec<_>>();
        joined.extend(own.map(String::into_bytes));
        edits = match HeaderValue::from_bytes(&joined.join(&b", "[..])) {
            Ok(value) if !value.is_empty() => edits.set(name.clone(), value),
            _ => match of_node.clone().filter(|_| *name == HOST) {
                Some(host) => edits.set(HOST, host),
                None => edits.remove(name.clone()),
            },
        };
    }
    edits
}

/// The `RemoteIPHeader` of a request from a trusted proxy. As in httpd, the addresses up to that of
/// the client are removed from it, and `X-Forwarded-For` ends with the client.
struct Chain<'s> {
    header: &'s HeaderName,
    /// The rest of the header.
    rest: Option<HeaderValue>,
    /// `X-Forwarded-For` for the node.
    forwarded: Option<HeaderValue>,
}

impl<'s> Chain<'s> {
    fn of(server: &'s Server, headers: &HeaderMap, client: IpAddr) -> Option<Self> {
        let header = server.remote_header.as_ref().filter(|header| headers.contains_key(*header))?;
        let list = |name: &HeaderName| {
            let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
            let all = values.flat_map(|value| value.split(',')).map(str::trim).filter(|address| !address.is_empty());
            all.map(str::to_owned).collect::<Vec<_>>()
        };
        let mut rest = list(header);
        while let Some(address) = rest.pop_if(|address| parse(address).is_some()) {
            if parse(&address).is_some_and(|address| address == client.to_canonical()) {
                break;
            }
        }
        let mut forwarded = if *header == X_FORWARDED_FOR { rest.clone() } else { list(&X_FORWARDED_FOR) };
        forwarded.push(client.to_canonical().to_string());
        let value = |list: &[String]| HeaderValue::try_from(list.join(", ")).ok().filter(|value| !value.is_empty());
        Some(Chain { header, rest: value(&rest), forwarded: value(&forwarded) })
    }

    fn edit(self, edits: HeaderEdits) -> HeaderEdits {
        let edits = match self.rest {
            Some(rest) => edits.set(self.header.clone(), rest),
            None => edits.remove(self.header.clone()),
        };
        match self.forwarded {
            Some(forwarded) => edits.set(X_FORWARDED_FOR, forwarded),
            None => edits,
        }
    }
}

/// Reads an address with or without a port, as the proxies in front write it.
fn parse(address: &str) -> Option<IpAddr> {
    let bare = || address.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    let with_port = || address.parse().ok().map(|address: SocketAddr| address.ip());
    address.parse().ok().or_else(with_port).or_else(bare).map(|address: IpAddr| address.to_canonical())
}
