//! A place that is taken while something lasts.
//!
//! A session counts as in use until the body of an answer is over. The body must not know of sessions, which stand above it; it
//! holds a [`DropGuard`], and dropping that gives the place back.

use std::sync::Arc;

/// Where places are taken.
pub(crate) trait Releases: Send + Sync {
    /// The place is free again. Called once for each that was taken.
    fn leave(&self, place: u64);
}

/// A place that is taken, until this is dropped.
pub(crate) struct DropGuard {
    seats: Arc<dyn Releases>,
    place: u64,
}

impl DropGuard {
    /// The place was taken at `seats`.
    pub(crate) fn new(seats: Arc<dyn Releases>, place: u64) -> Self {
        DropGuard { seats, place }
    }
}

impl Drop for DropGuard {
    fn drop(&mut self) {
        self.seats.leave(self.place);
    }
}
