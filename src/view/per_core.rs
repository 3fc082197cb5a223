//! The references that a pick returns: one to the endpoint's member, held by the lease, and one to
//! its backend.
//!
//! References are counted. A count that two cores change moves between their caches with each
//! change. So each core counts its own references, unless there are very many endpoints.

use std::sync::Arc;

use crate::endpoint::Member;
use crate::shard;

/// The maximum number of references of a group, unless the group has more endpoints.
const MAX_REFS: usize = 4096;

/// The references of a group.
pub(crate) struct PerCoreRefs<B> {
    /// One vector per core, in configuration order. The references of one core are contiguous, so
    /// that cores share no cache line.
    shards: Vec<Vec<EndpointRef<B>>>,
}

/// One core's references to one endpoint.
pub(crate) struct EndpointRef<B> {
    pub(crate) member: Arc<Member>,
    #[expect(
        clippy::redundant_allocation,
        reason = "picks count the outer reference, which belongs to one core, and not the inner one"
    )]
    pub(crate) backend: Arc<Arc<B>>,
}

impl<B> PerCoreRefs<B> {
    pub(crate) fn new(endpoints: &[(Member, Arc<B>)]) -> Self {
        let max = (MAX_REFS / endpoints.len().max(1)).max(1);
        let mut count = shard::count();
        while count > max {
            count /= 2;
        }
        let shard = || endpoints.iter().map(EndpointRef::new).collect();
        PerCoreRefs { shards: std::iter::repeat_with(shard).take(count).collect() }
    }

    /// Returns the current thread's references to the endpoint at `index`.
    #[inline]
    pub(crate) fn of_thread(&self, index: usize) -> &EndpointRef<B> {
        &self.shards[shard::of_thread(self.shards.len())][index]
    }

    pub(crate) fn backends(&self) -> impl Iterator<Item = &Arc<B>> {
        self.shards.first().into_iter().flatten().map(|endpoint| &*endpoint.backend)
    }
}

impl<B> EndpointRef<B> {
    fn new((member, backend): &(Member, Arc<B>)) -> Self {
        EndpointRef { member: Arc::new(member.clone()), backend: Arc::new(Arc::clone(backend)) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::clock::SystemClock;
    use crate::endpoint::{Endpoint, Live, Loads};
    use crate::health::impaired::ImpairedCount;

    fn refs(endpoints: usize) -> PerCoreRefs<usize> {
        let mut loads = Loads::new();
        let endpoint = |n: usize| {
            let live = Live::new(loads.next(n), Arc::new(SystemClock), None, ImpairedCount::default());
            let Endpoint { settings, backend } = Endpoint::new(n.to_string(), n).unwrap();
            (Member::new(Arc::new(settings), Arc::new(live)), backend)
        };
        PerCoreRefs::new(&(0..endpoints).map(endpoint).collect::<Vec<_>>())
    }

    #[test]
    fn each_core_has_references_of_its_own_to_the_same_endpoints() {
        let refs = refs(3);
        assert_eq!(refs.shards.len(), shard::count());
        for index in 0..3 {
            let all: Vec<_> = refs.shards.iter().map(|shard| &shard[index]).collect();
            let members: HashSet<_> = all.iter().map(|endpoint| Arc::as_ptr(&endpoint.member)).collect();
            let counted: HashSet<_> = all.iter().map(|endpoint| Arc::as_ptr(&endpoint.backend)).collect();
            assert_eq!((members.len(), counted.len()), (all.len(), all.len()));
            let first = all[0];
            assert!(all.iter().all(|endpoint| Arc::ptr_eq(&endpoint.member.live, &first.member.live)));
            assert!(all.iter().all(|endpoint| Arc::ptr_eq(&*endpoint.backend, &*first.backend)));
            assert_eq!((first.member.settings.id.as_str(), **first.backend), (index.to_string().as_str(), index));
        }
        assert_eq!(refs.backends().map(|backend| **backend).collect::<Vec<_>>(), [0, 1, 2]);
        let shard = shard::of_thread(shard::count());
        assert!(std::ptr::eq(refs.of_thread(2), &raw const refs.shards[shard][2]));
    }

    #[test]
    fn many_endpoints_are_not_multiplied() {
        assert_eq!(refs(MAX_REFS + 1).shards.len(), 1);
        assert!(refs(0).backends().next().is_none());
    }
}
