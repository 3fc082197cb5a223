//! Delays logins with credentials that were not accepted, and distinguishes a wrong password from a
//! user source that is down.
//!
//! Kylin 2.x-4.x respond with 401 to a wrong password, and also while LDAP is unreachable. So a
//! refusal counts only if a second node confirms it after a delay. Kylin 5 and LDAP lock a user
//! after a few wrong passwords, so meanwhile no node gets the credentials.
//!
//! A login during which a node dies has no response, but the node may have counted a wrong
//! password. A node that restarts breaks one login, and the next node accepts the credentials. So
//! only a second broken login in a row delays logins.
//!
//! The front ends of one store share refusals. A front end marks refused credentials in the store,
//! and removes the mark when a node accepts them. It looks for the mark before it sends
//! credentials, and before it ends a session whose credentials were refused. The front ends claim
//! each repeated login in the store
//! ([`claim_login`](super::super::sealed_sessions::SealedSessions::claim_login)).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::clock::Clock;
use crate::endpoint::EndpointId;
use crate::session::SessionKey;
use crate::session::store::latest::Latest;

/// The minimum time between two logins with credentials that were not accepted.
pub(super) const DELAY: Duration = Duration::from_secs(30);
/// The factor of the delay: after each refusal, the delay is this many times the time since the
/// first one. A wrong password is then sent after 0 s, 30 s, 2, 8 and 32 minutes, which is below
/// the usual limits of directories.
const GROWTH: u32 = 3;
/// The maximum delay. A failure is also forgotten this long after the end of its delay.
pub(super) const MAX_DELAY: Duration = Duration::from_secs(3600);
/// The time after which a front end tries again to claim a login.
const CLAIM_INTERVAL: Duration = Duration::from_secs(5);
/// The maximum number of remembered credentials.
const CAPACITY: usize = 10_000;

/// The failed logins of this front end, by the fingerprint of their credentials.
pub(in super::super) struct LoginBackoff {
    failures: Mutex<Latest<SessionKey, LoginFailure>>,
    /// Whether a login has failed. If not, requests need neither the lock nor the fingerprint.
    has_failures: AtomicBool,
    clock: Arc<dyn Clock>,
}

/// The failed logins with one pair of credentials since this front end last learned that a node
/// accepted them.
#[derive(Clone)]
struct LoginFailure {
    /// The only node that failed to check the credentials. During the delay, other nodes may still
    /// get them. `None` if the delay applies to all nodes.
    failed_at: Option<EndpointId>,
    /// The node that first refused the credentials, and the time. It may have refused them because
    /// it could not check them.
    refused: Option<(EndpointId, Instant)>,
    /// Whether the credentials are known to be wrong: by a second refusal, a node's response, or
    /// another front end's mark.
    is_confirmed: bool,
    /// The last time at which the store had a mark of the last refusal. If the mark is gone later,
    /// a node has accepted the credentials, or the mark has expired.
    marked: Option<Instant>,
    /// Whether the only failure is one broken login, which delays nothing.
    is_first_break: bool,
    /// The time before which no node gets the credentials.
    until: Instant,
}

/// Whether credentials may be sent to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Permit {
    /// The credentials may be sent.
    Send,
    /// The credentials may be sent if the login can be claimed. No other permit is given for
    /// [`CLAIM_INTERVAL`].
    SendOnce,
    /// The credentials may not be sent now.
    Wait,
}

impl LoginBackoff {
    pub(in super::super) fn new(clock: Arc<dyn Clock>) -> Self {
        LoginBackoff { failures: Mutex::default(), has_failures: AtomicBool::new(false), clock }
    }

    /// Returns whether the credentials wait for the end of a delay.
    pub(in super::super) fn is_waiting(&self, credentials: impl FnOnce() -> SessionKey) -> bool {
        self.has_failures.load(Ordering::Relaxed)
            && self.failures.lock().get(&credentials()).is_some_and(|failure| self.clock.now() < failure.until)
    }

