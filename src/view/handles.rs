//! What picks hand out: a reference to the endpoint's member, in its lease, and one to its backend.
//!
//! References are counted, and a count that two cores change wanders from the cache of one to that of the other with each
//! change. So each core has handles of its own, as long as endpoints are not too many.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use http::{Request, Response};

use crate::backend::{Backend, SendError};
use crate::body::Body;
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
    pub(crate) backend: BackendRef<B>,
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

    pub(crate) fn backends(&self) -> impl Iterator<Item = &Arc<B>> {
        self.shards.first().into_iter().flatten().map(|handle| &*handle.backend)
    }
}

impl<B> Handle<B> {
    fn new(member: &Member, backend: &Arc<B>) -> Self {
        Handle { member: Arc::new(member.clone()), backend: BackendRef(Arc::new(Arc::clone(backend))) }
    }
}

/// A reference to a backend, counted apart from those that other cores have, so that cores do not contend for one count. It derefs to
/// an [`Arc`] of the backend, and so to the backend; `Arc::clone(&picked.backend)` or `Arc::from(picked.backend)` is how to keep it.
#[expect(
    clippy::redundant_allocation,
    reason = "picks count the outer one, which belongs to one core, and not the inner one"
)]
pub struct BackendRef<B>(Arc<Arc<B>>);

impl<B> From<BackendRef<B>> for Arc<B> {
    fn from(backend: BackendRef<B>) -> Self {
        Arc::clone(&backend.0)
    }
}

impl<B: Backend> Backend for BackendRef<B> {
    fn send(&self, request: Request<Body>) -> impl Future<Output = Result<Response<Body>, SendError>> + Send {
        B::send(self, request)
    }

    fn check_connect(&self) -> impl Future<Output = Result<(), SendError>> + Send {
        B::check_connect(self)
    }
}

impl<B> Clone for BackendRef<B> {
    #[inline]
    fn clone(&self) -> Self {
        BackendRef(Arc::clone(&self.0))
    }
}

impl<B> Deref for BackendRef<B> {
    type Target = Arc<B>;

    #[inline]
    fn deref(&self) -> &Arc<B> {
        &self.0
    }
}

impl<B: fmt::Debug> fmt::Debug for BackendRef<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::clock::SystemClock;
    use crate::endpoint::{Endpoint, Live, Loads};
    use crate::health::impaired::ImpairedCount;

    fn handles(endpoints: usize) -> Handles<usize> {
        let mut loads = Loads::new();
        let endpoint = |n: usize| {
            let live = Live::new(loads.next(n), Arc::new(SystemClock), None, ImpairedCount::default());
            let Endpoint { settings, backend } = Endpoint::new(n.to_string(), n).unwrap();
            (Member::new(Arc::new(settings), Arc::new(live)), backend)
        };
        Handles::new((0..endpoints).map(endpoint).collect())
    }

    #[test]
    fn each_core_has_references_of_its_own_to_the_same_endpoints() {
        let handles = handles(3);
        assert_eq!(handles.shards.len(), shard::count());
        for index in 0..3 {
            let all: Vec<_> = handles.shards.iter().map(|shard| &shard[index]).collect();
            let members: HashSet<_> = all.iter().map(|handle| Arc::as_ptr(&handle.member)).collect();
            let counted: HashSet<_> = all.iter().map(|handle| Arc::as_ptr(&handle.backend.0)).collect();
            assert_eq!((members.len(), counted.len()), (all.len(), all.len()));
            let first = all[0];
            assert!(all.iter().all(|handle| Arc::ptr_eq(&handle.member.live, &first.member.live)));
            assert!(all.iter().all(|handle| Arc::ptr_eq(&handle.backend, &first.backend)));
            assert_eq!((first.member.settings.id.as_str(), **first.backend), (index.to_string().as_str(), index));
        }
        assert_eq!(handles.backends().map(|backend| **backend).collect::<Vec<_>>(), [0, 1, 2]);
        let shard = shard::of_thread(shard::count());
        assert!(std::ptr::eq(handles.of_thread(2), &raw const handles.shards[shard][2]));
    }

    #[tokio::test]
    async fn what_is_picked_can_be_sent_with_and_kept() {
        struct Teapot;
        impl Backend for Teapot {
            async fn send(&self, _request: Request<Body>) -> Result<Response<Body>, SendError> {
                let mut answer = Response::new(Body::empty());
                *answer.status_mut() = http::StatusCode::IM_A_TEAPOT;
                Ok(answer)
            }

            async fn check_connect(&self) -> Result<(), SendError> {
                Err(SendError::new(crate::backend::SendErrorKind::Limit, "no tea"))
            }
        }

        async fn ask(backend: impl Backend) -> (u16, bool) {
            let answer = backend.send(Request::new(Body::empty())).await.unwrap();
            (answer.status().as_u16(), backend.check_connect().await.is_ok())
        }

        let kept = Arc::new(Teapot);
        let picked = BackendRef(Arc::new(Arc::clone(&kept)));
        assert_eq!(ask(picked.clone()).await, (418, false));
        assert!(Arc::ptr_eq(&Arc::from(picked), &kept));
    }

    #[test]
    fn many_endpoints_are_not_multiplied() {
        assert_eq!(handles(MOST + 1).shards.len(), 1);
        assert!(handles(0).backends().next().is_none());
    }
}
