//! Withdrawals: why and until when an endpoint gets no new requests, and what ends the withdrawal.

use super::Reason;
use crate::sync::{AtomicU64, Ordering};

/// Keeps new requests from an endpoint.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Withdrawal {
    pub(crate) at: u64,
    /// The time at which the withdrawal ends, or at which the first request may try the endpoint.
    pub(crate) until: u64,
    pub(crate) reason: Reason,
    pub(crate) kind: WithdrawalKind,
}

/// The event that ends a withdrawal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WithdrawalKind {
    /// The endpoint is ejected for its responses. The ejection lasts its full time.
    Responses = 1,
    /// The endpoint is ejected because it could not be reached. A successful probe or request on
    /// trial ends the ejection.
    Connections = 2,
    /// The node shows that it is stopping. Bound sessions continue. The drain ends in the same way
    /// as an ejection for failed connections.
    Draining = 3,
}

impl WithdrawalKind {
    /// Returns whether a successful probe or request ends the withdrawal before its time.
    pub(crate) fn ends_by_success(self) -> bool {
        match self {
            WithdrawalKind::Responses => false,
            WithdrawalKind::Connections | WithdrawalKind::Draining => true,
        }
    }

    /// Returns how long after [`Withdrawal::until`] the withdrawal ends, if it ends by time.
    pub(crate) fn ends_after(self) -> Option<u64> {
        match self {
            WithdrawalKind::Responses => Some(0),
            WithdrawalKind::Connections => None,
            WithdrawalKind::Draining => Some(UNTRIED_DRAIN_MS),
        }
    }

    fn of(word: u64) -> Option<Self> {
        match word & ((1 << KIND_BITS) - 1) {
            _ if word >= DOWN => None,
            1 => Some(WithdrawalKind::Responses),
            2 => Some(WithdrawalKind::Connections),
            3 => Some(WithdrawalKind::Draining),
            _ => None,
        }
    }
}

/// The time after which one request may try an endpoint that could not be reached. It doubles with
/// each failed return.
const FIRST_TRIAL_MS: u64 = 250;

/// The maximum of that time, and of the time for which successful probes do not readmit.
const MAX_TRIAL_MS: u64 = 30_000;

/// The time for which one request is on trial before another may try.
const TRIAL_MS: u64 = 1_000;

/// The minimum time of a drain, before a probe or a request on trial may end it.
pub(crate) const DRAIN_MS: u64 = 1_000;

/// The time after which a drain ends if no request tried the endpoint, as when all sessions are
/// bound elsewhere.
const UNTRIED_DRAIN_MS: u64 = 30_000;

/// Returns how long no request tries an endpoint whose last `failed_returns` returns failed.
pub(crate) fn trial_after(failed_returns: u32) -> u64 {
    FIRST_TRIAL_MS.checked_shl(failed_returns.min(16)).unwrap_or(u64::MAX).min(MAX_TRIAL_MS)
}

/// Returns how long successful probes do not readmit an endpoint whose last `failed_returns`
/// returns failed; zero if none failed.
pub(crate) fn probes_after(failed_returns: u32) -> u64 {
    failed_returns.checked_sub(1).map_or(0, trial_after)
}

/// Whether and why health keeps requests from an endpoint, in one word that picks read.
#[derive(Debug, Default)]
pub(crate) struct Withholding(AtomicU64);

/// Nothing keeps requests from the endpoint.
const NONE: u64 = 0;
/// Probes report the endpoint as down.
const DOWN: u64 = u64::MAX - 1;
/// The endpoint is foreign, not verified yet, or waits for its first successful probe.
const QUARANTINED: u64 = u64::MAX;
/// The kind of a withdrawal is in the lowest bits, and its end above them.
const KIND_BITS: u32 = 2;

/// The value of a [`Withholding`].
#[derive(Debug, Clone, Copy)]
pub(crate) enum WithholdingState {
    None,
    Withdrawn(Withdrawal),
    Down,
    Quarantined,
}

impl Withholding {
    /// Sets the state, and returns whether the endpoint was withheld before and whether it is now.
    /// With `keeps_trial`, the time of a current request on trial is kept, so that no other request
    /// tries the endpoint because something else ends meanwhile.
    pub(crate) fn set(&self, state: WithholdingState, keeps_trial: bool) -> (bool, bool) {
        let word = match state {
            WithholdingState::None => NONE,
            WithholdingState::Withdrawn(Withdrawal { until, kind, .. }) => word(until, kind),
            WithholdingState::Down => DOWN,
            WithholdingState::Quarantined => QUARANTINED,
        };
        let mut before = self.0.load(Ordering::Relaxed);
        loop {
            let kind = WithdrawalKind::of(word);
            let stays = keeps_trial && kind.is_some() && kind == WithdrawalKind::of(before);
            let next = if stays { word.max(before) } else { word };
            match self.0.compare_exchange(before, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return (before != NONE, word != NONE),
                Err(changed) => before = changed,
            }
        }
    }

    #[inline]
    pub(crate) fn is_none(&self) -> bool {
        self.0.load(Ordering::Relaxed) == NONE
    }

    /// Returns whether the endpoint is down, quarantined or not verified yet.
    pub(crate) fn is_down(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= DOWN
    }

    pub(crate) fn is_quarantined(&self) -> bool {
        self.0.load(Ordering::Relaxed) == QUARANTINED
    }

    /// Returns whether the endpoint may get no request now. An endpoint that is `alone` is never
    /// withdrawn. `bound` says that the sessions of the requests are bound to it.
    pub(crate) fn withholds(&self, alone: bool, bound: bool, now: impl FnOnce() -> u64) -> bool {
        match self.0.load(Ordering::Relaxed) {
            NONE => false,
            DOWN | QUARANTINED => true,
            word if bound && WithdrawalKind::of(word) == Some(WithdrawalKind::Draining) => false,
            word => !alone && now() < word >> KIND_BITS,
        }
    }

    /// Returns the kind of the withdrawal, if there is one.
    pub(crate) fn withdrawal(&self) -> Option<WithdrawalKind> {
        WithdrawalKind::of(self.0.load(Ordering::Relaxed))
    }

    /// Returns when the withdrawal ends, or when the next request may try the endpoint; `None` if
    /// it is down or not withdrawn.
    pub(crate) fn until(&self) -> Option<u64> {
        let word = self.0.load(Ordering::Relaxed);
        WithdrawalKind::of(word).map(|_| word >> KIND_BITS)
    }

    /// Records that the endpoint is chosen. If the endpoint's trial is due, exactly one of the
    /// concurrent requests gets true.
    pub(crate) fn choose(&self, bound: bool, now: impl FnOnce() -> u64) -> bool {
        let before = self.0.load(Ordering::Relaxed);
        let Some(kind) = WithdrawalKind::of(before).filter(|kind| kind.ends_by_success()) else { return true };
        if bound && kind == WithdrawalKind::Draining {
            return true;
        }
        let (now, due) = (now(), before >> KIND_BITS);
        if kind.ends_after().is_some_and(|after| due.saturating_add(after) <= now) {
            return true;
        }
        let next = word(now.saturating_add(TRIAL_MS), kind);
        due <= now && self.0.compare_exchange(before, next, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

fn word(until: u64, kind: WithdrawalKind) -> u64 {
    (until.clamp(1, DOWN >> (KIND_BITS + 1)) << KIND_BITS) | kind as u64
}
