//! A guard that releases something when it is dropped.
//!
//! A session counts as in use until the end of a response body. The body is in a lower layer than
//! sessions, so it holds a [`DropGuard`] and knows nothing about sessions.

use std::sync::Arc;

/// The owner of the resources that guards release.
pub(crate) trait Release: Send + Sync {
    /// Releases the resource of `token`. Called once for each guard.
    fn release(&self, token: u64);
}

/// Calls [`Release::release`] when it is dropped.
pub(crate) struct DropGuard {
    owner: Arc<dyn Release>,
    token: u64,
}

impl DropGuard {
    pub(crate) fn new(owner: Arc<dyn Release>, token: u64) -> Self {
        DropGuard { owner, token }
    }
}

impl Drop for DropGuard {
    fn drop(&mut self) {
        self.owner.release(self.token);
    }
}
