//! The ring of `hash ... consistent`, point for point nginx's (ngx_http_upstream_init_chash).

use std::collections::btree_map::Entry;

use super::{Candidate, Candidates};
use crate::hash::Crc32;

/// Points per unit of weight.
const POINTS: u64 = 160;

/// The most points of a ring, 8 bytes each. Weights that would give more than that share these.
const LIMIT: u64 = 1 << 22;

/// How many points a total weight has.
#[derive(Clone, Copy)]
struct Share {
    of: u64,
    points: u64,
}

/// A hash ring over the placement names of a view's members.
#[derive(Debug)]
pub(super) struct Ring {
    /// Sorted by hash, each hash once.
    points: Vec<Point>,
    /// The members that share each name, in configuration order: a host name may stand for several addresses.
    names: Vec<Vec<usize>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Point {
    hash: u32,
    name: u32,
}

impl Ring {
    pub(super) fn of(members: &Candidates<'_>) -> Self {
        let mut names: Vec<Vec<usize>> = Vec::new();
        let mut known = std::collections::BTreeMap::new();
        let share = Share { of: members.total_weight(), points: (members.total_weight() * POINTS).min(LIMIT) };
        let mut points = Vec::new();
        for member in members.all() {
            let name = match known.entry(member.placement()) {
                Entry::Occupied(name) => *name.get(),
                Entry::Vacant(vacant) => {
                    names.push(Vec::new());
                    *vacant.insert(names.len() - 1)
                }
            };
            names[name].push(member.index());
            points.extend(points_of(member, share).map(|hash| Point { hash, name: name as u32 }));
        }
        points.sort_by_key(|point| point.hash); // stable: of equal hashes the first configured stays
        points.dedup_by_key(|point| point.hash);
        Ring { points, names }
    }

    /// The first eligible endpoint at or after `digest`.
    pub(super) fn pick<'c>(&self, digest: u32, from: &Candidates<'c>) -> Option<Candidate<'c>> {
        let start = self.points.partition_point(|point| point.hash < digest);
        let (before, after) = self.points.split_at(start);
        let mut refused = None;
        for point in after.iter().chain(before).take(self.search_limit()) {
            if refused == Some(point.name) {
                continue;
            }
            if let Some(candidate) = self.serving(point.name, from) {
                return Some(candidate);
            }
            refused = Some(point.name);
        }
        None
    }

    /// The eligible endpoint of a name; of several, each in turn.
    fn serving<'c>(&self, name: u32, from: &Candidates<'c>) -> Option<Candidate<'c>> {
        let members = &self.names[name as usize];
        if let [only] = members[..] {
            return Some(from.at(only)).filter(|candidate| from.is_eligible(*candidate));
        }
        let eligible = || members.iter().map(|index| from.at(*index)).filter(|candidate| from.is_eligible(*candidate));
        // Taking turns goes by the shared order, which serves the members of one name evenly by weight.
        let turn =
            (0..from.len()).filter_map(|_| from.next_in_rotation()).find(|turn| eligible().any(|one| one == *turn));
        turn.or_else(|| eligible().next())
    }

    /// Enough to meet every name with near certainty while some can serve, and an end when none can.
    fn search_limit(&self) -> usize {
        self.points.len().min(POINTS as usize * 20)
    }
}

/// nginx's chain: each point is the CRC-32 of host, NUL, port and the previous point in little-endian order.
fn points_of(member: Candidate<'_>, share: Share) -> impl Iterator<Item = u32> {
    let (host, port) = split(member.placement());
    let mut base = Crc32::default();
    base.update(host.as_bytes());
    base.update(&[0]);
    base.update(port.as_bytes());
    let mut previous = 0_u32;
    let count = u128::from(member.weight()) * u128::from(share.points) / u128::from(share.of.max(1));
    (0..count.max(1)).map(move |_| {
        let mut crc = base.clone();
        crc.update(&previous.to_le_bytes());
        previous = crc.finish();
        previous
    })
}

/// A server's name as nginx splits it: trailing `:digits` is the port, a `unix:` prefix is left out.
fn split(name: &str) -> (&str, &str) {
    if let Some(prefix) = name.get(..5).filter(|prefix| prefix.eq_ignore_ascii_case("unix:")) {
        return (&name[prefix.len()..], "");
    }
    match name.rfind(|c: char| !c.is_ascii_digit()) {
        Some(colon) if name.as_bytes()[colon] == b':' && colon + 1 < name.len() => (&name[..colon], &name[colon + 1..]),
        _ => (name, ""),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::{Request, Response};
    use parking_lot::Mutex;

    use super::super::{Balancer, Table};
    use super::*;
    use crate::backend::{Backend, SendError};
    use crate::body::Body;
    use crate::cluster::Cluster;
    use crate::endpoint::Endpoint;
    use crate::request::RequestView;

    /// Keeps the rings of its clusters for the test.
    #[derive(Debug, Clone, Default)]
    struct Keep(Arc<Mutex<Vec<Ring>>>);

    impl Balancer for Keep {
        fn pick<'c>(&self, _: &RequestView<'_>, _: &Candidates<'c>) -> Option<Candidate<'c>> {
            None
        }

        fn prepare(&self, members: &Candidates<'_>) -> Table {
            self.0.lock().push(Ring::of(members));
            Table::none()
        }
    }

    struct Nowhere;

    impl Backend for Nowhere {
        async fn send(&self, _: Request<Body>) -> Result<Response<Body>, SendError> {
            panic!("nothing is sent in this test")
        }
    }

    #[test]
    fn the_ring_is_nginxs_point_for_point() {
        let keep = Keep::default();
        let endpoints =
            (1..=3).map(|n| Endpoint::new(n.to_string(), Nowhere).unwrap().placement(format!("10.0.0.{n}:7070")));
        Cluster::builder().endpoints(endpoints).balancer(keep.clone()).build().unwrap();
        let rings = keep.0.lock();
        let ring = rings.iter().find(|ring| !ring.points.is_empty()).unwrap();
        assert_eq!((ring.points.len(), &ring.names[..]), (480, &[vec![0], vec![1], vec![2]][..]));
        // Computed from the C of nginx 1.22.
        let first = [0x1_efbe, 0x1f_8d0c, 0x75_b52f].map(|hash| Point { hash, name: 0 });
        assert_eq!(ring.points[..3], first);
        for (digest, hash, name) in [
            (0xe8b7_be43_u32, 0xe913_b2b8, 2),
            (0x7f5a_cfc6, 0x7fde_079d, 1),
            (0xbb57_8739, 0xbca6_194e, 2),
            (0xddd8_d001, 0xdf3c_99a1, 2),
        ] {
            let at = ring.points.partition_point(|point| point.hash < digest);
            assert_eq!(ring.points[at], Point { hash, name }, "{digest:#x}");
        }
    }

    #[test]
    fn splits_names_as_nginx_does() {
        assert_eq!(split("10.0.0.1:7070"), ("10.0.0.1", "7070"));
        assert_eq!(split("kylin1"), ("kylin1", ""));
        assert_eq!(split("kylin:"), ("kylin:", ""));
        assert_eq!(split("[::1]:7070"), ("[::1]", "7070"));
        assert_eq!(split("[::1]"), ("[::1]", ""));
        assert_eq!(split("unix:/run/kylin.sock"), ("/run/kylin.sock", ""));
        assert_eq!(split("7070"), ("7070", ""));
    }
}
