use std::sync::Arc;

use crate::endpoint::{Lease, Member};
use crate::kylin::resource_groups::NodeGroup;

/// The endpoints that are excluded for a request: those that it was sent to, and those outside the
/// resource group of its project. Allocates from the fifth endpoint on.
#[derive(Debug, Default)]
pub struct Attempted {
    first: [u64; 4],
    count: usize,
    more: Vec<u64>,
    /// Whether the last endpoint responded, so that the client can get its response.
    has_response: bool,
    /// Only endpoints in this group may serve the request.
    group: Option<Arc<NodeGroup>>,
}

impl Attempted {
    /// Returns the empty set.
    pub fn none() -> Self {
        Attempted::default()
    }

    /// Returns the empty set for a request that only endpoints in `group` may serve.
    pub(crate) fn within(group: Arc<NodeGroup>) -> Self {
        Attempted { group: Some(group), ..Attempted::default() }
    }

    /// Returns whether no endpoint is excluded.
    #[inline]
    pub(crate) fn excludes_none(&self) -> bool {
        self.count == 0 && self.group.is_none()
    }

    /// Returns whether the endpoint is outside the group of the request.
    pub(crate) fn is_outside(&self, member: &Member) -> bool {
        self.group.as_ref().is_some_and(|group| !group.has(member.settings.id.as_str(), &member.settings.placement))
    }

    /// Adds the endpoint of `lease`, unless the set contains it.
    pub fn add(&mut self, lease: &Lease) {
        self.insert(lease.uid());
    }

    /// Returns the number of endpoints.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Returns whether the set is empty.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Records whether the last endpoint responded. If so, the client can get that response instead
    /// of another attempt.
    pub(crate) fn set_has_response(&mut self, has_response: bool) {
        self.has_response = has_response;
    }

    pub(crate) fn has_response(&self) -> bool {
        self.has_response
    }

    pub(crate) fn insert(&mut self, uid: u64) {
        if self.has(uid) {
            return;
        }
        match self.first.get_mut(self.count) {
            Some(slot) => *slot = uid,
            None => self.more.push(uid),
        }
        self.count += 1;
    }

    pub(crate) fn contains(&self, member: &Member) -> bool {
        self.has(member.live.uid) || self.is_outside(member)
    }

    #[inline(never)]
    fn has(&self, uid: u64) -> bool {
        self.first[..self.count.min(self.first.len())].contains(&uid) || self.more.contains(&uid)
    }
}
