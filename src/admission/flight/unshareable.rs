use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::{Clock, Epoch};

/// How long no query waits for an identical one after a response that could not be copied.
const WINDOW: Duration = Duration::from_secs(60);

const SLOTS: usize = 256;

/// The queries whose responses recently could not be copied, so that identical ones do not wait for
/// a copy. A slot holds one of the queries that share it.
pub(super) struct Unshareable {
    slots: [Slot; SLOTS],
    epoch: Epoch,
}

struct Slot {
    hash: AtomicU64,
    /// In milliseconds of the epoch.
    until: AtomicU64,
}

impl Unshareable {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        let slots = [const { Slot { hash: AtomicU64::new(0), until: AtomicU64::new(0) } }; SLOTS];
        Unshareable { slots, epoch: Epoch::new(clock) }
    }

    pub(super) fn has(&self, hash: u64) -> bool {
        let slot = self.slot(hash);
        slot.hash.load(Ordering::Relaxed) == hash && self.epoch.millis() < slot.until.load(Ordering::Relaxed)
    }

    pub(super) fn add(&self, hash: u64) {
        let slot = self.slot(hash);
        let window = WINDOW.as_millis() as u64;
        slot.until.store(self.epoch.millis() + window, Ordering::Relaxed);
        slot.hash.store(hash, Ordering::Relaxed);
    }

    fn slot(&self, hash: u64) -> &Slot {
        &self.slots[hash as usize % SLOTS]
    }
}

#[cfg(all(test, feature = "test-util"))]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    #[test]
    fn a_query_is_remembered_for_the_window() {
        let clock = ManualClock::new();
        let unshareable = Unshareable::new(Arc::new(clock.clone()));
        assert!(!unshareable.has(0) && !unshareable.has(7));
        unshareable.add(7);
        assert!(unshareable.has(7) && !unshareable.has(7 + SLOTS as u64));
        clock.advance(WINDOW);
        assert!(!unshareable.has(7));
    }
}
