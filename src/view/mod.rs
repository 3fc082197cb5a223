//! The published state of a cluster that picks read. It is immutable, and replaced as a whole at
//! every change.

mod layout;
mod modulus;
mod per_core;
mod rotation;
mod smooth_order;
mod weights;

use ahash::AHashMap;

pub(crate) use self::layout::Layout;
pub(crate) use self::per_core::{EndpointRef, PerCoreRefs};
pub(crate) use self::rotation::{RotationCounters, RotationCursor};
use crate::endpoint::{EndpointHint, EndpointId};

/// All endpoints of a cluster, in two groups.
pub(crate) struct View<B> {
    pub(crate) primary: Group<B>,
    pub(crate) backup: Group<B>,
    by_id: AHashMap<EndpointId, Position>,
    /// By the hash of the id.
    by_id_hash: AHashMap<u64, Position>,
    /// By group and the hash of the route. If endpoints of a group share a route, the first one
    /// owns it, as in nginx (ngx_http_upstream_get_rr_peer_by_sid).
    by_route_hash: AHashMap<(bool, u64), u32>,
}

/// Endpoints that can replace each other.
pub(crate) struct Group<B> {
    pub(crate) layout: Layout,
    /// Parallel to `layout.slots`.
    pub(crate) refs: PerCoreRefs<B>,
}

/// The position of an endpoint: whether it is a backup, and the index in its group.
type Position = (bool, u32);

impl<B> View<B> {
    pub(crate) fn new(primary: Group<B>, backup: Group<B>) -> Self {
        let (mut by_id, mut by_id_hash, mut by_route_hash) = (AHashMap::new(), AHashMap::new(), AHashMap::new());
        for (is_backup, group) in [(false, &primary), (true, &backup)] {
            for (index, slot) in (0_u32..).zip(&group.layout.slots) {
                let settings = &slot.member.settings;
                by_id.insert(settings.id.clone(), (is_backup, index));
                by_id_hash.insert(settings.id.hash64(), (is_backup, index));
                if let Some(route) = &settings.route {
                    let hash = EndpointHint::route_hash(route.as_bytes());
                    by_route_hash.entry((is_backup, hash)).or_insert(index);
                }
            }
        }
        View { primary, backup, by_id, by_id_hash, by_route_hash }
    }

    /// Returns the group and the index of the endpoint called `id`.
    pub(crate) fn find(&self, id: &str) -> Option<(&Group<B>, usize)> {
        Some(self.at(*self.by_id.get(id)?))
    }

    /// Returns the groups in the order in which they serve. `true` marks the backups.
    pub(crate) fn groups(&self) -> [(bool, &Group<B>); 2] {
        [(false, &self.primary), (true, &self.backup)]
    }

    /// Returns the index, among the backups or the primary endpoints, of the endpoint that `hint`
    /// names.
    pub(crate) fn find_in_group(&self, is_backup: bool, hint: &EndpointHint) -> Option<usize> {
        let (found_in, index) = match hint {
            EndpointHint::Id(id) => *self.by_id.get(id)?,
            EndpointHint::IdHash(hash) => *self.by_id_hash.get(hash)?,
            EndpointHint::RouteHash(hash) => (is_backup, *self.by_route_hash.get(&(is_backup, *hash))?),
            EndpointHint::Any | EndpointHint::Key(_) => return None,
        };
        (found_in == is_backup).then_some(index as usize)
    }

    /// Returns the group and the index of the endpoint that `hint` names; a primary endpoint takes
    /// precedence over a backup.
    pub(crate) fn find_hinted(&self, hint: &EndpointHint) -> Option<(&Group<B>, usize)> {
        let find = |(is_backup, group)| Some((group, self.find_in_group(is_backup, hint)?));
        self.groups().into_iter().find_map(find)
    }

    fn at(&self, (is_backup, index): Position) -> (&Group<B>, usize) {
        (if is_backup { &self.backup } else { &self.primary }, index as usize)
    }
}

/// Returns the maximum length of a list over all units of weight, for a group of this many
/// endpoints.
fn max_list_len(endpoints: usize) -> u64 {
    (1 << 16).max(16 * endpoints as u64)
}
