//! A place that is taken while something lasts.
//!
//! A session counts as in use until the body of an answer is over. The body must not know of sessions, which stand above it; it
//! holds a [`Seat`], and dropping that gives the place back.

use std::sync::Arc;

/// Where places are taken.
pub(crate) trait Seats: Send + Sync {
    /// The place is free again. Called once for each that was taken.
    fn leave(&self, place: u64);
}

/// A place that is taken, until this is dropped.
pub(crate) struct Seat {
    seats: Arc<dyn Seats>,
    place: u64,
}

impl Seat {
    /// The place was taken at `seats`.
    pub(crate) fn new(seats: Arc<dyn Seats>, place: u64) -> Self {
        Seat { seats, place }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.leave(self.place);
    }
}
