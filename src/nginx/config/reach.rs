//! Finds upstreams without a server that a request can be passed to.

use std::collections::BTreeSet;

use super::listeners::Listener;
use crate::backend::http1::Address;
use crate::nginx::directives::remarks::Remarks;
use crate::nginx::directives::server::ListenAddress;
use crate::nginx::directives::upstream::{Upstream, UpstreamServer};
use crate::nginx::syntax::Fault;

/// Notes each upstream in use whose servers are all `down` or addresses of this site itself.
/// Returns the error for the first of them if there is no other upstream.
pub(super) fn check(
    upstreams: &[Upstream],
    targets: &[BTreeSet<usize>],
    listeners: &[Listener],
    remarks: &mut Remarks<'_>,
) -> Option<Fault> {
    let (mut first, mut may_serve) = (None, false);
    for (number, upstream) in upstreams.iter().enumerate().filter(|(_, upstream)| upstream.passed.is_some()) {
        let leads_back = |server: &UpstreamServer| {
            let mut own = listeners.iter().filter(|listener| is_own(&server.address, &listener.address));
            own.any(|listener| listener.servers.iter().all(|server| targets[*server].contains(&number)))
        };
        let (down, up): (Vec<_>, Vec<_>) = upstream.servers.iter().partition(|server| server.down);
        let (Some(span), true) = (upstream.span, up.iter().all(|server| leads_back(server))) else {
            may_serve = true;
            continue;
        };
        let reason = match (down.is_empty(), up.is_empty()) {
            (_, true) => "all servers are down",
            (true, false) => "all servers are addresses of this configuration itself",
            (false, false) => "all servers are down, or addresses of this configuration itself",
        };
        remarks.note(span, format!("{}: {reason}, so no request reaches a node", upstream.name));
        let message = format!("no request reaches a node: {reason}");
        first = first.or_else(|| Some(span.value(message, "server HOST:PORT; of a node, without down")));
    }
    first.filter(|_| !may_serve)
}

/// Returns whether a connection to the address of a server reaches this listen address.
fn is_own(server: &Address, listens: &ListenAddress) -> bool {
    match (server, listens) {
        (Address::Socket(server), ListenAddress::Tcp(listens)) => {
            let is_same = server.ip() == listens.ip() || listens.ip().is_unspecified() && server.ip().is_loopback();
            is_same && server.port() == listens.port()
        }
        (Address::Name(host, port), ListenAddress::Tcp(listens)) => {
            let is_here = listens.ip().is_unspecified() || listens.ip().is_loopback();
            host.eq_ignore_ascii_case("localhost") && is_here && *port == listens.port()
        }
        (Address::Unix(server), ListenAddress::Unix(listens)) => server == listens,
        // Addresses of different kinds.
        _ => false,
    }
}
