//! `geo`: a variable whose value follows from an address (`ngx_http_geo_module`).

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;

use super::Template;
use crate::nginx::syntax::{Directive, Fault};

pub(super) const USAGE: &str = "geo [$ADDRESS] $NAME { default VALUE; NETWORK VALUE; ... }";

/// The lines of a block. The most special network counts.
#[derive(Debug, Default)]
pub(super) struct Geo {
    networks: HashMap<IpNet, Template>,
    /// The lengths of their prefixes.
    lengths: BTreeSet<u8>,
    default: Option<Template>,
}

impl Geo {
    pub(super) fn read(block: &[Directive]) -> Result<Geo, Fault> {
        let mut geo = Geo::default();
        for line in block {
            let key = &line.name;
            if matches!(key.text.as_str(), "ranges" | "delete" | "proxy" | "proxy_recursive") {
                let message = format!("\"{}\" of geo is not supported", key.text);
                return Err(key.span.unsupported(message, "networks such as 10.0.0.0/8; set_real_ip_from for proxies"));
            }
            let ([value], None) = (&line.args[..], &line.block) else {
                return Err(key.span.value("a line of geo is a network and a value", USAGE));
            };
            let value = Template::literal(&value.text);
            if key.text == "default" {
                geo.default = Some(value);
                continue;
            }
            let network = key.text.parse().ok().or_else(|| key.text.parse::<IpAddr>().map(IpNet::from).ok());
            let network =
                network.ok_or_else(|| key.invalid("network", "an address, or a network such as 10.0.0.0/8"))?;
            let network: IpNet = network.trunc();
            geo.lengths.insert(network.prefix_len());
            geo.networks.insert(network, value);
        }
        Ok(geo)
    }

    pub(super) fn results(&self) -> impl Iterator<Item = &Template> {
        self.networks.values().chain(&self.default)
    }

    pub(super) fn has_default(&self) -> bool {
        self.default.is_some()
    }

    /// Returns the value for an address. As in nginx, a text that is no address counts as 255.255.255.255.
    pub(super) fn find(&self, source: &[u8]) -> Option<&Template> {
        let address = std::str::from_utf8(source).ok().and_then(|text| text.parse::<IpAddr>().ok());
        let address = address.unwrap_or(IpAddr::from([255; 4])).to_canonical();
        let networks = self.lengths.iter().rev().filter_map(|length| IpNet::new(address, *length).ok());
        networks.filter_map(|network| self.networks.get(&network.trunc())).next().or(self.default.as_ref())
    }
}
