//! The slots of endpoints with a limit of requests in flight. A higher layer assigns them to the
//! waiting requests.

use std::any::Any;
use std::num::NonZeroU32;
use std::sync::Arc;

use super::Live;

/// Assigns the slots of the endpoints of one cluster.
pub(crate) trait SlotOwner: Any + Send + Sync {
    /// Sets the endpoints and their limits. The cluster calls it at each change of membership, one
    /// call at a time.
    fn set_limits(&self, limits: &[(Arc<Live>, Option<NonZeroU32>)]);

    /// Ends the claim `token`: the request left the queue, or its slot is free. If `succeeded`, the
    /// request held its slot until a successful end, so its duration is typical.
    fn end(&self, token: u64, succeeded: bool);
}

/// A request's claim to a slot of its endpoint: the request waits for the slot or holds it.
/// Dropping the claim ends it.
pub(crate) struct SlotClaim {
    owner: Arc<dyn SlotOwner>,
    token: u64,
    /// Whether the request still waits as far as it knows; it may have been given its slot.
    pub(super) is_waiting: bool,
    /// Whether the response is a success, so that the request succeeds if its body ends well.
    pub(super) may_succeed: bool,
    pub(super) succeeded: bool,
}

impl SlotClaim {
    pub(super) fn new(owner: Arc<dyn SlotOwner>, token: u64) -> Box<Self> {
        Box::new(SlotClaim { owner, token, is_waiting: true, may_succeed: false, succeeded: false })
    }

    pub(super) fn token(&self) -> u64 {
        self.token
    }
}

impl Drop for SlotClaim {
    fn drop(&mut self) {
        self.owner.end(self.token, self.succeeded);
    }
}
