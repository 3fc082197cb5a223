//! What picks hand out: a reference to the endpoint's member, in its lease, and one to its backend.
//!
//! References are counted, and a count that two cores change wanders from the cache of one to that of the other with each
//! change. So each core has handles of its own, as long as endpoints are not too many.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use crate::endpoint::Member;
use crate::shard;

/// The most handles that a group has, unless it has more endpoints.
const MOST: usize = 4096;

/// The handles of a group, each time in configuration order.
pub(crate) struct Handles<B> {
    /// One per core.
    shards: Vec<Vec<Handle<B>>>,
}

/// One endpoint's.
pub(crate) struct Handle<B> {
    pub(crate) member: Arc<Member>,
    pub(crate) backend: Shared<B>,
}

impl<B> Handles<B> {
    pub(crate) fn new(endpoints: Vec<(Member, Arc<B>)>) -> Self {
        let most = (MOST / endpoints.len().max(1)).max(1);
        let mut count = shard::count();
        while count > most {
            count /= 2;
        }
        // Those of one core in a row, so that what lies side by side in memory belongs to one core.
        let shard = || endpoints.iter().map(|(member, backend)| Handle::new(member, backend)).collect();
        Handles { shards: std::iter::repeat_with(shard).take(count).collect() }
    }

    /// That of the endpoint at `index`, from the present thread's core.
    #[inline]
    pub(crate) fn of_thread(&self, index: usize) -> &Handle<B> {
        &self.shards[shard::of_thread(self.shards.len())][index]
    }

    pub(crate) fn members(&self) -> impl Iterator<Item = &Arc<Member>> {
        self.first().map(|handle| &handle.member)
    }

    pub(crate) fn backends(&self) -> impl Iterator<Item = &Arc<B>> {
        self.first().map(|handle| &*handle.backend)
    }

    /// Those of one core, whichever.
    fn first(&self) -> impl Iterator<Item = &Handle<B>> {
        self.shards.first().into_iter().flatten()
    }
}

impl<B> Handle<B> {
    fn new(member: &Member, backend: &Arc<B>) -> Self {
        Handle { member: Arc::new(member.clone()), backend: Shared(Arc::new(Arc::clone(backend))) }
    }
}

/// A reference to a backend, made and given up without meeting those that other cores have. Stands for an `Arc` of it.
pub struct Shared<B>(Arc<Arc<B>>);

impl<B> Clone for Shared<B> {
    #[inline]
    fn clone(&self) -> Self {
        Shared(Arc::clone(&self.0))
    }
}

impl<B> Deref for Shared<B> {
    type Target = Arc<B>;

    #[inline]
    fn deref(&self) -> &Arc<B> {
        &self.0
    }
}

impl<B: fmt::Debug> fmt::Debug for Shared<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self.0, f)
    }
}
