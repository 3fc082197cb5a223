//! The addresses of a configuration, and the servers of each.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use crate::nginx::directives::remarks::Remarks;
use crate::nginx::directives::server::{ListenAddress, Server, ServerName, ServerNames};
use crate::nginx::directives::settings::{BlockSettings, VerifyClient};
use crate::nginx::syntax::{Captures, Directive, Fault, NamedGroup, Span, Word};
use crate::nginx::uri::host_without_port;

/// An address and its servers.
#[derive(Debug, Clone)]
pub(in crate::nginx) struct Listener {
    pub(in crate::nginx) address: ListenAddress,
    /// The position of the server for hosts that no server names.
    pub(in crate::nginx) default: usize,
    /// The largest `backlog=` of the address, if any.
    pub(in crate::nginx) backlog: Option<u32>,
    pub(in crate::nginx) ipv6_only: bool,
    pub(in crate::nginx) ssl: bool,
    pub(in crate::nginx) proxy_protocol: bool,
    /// The servers at the address, in the order of the file.
    pub(in crate::nginx) servers: Vec<usize>,
    names: ServerNames,
}

/// Returns the addresses that are opened.
pub(super) fn listeners(servers: &[(Server, Span)], remarks: &mut Remarks<'_>) -> Result<Vec<Listener>, Fault> {
    let mut listeners: Vec<Listener> = Vec::new();
    let mut by_address = HashMap::new();
    let mut with_default = HashSet::new();
    for (number, (server, span)) in servers.iter().enumerate() {
        for listen in &server.listens {
            let position = *by_address.entry(&listen.address).or_insert_with(|| {
                listeners.push(Listener {
                    address: listen.address.clone(),
                    default: number,
                    backlog: None,
                    ipv6_only: true,
                    ssl: false,
                    proxy_protocol: false,
                    servers: Vec::new(),
                    names: ServerNames::default(),
                });
                listeners.len() - 1
            });
            let listener = &mut listeners[position];
            listener.backlog = listener.backlog.max(listen.backlog);
            listener.ipv6_only &= listen.ipv6_only;
            listener.ssl |= listen.ssl;
            listener.proxy_protocol |= listen.proxy_protocol;
            listener.servers.push(number);
            if listen.default_server {
                if !with_default.insert(position) {
                    let message = format!("a duplicate default server for {}", listen.address);
                    return Err(span.duplicate(message, "default_server once for an address"));
                }
                listener.default = number;
            }
            for name in &server.names {
                if !listener.names.add(name, number) {
                    let (name, address) = (name.text(), &listen.address);
                    remarks.note(
                        *span,
                        format!("conflicting server name \"{name}\" on {address}: the first server keeps it"),
                    );
                }
            }
        }
    }
    // nginx may serve another site there.
    let (mut listeners, closed): (Vec<_>, Vec<_>) = listeners
        .into_iter()
        .partition(|listener| listener.servers.iter().any(|server| !servers[*server].0.is_left_out));
    for listener in closed {
        let text = format!("listen {}: not opened, its servers are left out", listener.address);
        remarks.note(servers[listener.default].1, text);
        // Connections to it reach the listener for all interfaces.
        for open in listeners.iter_mut().filter(|open| open.address.includes(&listener.address)) {
            add_left_out(&listener.servers, servers, open);
        }
    }
    let everywhere: Vec<_> = (0..servers.len()).filter(|number| servers[*number].0.is_everywhere).collect();
    listeners.iter_mut().for_each(|listener| add_left_out(&everywhere, servers, listener));
    if let (true, Some((_, span))) = (listeners.is_empty(), servers.first()) {
        let message = "no server passes requests to an upstream, or returns a response";
        return Err(span.missing(message, "location / { proxy_pass http://UPSTREAM; }"));
    }
    for listener in &listeners {
        check_entry(listener, servers)?;
    }
    merge_listeners(listeners, servers)
}

/// Removes addresses whose connections reach a socket for all interfaces.
///
/// # Errors
/// The address and the socket for all interfaces have different servers. nginx opens one socket for
/// both, and selects the servers by the address that the client reached.
fn merge_listeners(mut listeners: Vec<Listener>, servers: &[(Server, Span)]) -> Result<Vec<Listener>, Fault> {
    let is_beside = |one: &Listener, all: &Listener| one.address != all.address && all.address.includes(&one.address);
    for one in &listeners {
        let Some(all) = listeners.iter().find(|all| is_beside(one, all)) else { continue };
        if (&one.servers, one.default) != (&all.servers, all.default) {
            let message = format!("listen {} and listen {}, with different servers", one.address, all.address);
            let expected = "each address in a listen of its own, or the port alone and a server_name for each server";
            return Err(servers[one.default].1.unsupported(message, expected));
        }
    }
    let addresses: Vec<_> = listeners.iter().map(|listener| listener.address.clone()).collect();
    listeners.retain(|one| !addresses.iter().any(|all| *all != one.address && all.includes(&one.address)));
    Ok(listeners)
}

/// How a configuration uses the address that a client reached (`$server_addr`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::nginx) enum ServerAddrUse {
    #[default]
    Unused,
    /// Headers or logs show the address.
    Shown,
    /// The address decides what happens to requests.
    Decides,
}

