//! The client's address behind trusted proxies: `ngx_http_realip_module`.

use std::fmt;
use std::net::IpAddr;

use http::HeaderName;
use ipnet::IpNet;

use crate::nginx::syntax::{Fault, Word};
use crate::proxy::TrustedProxies;

/// `set_real_ip_from`, `real_ip_header` and `real_ip_recursive`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RealIp {
    /// The peers whose header is believed; without any, none is.
    pub(crate) trusted: Vec<TrustedPeers>,
    /// The header with the client's address.
    pub(crate) header: HeaderName,
    /// True: the last address in the header that is not trusted itself; false: the last address.
    pub(crate) recursive: bool,
}

/// Peers whose header is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TrustedPeers {
    /// All addresses of a network.
    Network(IpNet),
    /// Every peer on a unix socket.
    Unix,
}

impl Default for RealIp {
    fn default() -> Self {
        RealIp { trusted: Vec::new(), header: HeaderName::from_static("x-real-ip"), recursive: false }
    }
}

impl RealIp {
    /// Returns the rule as the proxy applies it.
    pub(crate) fn trusted_proxies(&self) -> TrustedProxies {
        let networks = self.trusted.iter().filter_map(|trusted| match trusted {
            TrustedPeers::Network(network) => Some(*network),
            TrustedPeers::Unix => None,
        });
        TrustedProxies::new(networks)
            .unix(self.trusted.contains(&TrustedPeers::Unix))
            .field(self.header.clone())
            .recursive(self.recursive)
    }
}

impl TrustedPeers {
    pub(super) fn read(word: &Word) -> Result<TrustedPeers, Fault> {
        let text = word.text.as_str();
        if text == "unix:" {
            return Ok(TrustedPeers::Unix);
        }
        let network = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        let expected = "ADDRESS, ADDRESS/BITS or unix: (names are not looked up)";
        network.map(TrustedPeers::Network).map_err(|_| word.invalid("trusted address", expected))
    }
}

impl fmt::Display for TrustedPeers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TrustedPeers::Unix => f.write_str("unix:"),
            TrustedPeers::Network(network) if network.prefix_len() == network.max_prefix_len() => network.addr().fmt(f),
            TrustedPeers::Network(network) => network.fmt(f),
        }
    }
}
