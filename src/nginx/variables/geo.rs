//! `geo`: a variable whose value depends on an address (`ngx_http_geo_module`).

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Subnets};

use super::Template;
use crate::nginx::syntax::{Directive, Fault, Word};

pub(super) const USAGE: &str = "geo [$ADDRESS] $NAME { default VALUE; NETWORK VALUE; ... }";

/// The lines of a block. The most specific network counts.
#[derive(Debug, Default)]
pub(super) struct Geo {
    networks: HashMap<IpNet, Template>,
    /// The lengths of their prefixes.
    lengths: BTreeSet<u8>,
    default: Option<Template>,
}

impl Geo {
    pub(super) fn read(block: &[Directive]) -> Result<Geo, Fault> {
        let (mut geo, mut in_ranges) = (Geo::default(), false);
        for line in block {
            let key = &line.name;
            if matches!(key.text.as_str(), "proxy" | "proxy_recursive") {
                let message = format!("\"{}\" of geo is not supported", key.text);
                return Err(key.span.unsupported(message, "set_real_ip_from for proxies"));
            }
            match (key.text.as_str(), &line.args[..], &line.block) {
                ("ranges", [], None) => in_ranges = true,
                ("delete", [network], None) => {
                    for network in networks(network, in_ranges)? {
                        geo.networks.remove(&network);
                    }
                }
                ("default", [value], None) => geo.default = Some(Template::literal(&value.text)),
                (_, [value], None) => {
                    for network in networks(key, in_ranges)? {
                        geo.lengths.insert(network.prefix_len());
                        geo.networks.insert(network, Template::literal(&value.text));
                    }
                }
                _ => return Err(key.span.value("a line of geo is a network and a value", USAGE)),
            }
        }
        Ok(geo)
    }

    pub(super) fn results(&self) -> impl Iterator<Item = &Template> {
        self.networks.values().chain(&self.default)
    }

    pub(super) fn has_default(&self) -> bool {
        self.default.is_some()
    }

    /// Returns the value for an address. As in nginx, a text that is not an address counts as
    /// 255.255.255.255.
    pub(super) fn find(&self, source: &[u8]) -> Option<&Template> {
        let address = std::str::from_utf8(source).ok().and_then(|text| text.parse::<IpAddr>().ok());
        let address = address.unwrap_or(IpAddr::from([255; 4])).to_canonical();
        let networks = self.lengths.iter().rev().filter_map(|length| IpNet::new(address, *length).ok());
        networks.filter_map(|network| self.networks.get(&network.trunc())).next().or(self.default.as_ref())
    }
}

/// Reads a network, or a range of addresses as networks.
fn networks(word: &Word, is_range: bool) -> Result<Vec<IpNet>, Fault> {
    if is_range {
        let range = word.text.split_once('-').and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
        let range = range.filter(|(first, last): &(Ipv4Addr, Ipv4Addr)| first <= last);
        let (first, last) = range.ok_or_else(|| word.invalid("range", "a range such as 10.0.0.0-10.0.0.255"))?;
        return Ok(Ipv4Subnets::new(first, last, 0).map(IpNet::V4).collect());
    }
    let network = word.text.parse().ok().or_else(|| word.text.parse::<IpAddr>().map(IpNet::from).ok());
    let network: IpNet =
        network.ok_or_else(|| word.invalid("network", "an address, or a network such as 10.0.0.0/8"))?;
    Ok(vec![network.trunc()])
}