impl ServerAddrUse {
    /// Finds the uses of the variable in directives and the blocks inside them.
    pub(super) fn of(block: &[Directive]) -> Self {
        const SHOW: [&str; 6] =
            ["access_log", "add_header", "log_format", "more_set_headers", "proxy_set_header", "proxy_redirect"];
        let uses = block.iter().map(|directive| {
            let names = |word: &Word| {
                let text = word.text.to_ascii_lowercase();
                text.contains("$server_addr") || text.contains("${server_addr}")
            };
            let own = match directive.args.iter().any(names) {
                true if SHOW.iter().any(|name| directive.is(name)) => ServerAddrUse::Shown,
                true => ServerAddrUse::Decides,
                false => ServerAddrUse::Unused,
            };
            own.max(ServerAddrUse::of(directive.block.as_deref().unwrap_or_default()))
        });
        uses.max().unwrap_or_default()
    }
}

/// Adds servers that are left out, so that no other server at the address responds for their hosts.
/// A host that another server also names stays with that server.
fn add_left_out(left_out: &[usize], servers: &[(Server, Span)], listener: &mut Listener) {
    for number in left_out {
        let names = servers[*number].0.names.iter();
        for name in names.filter(|name| !matches!(name, ServerName::Exact(name) if name.is_empty())) {
            listener.names.add(name, *number);
        }
    }
}

/// Checks the settings that an address needs before the first request: certificates, and trust in
/// peers that name clients.
fn check_entry(listener: &Listener, servers: &[(Server, Span)]) -> Result<(), Fault> {
    let address = &listener.address;
    let (default, span) = &servers[listener.default];
    let real_ip = &default.settings.real_ip;
    if listener.proxy_protocol && !(real_ip.by_proxy_protocol && (real_ip.unix || !real_ip.networks.is_empty())) {
        let message = format!("listen {address} proxy_protocol, without the peers that may name clients");
        return Err(span.missing(message, "set_real_ip_from ADDRESS|CIDR; real_ip_header proxy_protocol;"));
    }
    if !listener.ssl {
        return Ok(());
    }
    let clients = |server: &Server| (server.settings.client_tls.verify, server.settings.client_tls.authorities.clone());
    let has_default = default.settings.client_tls.files.certificate.is_some();
    let verifying = &servers[listener.verifying(|number| &servers[number].0.settings)].0;
    for (server, span) in listener.servers.iter().map(|number| &servers[*number]) {
        let tls = &server.settings.client_tls;
        let (has_certificate, has_key) = (tls.files.certificate.is_some(), tls.files.key.is_some());
        let presents_default = !has_certificate && (tls.rejects_handshake || has_default);
        if !(presents_default || has_certificate && has_key) {
            let message = format!("no certificate for listen {address} ssl");
            return Err(span.missing(message, "ssl_certificate FILE; ssl_certificate_key FILE;"));
        }
        if tls.rejects_handshake {
            continue;
        }
        if tls.verify != VerifyClient::Off && tls.authorities.is_none() {
            return Err(span.missing("ssl_verify_client without authorities", "ssl_client_certificate FILE;"));
        }
        if tls.verify != VerifyClient::Off && tls.trusted.is_some() {
            let message = "ssl_trusted_certificate beside ssl_verify_client is not supported";
            return Err(span.unsupported(message, "one file of all authorities in ssl_client_certificate"));
        }
        // One handshake serves all names of an address. A client may name one server in the
        // handshake and another in `Host`.
        if clients(server) != clients(verifying) {
            let message = format!("servers at {address} verify clients differently");
            return Err(
                span.unsupported(message, "the same ssl_verify_client and ssl_client_certificate, or another address")
            );
        }
    }
    Ok(())
}

/// Notes `keepalive_timeout 0` if another address keeps connections, because one setting serves all
/// addresses.
pub(super) fn note_keepalive(listeners: &[Listener], servers: &[(Server, Span)], remarks: &mut Remarks<'_>) {
    let keeps = |settings: &BlockSettings| settings.keepalive_timeout != Some(Duration::ZERO);
    if listeners.iter().any(|listener| keeps(&servers[listener.default].0.settings)) {
        for (_, span) in servers.iter().filter(|(server, _)| !keeps(&server.settings)) {
            remarks.note(*span, "keepalive_timeout 0: client connections are kept, because another server keeps them");
        }
    }
}

impl Listener {
    /// Returns whether the socket is for all addresses, so that only the connection tells which one
    /// the client reached.
    pub(in crate::nginx) fn is_wildcard(&self) -> bool {
        match &self.address {
            ListenAddress::Tcp(address) => address.ip().is_unspecified(),
            ListenAddress::Unix(_) => false,
        }
    }

    /// Returns the position of the server that decides whether clients are verified. That is the
    /// default server, or the first other one if the default has `ssl_reject_handshake`.
    pub(in crate::nginx) fn verifying<'s>(&self, settings: impl Fn(usize) -> &'s BlockSettings) -> usize {
        let mut candidates = std::iter::once(&self.default).chain(&self.servers);
        let accepts = |number: &&usize| !settings(**number).client_tls.rejects_handshake;
        candidates.find(accepts).copied().unwrap_or(self.default)
    }

    /// Returns the position of the server for a request, and the groups of the regular expression
    /// that matched the host.
    ///
    /// `host` is in lower case, with or without a port.
    pub(in crate::nginx) fn server_for<'h>(&self, host: Option<&'h str>) -> (usize, Captures<'h>, &[NamedGroup]) {
        let host = host_without_port(host.unwrap_or_default().as_bytes());
        let host = std::str::from_utf8(host).unwrap_or_default();
        self.names.find(host).unwrap_or((self.default, Captures::default(), &[]))
    }
}
