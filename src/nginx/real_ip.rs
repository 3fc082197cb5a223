//! Which client a request is from when proxies stand in front: `ngx_http_realip_module`.

use std::fmt;
use std::net::IpAddr;

use http::HeaderName;
use ipnet::IpNet;

use super::lexer::Word;
use super::values;
use crate::proxy::TrustedProxies;

/// `set_real_ip_from`, `real_ip_header` and `real_ip_recursive`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RealIp {
    /// Who may say whom it speaks for. Empty: nobody.
    pub(crate) trusted: Vec<Trusted>,
    /// The field that says it.
    pub(crate) header: HeaderName,
    /// True: the last address that is not trusted itself; false: the last address.
    pub(crate) recursive: bool,
}

/// Peers that are believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trusted {
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
    /// The rule as the proxy applies it.
    pub(crate) fn trusted_proxies(&self) -> TrustedProxies {
        let networks = self.trusted.iter().filter_map(|trusted| match trusted {
            Trusted::Network(network) => Some(*network),
            Trusted::Unix => None,
        });
        TrustedProxies::new(networks)
            .unix(self.trusted.contains(&Trusted::Unix))
            .field(self.header.clone())
            .recursive(self.recursive)
    }
}

impl Trusted {
    pub(super) fn read(word: &Word) -> Result<Trusted, super::error::Fault> {
        let text = word.text.as_str();
        if text == "unix:" {
            return Ok(Trusted::Unix);
        }
        let read = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).map(Trusted::Network);
        read.map_err(|_| {
            values::invalid(word, "trusted address")
                .expecting("ADDRESS, ADDRESS/BITS or unix: (names are not looked up)")
        })
    }
}

impl fmt::Display for Trusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trusted::Unix => f.write_str("unix:"),
            Trusted::Network(network) if network.prefix_len() == network.max_prefix_len() => network.addr().fmt(f),
            Trusted::Network(network) => network.fmt(f),
        }
    }
}
