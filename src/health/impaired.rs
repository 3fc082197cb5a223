use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many impaired there are on the endpoints of a cluster: what may keep an endpoint from serving. An endpoint has one while
/// nginx's rule counts failures of it, and one while it is ejected as an outlier, down by the word of probes, or not known to be
/// one of the cluster.
///
/// nginx's rule forgets failures with a success some time later, so a spot stays on an endpoint that failed and has served nobody since.
///
/// Where there are none, as is the rule, a pick need not look at the endpoints one by one: that would be a cache line for each,
/// which every request that ends elsewhere takes away.
#[derive(Debug, Clone, Default)]
pub(crate) struct ImpairedCount(Arc<Line>);

/// On cache lines of its own, since it is read in every pick and hardly ever written.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Line(AtomicUsize);

impl ImpairedCount {
    #[inline]
    pub(crate) fn are_none(&self) -> bool {
        self.0.0.load(Ordering::Relaxed) == 0
    }

    /// What was or was not a spot before now is one or is none.
    pub(crate) fn change(&self, before: bool, now: bool) {
        match (before, now) {
            (false, true) => _ = self.0.0.fetch_add(1, Ordering::Relaxed),
            (true, false) => _ = self.0.0.fetch_sub(1, Ordering::Relaxed),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::ProbeFailure;
    use crate::health::outlier::Cause;
    use crate::health::passive::{Passive, Rule};
    use crate::health::state::State;
    use crate::health::verdict::Thresholds;

    const RULE: Rule = Rule { max_fails: 2, fail_timeout_ms: 10 };
    const CHECKER: u64 = 1;

    /// Does one thing to an endpoint.
    fn act(action: u8, passive: &Passive, state: &State, now: u64) {
        let probed = |result| _ = state.observe(CHECKER, Thresholds { fall: 1, rise: 1 }, result, now);
        match action {
            0 => _ = passive.fail(RULE, now),
            1 => _ = passive.choose(RULE, || now),
            2 => _ = passive.succeed(RULE),
            3 => _ = state.eject(Cause::Consecutive, now, |_| 20),
            4 => _ = state.expire(now),
            5 => state.pardon(now),
            6 => state.attach(CHECKER, now.is_multiple_of(2), now),
            7 => state.detach(CHECKER, now),
            8 => probed(Ok(())),
            9 => probed(Err(ProbeFailure::Unreachable)),
            _ => state.join(now % 2, now),
        }
    }

    proptest::proptest! {
        #[test]
        fn there_are_none_exactly_while_nothing_is_said_against_anybody(
            actions in proptest::collection::vec((0..3_usize, 0..11_u8, 0..20_u64), 0..60),
        ) {
            let impaired = ImpairedCount::default();
            let mut endpoints: Vec<_> =
                (0..3).map(|_| (Passive::new(impaired.clone()), State::new(None, impaired.clone()))).collect();
            let mut now = 100;
            for (endpoint, action, later) in actions {
                now += later;
                let (passive, state) = &endpoints[endpoint];
                act(action, passive, state, now);
                let clean = endpoints.iter().all(|(passive, state)| passive.fails() == 0 && state.is_unbarred());
                proptest::prop_assert_eq!(impaired.are_none(), clean);
            }
            endpoints.clear();
            proptest::prop_assert!(impaired.are_none(), "an endpoint that is gone leaves none behind");
        }
    }

    #[test]
    fn threads_leave_none_behind() {
        let impaired = ImpairedCount::default();
        let (passive, state) = (Passive::new(impaired.clone()), State::new(None, impaired.clone()));
        state.attach(CHECKER, false, 0);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (passive, state) = (&passive, &state);
                scope.spawn(move || {
                    for n in 0..5_000_u64 {
                        let action = [0, 1, 2, 3, 5, 9, 8, 2][(n as usize + thread) % 8];
                        act(action, passive, state, 100 + 11 * n);
                    }
                });
            }
        });
        assert_eq!(impaired.are_none(), passive.fails() == 0 && state.is_unbarred());
        drop((passive, state));
        assert!(impaired.are_none());
    }
}
