//! The ring of `hash ... consistent`, identical to nginx's at every point
//! (ngx_http_upstream_init_chash).

use std::collections::btree_map::Entry;

use super::{Candidate, Candidates};
use crate::hash::Crc32;

/// Points per unit of weight.
const POINTS_PER_WEIGHT: u64 = 160;

/// The maximum number of points of a ring, 8 bytes each. Greater weights share these points.
const MAX_POINTS: u64 = 1 << 22;

/// A hash ring over the names ([`Endpoint::placement`](crate::Endpoint::placement)) of a view's
/// members.
#[derive(Debug)]
pub(super) struct Ring {
    /// Sorted by hash, each hash once.
    points: Vec<Point>,
    /// The members that share each name, in configuration order. A host name may stand for several
    /// addresses.
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
        let mut indexes = std::collections::BTreeMap::new();
        let total_weight = members.total_weight();
        let total_points = (total_weight * POINTS_PER_WEIGHT).min(MAX_POINTS);
        let mut points = Vec::new();
        for member in members.all() {
            let name = match indexes.entry(member.placement()) {
                Entry::Occupied(name) => *name.get(),
                Entry::Vacant(vacant) => {
                    names.push(Vec::new());
                    *vacant.insert(names.len() - 1)
                }
            };
            names[name].push(member.index());
            let count = u128::from(member.weight()) * u128::from(total_points) / u128::from(total_weight);
            points.extend(points_of(member.placement(), count.max(1)).map(|hash| Point { hash, name: name as u32 }));
        }
        // The sort is stable, so among equal hashes the first configured one stays.
        points.sort_by_key(|point| point.hash);
        points.dedup_by_key(|point| point.hash);
        Ring { points, names }
    }

    /// Returns the first eligible endpoint at or after `digest`.
    pub(super) fn pick<'c>(&self, digest: u32, from: &Candidates<'c>) -> Option<Candidate<'c>> {
        let start = self.points.partition_point(|point| point.hash < digest);
        let (before, after) = self.points.split_at(start);
        let mut rejected = None;
        for point in after.iter().chain(before).take(self.search_limit()) {
            if rejected == Some(point.name) {
                continue;
            }
            if let Some(candidate) = pick_named(&self.names[point.name as usize], from) {
                return Some(candidate);
            }
            rejected = Some(point.name);
        }
        None
    }

    /// Returns how many points are searched: enough to reach every name with near certainty while
    /// any endpoint is eligible.
    fn search_limit(&self) -> usize {
        self.points.len().min(POINTS_PER_WEIGHT as usize * 20)
    }
}

/// Returns the eligible member of a name. If there are several, returns the next in rotation.
fn pick_named<'c>(members: &[usize], from: &Candidates<'c>) -> Option<Candidate<'c>> {
    let eligible = || members.iter().map(|index| from.at(*index)).filter(|candidate| from.is_eligible(*candidate));
    if members.len() == 1 {
        return eligible().next();
    }
    // The shared rotation serves the members of one name evenly by weight.
    let next = (0..from.len()).filter_map(|_| from.next_in_rotation()).find(|next| eligible().any(|one| one == *next));
    next.or_else(|| eligible().next())
}

/// Returns the points of a name. As in nginx each point is the CRC-32 of host, NUL, port and the
/// previous point in little-endian order.
fn points_of(name: &str, count: u128) -> impl Iterator<Item = u32> + use<> {
    let (host, port) = split(name);
    let mut base = Crc32::default();
    base.update(host.as_bytes());
    base.update(&[0]);
    base.update(port.as_bytes());
    let mut previous = 0_u32;
    (0..count).map(move |_| {
        let mut crc = base.clone();
        crc.update(&previous.to_le_bytes());
        previous = crc.finish();
        previous
    })
}

/// Splits a server's name as nginx does: trailing `:digits` are the port, and a `unix:` prefix is
/// dropped.
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

    /// Keeps the rings of clusters for the test.
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
    fn the_ring_equals_nginxs_point_for_point() {
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
    fn names_are_split_as_nginx_does() {
        assert_eq!(split("10.0.0.1:7070"), ("10.0.0.1", "7070"));
        assert_eq!(split("kylin1"), ("kylin1", ""));
        assert_eq!(split("kylin:"), ("kylin:", ""));
        assert_eq!(split("[::1]:7070"), ("[::1]", "7070"));
        assert_eq!(split("[::1]"), ("[::1]", ""));
        assert_eq!(split("unix:/run/kylin.sock"), ("/run/kylin.sock", ""));
        assert_eq!(split("7070"), ("7070", ""));
    }
}
