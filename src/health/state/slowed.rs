//! Lowers the share of an endpoint whose node is slower than the others. A higher layer compares
//! the nodes.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::health::impaired::ImpairedCount;
use crate::health::slow_start::WHOLE;

/// The part of its share that an endpoint keeps.
#[derive(Debug)]
pub(crate) struct Slowed {
    share: AtomicU32,
    impaired: ImpairedCount,
}

impl Slowed {
    pub(crate) fn new(impaired: ImpairedCount) -> Self {
        Slowed { share: AtomicU32::new(WHOLE), impaired }
    }

    /// Sets the share, out of [`WHOLE`], and returns whether it has changed. If so, the caller
    /// [notifies](Self::notify).
    pub(crate) fn set(&self, share: u32) -> bool {
        let before = self.share.swap(share, Ordering::Relaxed);
        self.impaired.count(before < WHOLE, share < WHOLE);
        before != share
    }

    /// Wakes the tasks that wait for changes of health.
    pub(crate) fn notify(&self) {
        self.impaired.notify();
    }

    /// Returns the current share, out of [`WHOLE`].
    pub(crate) fn share(&self) -> u32 {
        self.share.load(Ordering::Relaxed)
    }
}

impl Drop for Slowed {
    fn drop(&mut self) {
        if self.set(WHOLE) {
            self.notify();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::health::SlowStart;
    use crate::health::state::EndpointHealth;

    #[test]
    fn an_endpoint_is_impaired_while_its_share_is_not_whole() {
        let impaired = ImpairedCount::default();
        let (slowed, other) = (Slowed::new(impaired.clone()), Slowed::new(impaired.clone()));
        assert!(!slowed.set(WHOLE) && impaired.is_zero());
        assert!(slowed.set(WHOLE / 2) && slowed.set(WHOLE / 3) && !slowed.set(WHOLE / 3) && other.set(1));
        assert_eq!((slowed.share(), impaired.is_zero()), (WHOLE / 3, false));
        assert!(slowed.set(WHOLE) && !impaired.is_zero());
        drop(other);
        assert!(impaired.is_zero());
    }
    #[test]
    fn a_slow_node_has_its_part_of_what_a_slow_start_gives_it() {
        let health = EndpointHealth::new(None, ImpairedCount::default());
        let settings = Some(SlowStart::over(Duration::from_secs(10)));
        health.begin_ramp(1_000);
        let share = |now| health.share(settings, || now);
        let before = [share(2_000), share(6_000), share(11_000)];
        assert!(before[0] < before[1] && before[1] < before[2] && before[2] == WHOLE, "{before:?}");
        health.begin_ramp(21_000);
        assert!(health.slowed.set(WHOLE / 4));
        for (now, before) in [(22_000, before[0]), (26_000, before[1]), (31_000, WHOLE)] {
            assert_eq!(share(now), before / 4);
        }
        assert!(health.slowed.set(1) && share(50_000) == 1);
    }
}
