use crate::proxy::TrustedProxies;
use crate::request::ClientAddr;

/// The protocols that a listener expects on its connections before the first request. Default:
/// none.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct ListenOptions {
    pub(super) proxy_protocol: Option<TrustedProxies>,
    pub(super) local_addr: bool,
    #[cfg(feature = "tls")]
    pub(super) tls: Option<crate::tls::ServerTls>,
}

impl ListenOptions {
    /// Returns the default options.
    pub fn new() -> Self {
        ListenOptions::default()
    }

    /// Expects the PROXY protocol, version 1 or 2, in which a TCP load balancer in front names the
    /// client (nginx: `listen ... proxy_protocol`; HAProxy: `send-proxy`, `send-proxy-v2`). The
    /// client then counts as the peer of the connection.
    ///
    /// Only peers that `trusted` trusts may connect. Other connections are closed, and so are those
    /// without the protocol, because a client that may name itself could claim any address. The
    /// header and the recursion of `trusted` are ignored.
    pub fn proxy_protocol(mut self, trusted: TrustedProxies) -> Self {
        self.proxy_protocol = Some(trusted);
        self
    }

    /// Adds the address that the client connected to, as [`LocalAddr`](crate::LocalAddr), to the
    /// extensions of requests. This costs a system call per connection. With the PROXY protocol, it
    /// is still the address of this machine.
    pub fn local_addr(mut self) -> Self {
        self.local_addr = true;
        self
    }

    /// Expects TLS. Requests have a [`TlsConnection`](crate::tls::TlsConnection) in their
    /// extensions, and nodes get `X-Forwarded-Proto: https`. A client that speaks plain HTTP gets
    /// 400.
    #[cfg(feature = "tls")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tls")))]
    pub fn tls(mut self, tls: &crate::tls::ServerTls) -> Self {
        self.tls = Some(tls.clone());
        self
    }

    /// Returns whether `peer` is trusted to name the client with the PROXY protocol.
    pub(in crate::server) fn takes_client_from(&self, peer: ClientAddr) -> bool {
        self.proxy_protocol.as_ref().is_some_and(|trusted| trusted.trusts(peer))
    }

    /// Returns whether requests begin without a handshake and get no extensions.
    pub(super) fn is_plain(&self) -> bool {
        #[cfg(feature = "tls")]
        if self.tls.is_some() {
            return false;
        }
        self.proxy_protocol.is_none() && !self.local_addr
    }
}