    /// Returns whether a login with the credentials has failed since the last success. A single
    /// broken login does not count.
    pub(in super::super) fn has_failed(&self, credentials: &SessionKey) -> bool {
        self.has_failures.load(Ordering::Relaxed)
            && self.failures.lock().get(credentials).is_some_and(|failure| !failure.is_first_break)
    }

    /// Returns whether the credentials are known to be wrong.
    pub(in super::super) fn is_confirmed(&self, credentials: &SessionKey) -> bool {
        self.failures.lock().get(credentials).is_some_and(|failure| failure.is_confirmed)
    }

    /// Returns whether the store had a mark of the credentials, which another front end may have
    /// removed.
    pub(super) fn is_marked(&self, credentials: &SessionKey) -> bool {
        self.failures.lock().get(credentials).is_some_and(|failure| failure.marked.is_some())
    }

    /// Decides whether the node at `endpoint` may get the credentials.
    pub(super) fn permit(&self, credentials: &SessionKey, endpoint: &EndpointId) -> Permit {
        let now = self.clock.now();
        let mut failures = self.failures.lock();
        let Some(failure) = failures.get_mut(credentials).filter(|failure| failure.delays(now)) else {
            return Permit::Send;
        };
        if now < failure.until {
            let is_elsewhere = failure.failed_at.as_ref().is_some_and(|at| at != endpoint);
            return if is_elsewhere { Permit::Send } else { Permit::Wait };
        }
        // A second refusal by the same node confirms nothing while another node can be asked.
        let is_useless = |(at, since): &(EndpointId, Instant)| at == endpoint && now < *since + 2 * DELAY;
        if !failure.is_confirmed && failure.refused.as_ref().is_some_and(is_useless) {
            return Permit::Wait;
        }
        failure.until = now + CLAIM_INTERVAL;
        Permit::SendOnce
    }

    /// Records that the login of a [`Permit::SendOnce`] is claimed.
    pub(super) fn claimed(&self, credentials: &SessionKey) {
        if let Some(failure) = self.failures.lock().get_mut(credentials) {
            failure.until = failure.until.max(self.clock.now() + DELAY);
        }
    }

    /// Records that the node at `endpoint` failed to check the credentials. If a second node fails,
    /// no node gets them.
    pub(super) fn node_failed(&self, credentials: SessionKey, endpoint: &EndpointId) {
        self.note(credentials, |failure, is_first, _| match &failure.failed_at {
            None if is_first => failure.failed_at = Some(endpoint.clone()),
            Some(at) if at != endpoint => failure.failed_at = None,
            Some(_) | None => {}
        });
    }

    /// Records that no node can check the credentials at present.
    pub(in super::super) fn unchecked(&self, credentials: SessionKey) {
        self.note(credentials, |failure, _, _| failure.failed_at = None);
    }

    /// Records that a login broke, and that its node may have checked the credentials.
    pub(super) fn broke(&self, credentials: SessionKey) {
        let now = self.clock.now();
        let mut failures = self.failures.lock();
        if failures.get(&credentials).is_some_and(|failure| !failure.is_old(now)) {
            drop(failures);
            return self.unchecked(credentials);
        }
        failures.put(credentials, LoginFailure { is_first_break: true, ..LoginFailure::new(now) }, CAPACITY);
        self.has_failures.store(true, Ordering::Relaxed);
    }

    /// Records that the credentials are wrong. After the delay, the mark in the store decides
    /// whether a node gets them.
    pub(super) fn wrong(&self, credentials: SessionKey) {
        self.note(credentials, |failure, _, _| {
            (failure.failed_at, failure.is_confirmed, failure.marked) = (None, true, None);
        });
    }

    /// Records that the store has a mark of the last refusal.
    pub(super) fn marked(&self, credentials: &SessionKey) {
        if let Some(failure) = self.failures.lock().get_mut(credentials) {
            failure.marked = Some(self.clock.now());
        }
    }

