use std::sync::Arc;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::sync::{AtomicBool, AtomicUsize, Ordering};

/// Counts the impairments of the endpoints of a cluster: facts that may keep an endpoint from
/// serving, or lower its share.
///
/// An endpoint has up to four impairments:
///
/// - nginx's rule counts failures against it;
/// - it is withdrawn because of requests, unhealthy by its probes, quarantined, or not verified;
/// - its share is [reduced](super::reduced_share::ReducedShare);
/// - its node is slower than the others.
///
/// nginx's rule forgets failures only at a later success. So an endpoint that failed and has served
/// no request since stays impaired.
///
/// While there are none, which is the normal case, a pick need not read the state of each endpoint.
/// Reading it would cost a cache line per endpoint, which every request that ends on another core
/// invalidates.
#[derive(Debug, Clone, Default)]
pub(crate) struct ImpairedCount(Arc<Line>);

/// On cache lines of its own, because every pick reads it and hardly anything writes it.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Line {
    count: AtomicUsize,
    /// Whether requests have failed, so that outcomes are compared when an interval ends.
    watched: AtomicBool,
    /// Notified when the health of an endpoint may have changed, for observers.
    changed: Notify,
}

impl ImpairedCount {
    #[inline]
    pub(crate) fn is_zero(&self) -> bool {
        self.0.count.load(Ordering::Relaxed) == 0
    }

    /// Returns whether successes must be counted: see [`watch`](Self::watch).
    #[inline]
    pub(crate) fn is_watched(&self) -> bool {
        self.0.watched.load(Ordering::Relaxed)
    }

    /// Makes the cluster count each success, until [`unwatch`](Self::unwatch).
    pub(crate) fn watch(&self) {
        self.0.watched.store(true, Ordering::Relaxed);
    }

    pub(crate) fn unwatch(&self) {
        self.0.watched.store(false, Ordering::Relaxed);
    }

    /// Completes at the next change of the health of an endpoint.
    pub(crate) fn changed(&self) -> Notified<'_> {
        self.0.changed.notified()
    }

    /// Wakes the tasks that wait for a change of health. Costs one atomic operation if there are
    /// none.
    pub(crate) fn notify(&self) {
        self.0.changed.notify_waiters();
    }

    /// Updates the count after an impairment began or ended, and wakes the tasks that wait for
    /// changes.
    pub(crate) fn change(&self, before: bool, now: bool) {
        self.count(before, now);
        self.notify();
    }

    /// Counts the change of one possible impairment.
    pub(super) fn count(&self, before: bool, now: bool) {
        match (before, now) {
            (false, true) => _ = self.0.count.fetch_add(1, Ordering::Relaxed),
            (true, false) => _ = self.0.count.fetch_sub(1, Ordering::Relaxed),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use crate::health::passive::{Passive, PassiveRule};
    use crate::health::state::{EndpointHealth, Failure};
    use crate::health::{CheckerId, ProbeFailure, Reason, Thresholds};

    const RULE: PassiveRule = PassiveRule { max_fails: 2, fail_timeout_ms: 10 };

    /// Applies one of 16 actions to an endpoint.
    fn act(action: u8, checker: CheckerId, passive: &Passive, health: &EndpointHealth, now: u64) {
        let thresholds = Thresholds { fall: NonZeroU32::MIN, rise: NonZeroU32::MIN };
        let probed = |result| _ = health.record_probe(checker, thresholds, result, passive, now / 7, now);
        let failure = Failure {
            unreached: now.is_multiple_of(2),
            on_trial: true,
            governed: true,
            alone: false,
            is_ejected: false,
            in_flight: 1,
            is_late: false,
        };
        match action {
            0 => _ = passive.fail(RULE, now.is_multiple_of(2), now),
            1 => _ = passive.choose(RULE, || now),
            2 => _ = passive.succeed(RULE),
            3 => _ = health.eject(Reason::Consecutive, now, 10, |_| 20),
            4 => _ = health.expire(now),
            5 => health.cancel_ejection(now),
            6 => health.attach_checker(checker, now.is_multiple_of(2), now),
            7 => health.detach_checker(checker, now),
            8 => probed(Ok(())),
            9 => probed(Err(ProbeFailure::Unreachable)),
            10 => _ = health.eject_unreachable(now),
            11 => _ = health.fail(failure, now),
            12 => _ = health.share(None, || now),
            13 => _ = health.drain(Reason::Closing, now),
            14 => _ = health.choose(false, || now) && health.succeed(true, || now),
            _ => health.set_verifier((now % 2 == 1).then_some(checker), now),
        }
    }

    proptest::proptest! {
        #[test]
        fn the_count_is_zero_exactly_while_no_endpoint_is_impaired(
            actions in proptest::collection::vec((0..3_usize, 0..16_u8, 0..20_u64), 0..60),
        ) {
            let (impaired, checker) = (ImpairedCount::default(), CheckerId::next());
            let mut endpoints: Vec<_> =
                (0..3).map(|_| (Passive::new(impaired.clone()), EndpointHealth::new(None, impaired.clone()))).collect();
            let mut now = 100;
            for (endpoint, action, later) in actions {
                now += later;
                let (passive, health) = &endpoints[endpoint];
                act(action, checker, passive, health, now);
                let none = endpoints.iter().all(|(passive, health)| passive.fails() == 0 && !health.is_impaired() && health.reduced_share.is_whole());
                proptest::prop_assert_eq!(impaired.is_zero(), none);
            }
            endpoints.clear();
            proptest::prop_assert!(impaired.is_zero(), "an endpoint that is gone leaves none behind");
        }
    }

    #[test]
    fn threads_leave_none_behind() {
        let (impaired, checker) = (ImpairedCount::default(), CheckerId::next());
        let (passive, health) = (Passive::new(impaired.clone()), EndpointHealth::new(None, impaired.clone()));
        health.attach_checker(checker, false, 0);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (passive, health) = (&passive, &health);
                scope.spawn(move || {
                    for n in 0..5_000_u64 {
                        let action = [0, 1, 2, 3, 5, 9, 8, 10, 12, 2][(n as usize + thread) % 10];
                        act(action, checker, passive, health, 100 + 11 * n);
                    }
                });
            }
        });
        assert_eq!(
            impaired.is_zero(),
            passive.fails() == 0 && !health.is_impaired() && health.reduced_share.is_whole()
        );
        drop((passive, health));
        assert!(impaired.is_zero());
    }
}
