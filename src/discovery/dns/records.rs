//! Converts the records of a DNS response to nodes.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::time::Duration;

use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{RData, Record};

use crate::discovery::DiscoveredNode;

const MAX_NODES: usize = 256;

/// The nodes of a response.
#[derive(Debug, Default, PartialEq)]
pub(super) struct ResolvedNodes {
    /// Sorted by address, since servers shuffle their records.
    pub(super) nodes: Vec<DiscoveredNode>,
    /// The shortest time to live of the records; `None` without records.
    pub(super) ttl: Option<Duration>,
}

/// Reads A and AAAA records.
pub(super) fn addresses<'r>(records: impl IntoIterator<Item = &'r Record>, port: u16) -> ResolvedNodes {
    resolved(records, |record| {
        let address: IpAddr = match &record.data {
            RData::A(address) => address.0.into(),
            RData::AAAA(address) => address.0.into(),
            _ => return None,
        };
        DiscoveredNode::new(&SocketAddr::new(address, port).to_string()).ok()
    })
}

/// Reads SRV records.
pub(super) fn services(records: &[Record]) -> ResolvedNodes {
    // The target `.` states that the service does not exist (RFC 2782).
    let service = |record: &'_ Record| match &record.data {
        RData::SRV(srv) if !srv.target.is_root() => Some(srv.clone()),
        _ => None,
    };
    let lowest = records.iter().filter_map(service).map(|srv| srv.priority).min();
    resolved(records, |record| {
        let srv: SRV = service(record)?;
        let target = srv.target.to_ascii();
        let host = target.strip_suffix('.').unwrap_or(&target);
        let node = DiscoveredNode::new(&format!("{host}:{}", srv.port));
        let node = node.inspect_err(|error| tracing::warn!(%error, "invalid SRV record skipped")).ok()?;
        let weight = NonZeroU16::new(srv.weight).unwrap_or(NonZeroU16::MIN);
        Some(node.with_weight(weight.into()).with_backup(Some(srv.priority) != lowest))
    })
}

fn resolved<'r>(
    records: impl IntoIterator<Item = &'r Record>,
    node_of: impl Fn(&Record) -> Option<DiscoveredNode>,
) -> ResolvedNodes {
    let mut nodes = BTreeMap::new();
    let mut ttl = None;
    for record in records {
        // Alias records count too: the result is valid no longer than the alias.
        ttl = ttl.into_iter().chain([record.ttl]).min();
        if let Some(node) = node_of(record) {
            if nodes.len() == MAX_NODES {
                tracing::warn!(max = MAX_NODES, "DNS response has too many nodes; the rest is ignored");
                break;
            }
            nodes.entry(node.address().to_owned()).or_insert(node);
        }
    }
    ResolvedNodes { nodes: nodes.into_values().collect(), ttl: ttl.map(|ttl| Duration::from_secs(ttl.into())) }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::num::NonZeroU32;

    use hickory_resolver::proto::rr::Name;
    use proptest::prelude::*;

    use super::*;

    fn srv(priority: u16, weight: u16, port: u16, target: &str, ttl: u32) -> Record {
        let target = Name::from_str_relaxed(target).unwrap();
        let name = Name::from_ascii("_kylin._tcp.example.").unwrap();
        Record::from_rdata(name, ttl, RData::SRV(SRV::new(priority, weight, port, target)))
    }

    fn a(octet: u8, ttl: u32) -> Record {
        Record::from_rdata(Name::from_ascii("kylin.").unwrap(), ttl, RData::A(Ipv4Addr::new(10, 0, 0, octet).into()))
    }

    fn shown(resolved: &ResolvedNodes) -> Vec<String> {
        let shown = |node: &DiscoveredNode| {
            format!("{} {:?} {}", node.address(), node.weight().map_or(0, NonZeroU32::get), node.is_backup())
        };
        resolved.nodes.iter().map(shown).collect()
    }

    #[test]
    fn the_lowest_priority_is_primary_and_weights_are_kept() {
        let records = [
            srv(20, 5, 7071, "b.example.", 60),
            srv(10, 0, 7070, "C.example.", 30),
            srv(10, 9, 7070, "a.example.", 90),
        ];
        let resolved = services(&records);
        assert_eq!(shown(&resolved), ["a.example:7070 9 false", "b.example:7071 5 true", "c.example:7070 1 false"]);
        assert_eq!(resolved.ttl, Some(Duration::from_secs(30)));
    }

    #[test]
    fn a_root_target_is_not_a_node_and_sets_no_priority() {
        let resolved = services(&[srv(0, 0, 0, ".", 60), srv(5, 1, 1, "a.", 60), srv(5, 1, 0, "b.", 60), a(1, 60)]);
        assert_eq!(shown(&resolved), ["a:1 1 false"]);
    }

    #[test]
    fn addresses_are_unique_and_sorted() {
        let resolved = addresses(&[a(2, 9), a(1, 7), a(2, 8)], 7070);
        assert_eq!(shown(&resolved), ["10.0.0.1:7070 0 false", "10.0.0.2:7070 0 false"]);
        assert_eq!(resolved.ttl, Some(Duration::from_secs(7)));
        assert_eq!(addresses(&[], 7070), ResolvedNodes::default());
    }

    #[test]
    fn the_number_of_nodes_is_bounded() {
        let many: Vec<Record> = (1..1000).map(|port| srv(1, 1, port, "a.", 1)).collect();
        assert_eq!(services(&many).nodes.len(), MAX_NODES);
    }

    proptest! {
        #[test]
        fn no_record_causes_a_panic(
            priority in any::<u16>(), weight in any::<u16>(), port in any::<u16>(), ttl in any::<u32>(),
            label in proptest::collection::vec(any::<u8>(), 1..64),
        ) {
            let Ok(target) = Name::from_labels([&label[..]]) else { return Ok(()) };
            let name = Name::from_ascii("x.").unwrap();
            let record = Record::from_rdata(name, ttl, RData::SRV(SRV::new(priority, weight, port, target)));
            for node in services(&[record]).nodes {
                prop_assert!(node.weight().is_some() && DiscoveredNode::new(node.address()).is_ok());
            }
        }
    }
}