    /// Records that a lookup that began at the time `begun` found no mark of the credentials.
    ///
    /// If the store had a mark before, the delay is over. The next login must be claimed, and its
    /// refusal would count as the first one. A mark that was written after `begun` stays valid.
    pub(super) fn unmarked(&self, credentials: &SessionKey, begun: Instant) {
        let now = self.clock.now();
        if let Some(failure) = self.failures.lock().get_mut(credentials)
            && failure.marked.is_some_and(|marked| marked <= begun)
        {
            *failure = LoginFailure::new(now);
        }
    }

    /// Returns the time of the clock.
    pub(super) fn now(&self) -> Instant {
        self.clock.now()
    }

    /// Records that the node at `endpoint` refused the credentials, or could not check them.
    /// Returns the delay that begins.
    pub(super) fn refused(&self, credentials: SessionKey, endpoint: &EndpointId) -> Duration {
        self.note(credentials, |failure, _, now| {
            (failure.failed_at, failure.marked) = (None, None);
            let (at, since) = failure.refused.get_or_insert_with(|| (endpoint.clone(), now));
            let elapsed = now.saturating_duration_since(*since);
            failure.is_confirmed |= elapsed >= if at == endpoint { 2 * DELAY } else { DELAY };
            failure.until = failure.until.max(now + (elapsed * GROWTH).min(MAX_DELAY));
        })
    }

    /// Records that a node accepted the credentials. Returns whether a login with them had failed.
    pub(in super::super) fn accepted(&self, credentials: &SessionKey) -> bool {
        if !self.has_failures.load(Ordering::Relaxed) {
            return false;
        }
        let mut failures = self.failures.lock();
        let had_failed = failures.remove(credentials);
        self.has_failures.store(!failures.is_empty(), Ordering::Relaxed);
        had_failed
    }

    /// Changes the entry of the credentials and starts their delay, which it returns. `change` also
    /// gets whether this failure is the first, and the time.
    fn note(&self, credentials: SessionKey, change: impl FnOnce(&mut LoginFailure, bool, Instant)) -> Duration {
        let now = self.clock.now();
        let mut failures = self.failures.lock();
        let known = failures.get(&credentials).filter(|failure| failure.delays(now)).cloned();
        let is_first = known.is_none();
        let mut failure = known.unwrap_or(LoginFailure::new(now));
        failure.until = failure.until.max(now + DELAY);
        change(&mut failure, is_first, now);
        let delay = failure.until - now;
        failures.put(credentials, failure, CAPACITY);
        self.has_failures.store(true, Ordering::Relaxed);
        delay
    }
}

impl LoginFailure {
    fn new(now: Instant) -> Self {
        LoginFailure {
            failed_at: None,
            refused: None,
            is_confirmed: false,
            marked: None,
            is_first_break: false,
            until: now,
        }
    }

    fn delays(&self, now: Instant) -> bool {
        !self.is_first_break && !self.is_old(now)
    }

