//! The client's address behind trusted proxies: `ngx_http_realip_module`.

use std::net::IpAddr;

use http::HeaderName;
use ipnet::IpNet;

use crate::nginx::syntax::{Fault, Word};
use crate::proxy::TrustedProxies;

/// `set_real_ip_from`, `real_ip_header` and `real_ip_recursive`.
#[derive(Debug, Clone)]
pub(crate) struct RealIp {
    /// The networks of the peers that are trusted to name the client.
    pub(crate) networks: Vec<IpNet>,
    /// Whether every peer on a unix socket is trusted.
    pub(crate) unix: bool,
    /// The header with the client's address.
    pub(crate) header: HeaderName,
    /// Whether the client is the last address in the header that is not trusted. If false, it is
    /// the last address.
    pub(crate) recursive: bool,
    /// Whether peers name the client with the PROXY protocol (`real_ip_header proxy_protocol`).
    pub(crate) by_proxy_protocol: bool,
}

impl Default for RealIp {
    fn default() -> Self {
        RealIp {
            networks: Vec::new(),
            unix: false,
            header: HeaderName::from_static("x-real-ip"),
            recursive: false,
            by_proxy_protocol: false,
        }
    }
}

impl RealIp {
    /// Returns the rule in the form of the proxy.
    pub(crate) fn trusted_proxies(&self) -> TrustedProxies {
        if self.by_proxy_protocol {
            return TrustedProxies::none();
        }
        self.trusted_peers()
    }

    /// Returns the trusted peers, for either way of naming the client.
    pub(crate) fn trusted_peers(&self) -> TrustedProxies {
        let networks = self.networks.iter().copied();
        TrustedProxies::new(networks).unix(self.unix).header(self.header.clone()).recursive(self.recursive)
    }

    /// Adds the argument of `set_real_ip_from`.
    pub(super) fn trust(&mut self, word: &Word) -> Result<(), Fault> {
        let text = word.text.as_str();
        if text == "unix:" {
            self.unix = true;
            return Ok(());
        }
        let network = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        let expected = "ADDRESS, ADDRESS/BITS or unix: (names are not looked up)";
        self.networks.push(network.map_err(|_| word.invalid("trusted address", expected))?);
        Ok(())
    }

    /// Returns the trusted peers in the syntax of a configuration.
    pub(crate) fn trusted(&self) -> Vec<String> {
        let text = |network: &IpNet| match network.prefix_len() == network.max_prefix_len() {
            true => network.addr().to_string(),
            false => network.to_string(),
        };
        self.networks.iter().map(text).chain(self.unix.then(|| "unix:".to_owned())).collect()
    }
}
