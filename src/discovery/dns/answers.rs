//! The records of an answer as nodes: pure, and bounded whatever the answer.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::time::Duration;

use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{RData, Record};

use crate::discovery::DiscoveredNode;

/// The most nodes that are taken from an answer.
const MOST_NODES: usize = 256;

/// What an answer comes to.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Answer {
    /// By address, so that the order of the records, which servers shuffle, changes nothing.
    pub(super) found: Vec<DiscoveredNode>,
    /// The shortest time to live of the records; `None` without any.
    pub(super) ttl: Option<Duration>,
}

pub(super) fn addresses<'r>(records: impl IntoIterator<Item = &'r Record>, port: u16) -> Answer {
    let address = |record: &Record| match &record.data {
        RData::A(address) => Some(IpAddr::V4(address.0)),
        RData::AAAA(address) => Some(IpAddr::V6(address.0)),
        _ => None,
    };
    answer(records, |record| DiscoveredNode::new(&SocketAddr::new(address(record)?, port).to_string()).ok())
}

pub(super) fn services(records: &[Record]) -> Answer {
    let services =
        || records.iter().filter_map(|record| if let RData::SRV(srv) = &record.data { Some(srv) } else { None });
    let first = services().filter(|srv| !srv.target.is_root()).map(|srv| srv.priority).min();
    answer(records, |record| match &record.data {
        // The target `.` says that there is no such service.
        RData::SRV(srv) if !srv.target.is_root() => service(srv, Some(srv.priority) == first),
        _ => None,
    })
}

fn service(srv: &SRV, first: bool) -> Option<DiscoveredNode> {
    let target = srv.target.to_ascii();
    let host = target.strip_suffix('.').unwrap_or(&target);
    match DiscoveredNode::new(&format!("{host}:{}", srv.port)) {
        Ok(found) => {
            Some(found.with_weight(NonZeroU16::new(srv.weight).unwrap_or(NonZeroU16::MIN).into()).with_backup(!first))
        }
        Err(error) => {
            tracing::warn!(%error, "an SRV record is skipped");
            None
        }
    }
}

fn answer<'r>(
    records: impl IntoIterator<Item = &'r Record>,
    node: impl Fn(&Record) -> Option<DiscoveredNode>,
) -> Answer {
    let mut found = BTreeMap::new();
    let mut ttl = None;
    for record in records {
        // A name that is an alias lives no longer than the alias.
        ttl = ttl.into_iter().chain([record.ttl]).min();
        if let Some(node) = node(record) {
            if found.len() == MOST_NODES {
                tracing::warn!("a DNS answer has more nodes than are taken: {MOST_NODES}");
                break;
            }
            found.entry(node.address().to_owned()).or_insert(node);
        }
    }
    Answer { found: found.into_values().collect(), ttl: ttl.map(|ttl| Duration::from_secs(u64::from(ttl))) }
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

    fn shown(answer: &Answer) -> Vec<String> {
        let shown = |found: &DiscoveredNode| {
            format!("{} {:?} {}", found.address(), found.weight().map_or(0, NonZeroU32::get), found.is_backup())
        };
        answer.found.iter().map(shown).collect()
    }

    #[test]
    fn the_lowest_priority_is_primary_and_weights_are_kept() {
        let records = [
            srv(20, 5, 7071, "b.example.", 60),
            srv(10, 0, 7070, "C.example.", 30),
            srv(10, 9, 7070, "a.example.", 90),
        ];
        let answer = services(&records);
        assert_eq!(shown(&answer), ["a.example:7070 9 false", "b.example:7071 5 true", "c.example:7070 1 false"]);
        assert_eq!(answer.ttl, Some(Duration::from_secs(30)));
    }

    #[test]
    fn a_target_that_says_there_is_no_service_is_no_node_and_sets_no_priority() {
        let answer = services(&[srv(0, 0, 0, ".", 60), srv(5, 1, 1, "a.", 60), srv(5, 1, 0, "b.", 60), a(1, 60)]);
        assert_eq!(shown(&answer), ["a:1 1 false"]);
    }

    #[test]
    fn addresses_come_once_and_in_one_order() {
        let answer = addresses(&[a(2, 9), a(1, 7), a(2, 8)], 7070);
        assert_eq!(shown(&answer), ["10.0.0.1:7070 0 false", "10.0.0.2:7070 0 false"]);
        assert_eq!(answer.ttl, Some(Duration::from_secs(7)));
        assert_eq!(addresses(&[], 7070), Answer::default());
    }

    #[test]
    fn a_flood_of_records_is_cut() {
        let flood: Vec<Record> = (1..1000).map(|port| srv(1, 1, port, "a.", 1)).collect();
        assert_eq!(services(&flood).found.len(), MOST_NODES);
    }

    proptest! {
        #[test]
        fn no_record_makes_it_panic(
            priority in any::<u16>(), weight in any::<u16>(), port in any::<u16>(), ttl in any::<u32>(),
            label in proptest::collection::vec(any::<u8>(), 1..64),
        ) {
            let Ok(target) = Name::from_labels([&label[..]]) else { return Ok(()) };
            let name = Name::from_ascii("x.").unwrap();
            let record = Record::from_rdata(name, ttl, RData::SRV(SRV::new(priority, weight, port, target)));
            for found in services(&[record]).found {
                prop_assert!(found.weight().is_some() && DiscoveredNode::new(found.address()).is_ok());
            }
        }
    }
}