    fn is_old(&self, now: Instant) -> bool {
        now >= self.until + MAX_DELAY
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    const ADMIN: SessionKey = SessionKey::from_bytes([1; 16]);

    fn node(id: &str) -> EndpointId {
        EndpointId::new(id).unwrap()
    }

    fn backoff() -> (LoginBackoff, ManualClock) {
        let clock = ManualClock::new();
        (LoginBackoff::new(Arc::new(clock.clone())), clock)
    }

    #[test]
    fn a_refusal_delays_all_nodes_and_a_second_node_confirms_it() {
        let (backoff, clock) = backoff();
        assert_eq!(backoff.permit(&ADMIN, &node("q1")), Permit::Send);
        backoff.refused(ADMIN, &node("q1"));
        assert!(backoff.is_waiting(|| ADMIN) && !backoff.is_confirmed(&ADMIN));
        assert!(!backoff.is_waiting(|| SessionKey::from_bytes([2; 16])), "other credentials");
        clock.advance(Duration::from_millis(29_999));
        assert_eq!(backoff.permit(&ADMIN, &node("q2")), Permit::Wait);
        clock.advance(Duration::from_millis(1));
        assert_eq!(backoff.permit(&ADMIN, &node("q1")), Permit::Wait, "another node has to confirm it");
        assert_eq!(backoff.permit(&ADMIN, &node("q2")), Permit::SendOnce);
        assert_eq!(backoff.permit(&ADMIN, &node("q3")), Permit::Wait, "one login at a time");
        backoff.refused(ADMIN, &node("q2"));
        assert!(backoff.is_confirmed(&ADMIN));
    }

    #[test]
    fn the_only_node_confirms_its_refusal_later() {
        let (backoff, clock) = backoff();
        backoff.refused(ADMIN, &node("q1"));
        clock.advance(DELAY);
        backoff.refused(ADMIN, &node("q1"));
        assert!(!backoff.is_confirmed(&ADMIN), "a client may repeat its own login");
        clock.advance(3 * DELAY);
        assert_eq!(backoff.permit(&ADMIN, &node("q1")), Permit::SendOnce);
        backoff.refused(ADMIN, &node("q1"));
        assert!(backoff.is_confirmed(&ADMIN));
    }

    #[test]
    fn a_wrong_password_is_sent_ever_more_rarely() {
        let (backoff, clock) = backoff();
        let begun = clock.now();
        let mut sent = Vec::new();
        for node in [node("q1"), node("q2")].iter().cycle().take(5) {
            while backoff.permit(&ADMIN, node) == Permit::Wait {
                clock.advance(Duration::from_secs(1));
            }
            sent.push((clock.now() - begun).as_secs());
            backoff.refused(ADMIN, node);
        }
        assert_eq!(sent, [0, 30, 120, 480, 1920]);
    }

    #[test]
    fn a_failing_node_delays_the_others_only_if_a_second_one_fails() {
        let (backoff, clock) = backoff();
        backoff.node_failed(ADMIN, &node("q1"));
        assert_eq!(backoff.permit(&ADMIN, &node("q1")), Permit::Wait);
        assert_eq!(backoff.permit(&ADMIN, &node("q2")), Permit::Send);
        backoff.node_failed(ADMIN, &node("q2"));
        assert_eq!(backoff.permit(&ADMIN, &node("q3")), Permit::Wait);
        clock.advance(DELAY);
        assert_eq!(backoff.permit(&ADMIN, &node("q1")), Permit::SendOnce);
        assert!(!backoff.is_confirmed(&ADMIN));
    }

    #[test]
    fn a_second_login_in_a_row_that_breaks_delays_all_nodes() {
        let (backoff, clock) = backoff();
        for _ in 0..3 {
            backoff.broke(ADMIN);
            assert_eq!(backoff.permit(&ADMIN, &node("q1")), Permit::Send, "a node restarts");
            assert!(!backoff.has_failed(&ADMIN) && !backoff.is_waiting(|| ADMIN));
            backoff.accepted(&ADMIN);
        }
        backoff.broke(ADMIN);
        backoff.broke(ADMIN);
        for _ in 0..3 {
            assert_eq!(backoff.permit(&ADMIN, &node("q2")), Permit::Wait);
            clock.advance(DELAY);
            assert_eq!(backoff.permit(&ADMIN, &node("q2")), Permit::SendOnce);
            backoff.broke(ADMIN);
        }
        assert!(!backoff.is_confirmed(&ADMIN));
        clock.advance(DELAY + MAX_DELAY);
        backoff.broke(ADMIN);
        assert_eq!(backoff.permit(&ADMIN, &node("q1")), Permit::Send, "it counts as the first one");
        backoff.refused(ADMIN, &node("q1"));
        assert_eq!(backoff.permit(&ADMIN, &node("q2")), Permit::Wait);
    }

    #[test]
    fn a_login_that_is_not_claimed_is_permitted_again_later_and_shortens_no_delay() {
        let (backoff, clock) = backoff();
        let permit = |node: &EndpointId| backoff.permit(&ADMIN, node);
        backoff.refused(ADMIN, &node("q1"));
        clock.advance(DELAY);
        assert_eq!((permit(&node("q2")), permit(&node("q3"))), (Permit::SendOnce, Permit::Wait));
        clock.advance(CLAIM_INTERVAL);
        assert_eq!(permit(&node("q2")), Permit::SendOnce, "another front end had the claim");
        // Meanwhile a node refuses the login of a client: 105 s follow, since 35 s have passed.
        backoff.refused(ADMIN, &node("q2"));
        backoff.claimed(&ADMIN);
        clock.advance(3 * DELAY);
        assert_eq!(permit(&node("q3")), Permit::Wait);
        clock.advance(3 * CLAIM_INTERVAL);
        assert_eq!(permit(&node("q3")), Permit::SendOnce);
        backoff.claimed(&ADMIN);
        clock.advance(DELAY - CLAIM_INTERVAL);
        assert_eq!(permit(&node("q3")), Permit::Wait);
        clock.advance(CLAIM_INTERVAL);
        assert_eq!(permit(&node("q3")), Permit::SendOnce);
    }

    #[test]
    fn credentials_whose_mark_is_gone_are_claimed_and_a_refusal_counts_as_the_first() {
        let (backoff, clock) = backoff();
        for _ in 0..2 {
            backoff.refused(ADMIN, &node("q1"));
            clock.advance(2 * DELAY);
        }
        backoff.wrong(ADMIN);
        backoff.unmarked(&ADMIN, clock.now());
        assert!(backoff.is_confirmed(&ADMIN) && !backoff.is_marked(&ADMIN), "the mark is being written");
        let begun = clock.now();
        clock.advance(Duration::from_millis(1));
        backoff.marked(&ADMIN);
        backoff.unmarked(&ADMIN, begun);
        assert!(backoff.is_confirmed(&ADMIN) && backoff.is_marked(&ADMIN), "the mark was written meanwhile");
        backoff.unmarked(&ADMIN, clock.now());
        assert!(!backoff.is_confirmed(&ADMIN) && !backoff.is_waiting(|| ADMIN) && backoff.has_failed(&ADMIN));
        assert_eq!(backoff.permit(&ADMIN, &node("q2")), Permit::SendOnce);
        assert_eq!(backoff.refused(ADMIN, &node("q2")), DELAY);
        assert!(!backoff.is_confirmed(&ADMIN) && !backoff.is_marked(&ADMIN));
    }

    #[test]
    fn no_delay_is_longer_than_the_maximum() {
        let (backoff, clock) = backoff();
        for _ in 0..200 {
            backoff.wrong(ADMIN);
            assert!((DELAY..=MAX_DELAY).contains(&backoff.refused(ADMIN, &node("q1"))));
            clock.advance(MAX_DELAY / 2);
        }
        assert!(backoff.is_confirmed(&ADMIN) && backoff.is_waiting(|| ADMIN));
        assert!(backoff.accepted(&ADMIN) && !backoff.accepted(&ADMIN));
        assert_eq!(backoff.permit(&ADMIN, &node("q1")), Permit::Send);
    }

    #[test]
    fn an_outage_of_the_user_source_confirms_nothing() {
        let (backoff, clock) = backoff();
        for _ in 0..5 {
            backoff.unchecked(ADMIN);
            assert_eq!(backoff.permit(&ADMIN, &node("q2")), Permit::Wait);
            clock.advance(DELAY);
            assert_eq!(backoff.permit(&ADMIN, &node("q2")), Permit::SendOnce);
        }
        assert!(!backoff.is_confirmed(&ADMIN));
    }

    #[test]
    fn accepted_credentials_wait_no_longer_and_old_failures_do_not_count() {
        let (backoff, clock) = backoff();
        backoff.refused(ADMIN, &node("q1"));
        backoff.accepted(&ADMIN);
        assert!(!backoff.is_waiting(|| panic!("nothing has failed")));
        assert_eq!(backoff.permit(&ADMIN, &node("q1")), Permit::Send);
        backoff.refused(ADMIN, &node("q1"));
        clock.advance(DELAY + MAX_DELAY);
        assert_eq!(backoff.permit(&ADMIN, &node("q2")), Permit::Send);
        backoff.refused(ADMIN, &node("q2"));
        assert!(!backoff.is_confirmed(&ADMIN), "it counts as the first one");
    }
}
