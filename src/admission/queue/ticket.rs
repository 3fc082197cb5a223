use super::costs::Micros;
use super::credentials::Credential;
use super::pace::Pace;

/// How much earlier a request must have arrived to precede another, per unit by which its expected
/// duration is longer.
pub(super) const AGEING: u64 = 30;

/// The facts that decide when a request is served. A request keeps its ticket when it is picked
/// again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket {
    /// Arrival + [`AGEING`] x cost. The lowest key goes first.
    pub(super) key: Micros,
    /// The order of arrival, between equal keys.
    pub(super) sequence: u64,
    /// The expected duration.
    pub(super) cost: Micros,
    pub(super) pace: Pace,
    pub(super) user: u64,
    pub(super) fingerprint: Option<u64>,
    /// Whether the request is beyond the share of a user with so many requests that its
    /// [share](crate::docs::waiting) shrinks. While it waits, it does not count as load for others.
    pub(crate) is_of_flood: bool,
    /// The start of the time limit of the wait: the arrival, or the end of the last attempt.
    pub(super) since: Micros,
    /// Hashes by which the client may stop the query; 0 if there is none.
    pub(super) stop_keys: [u64; 2],
    /// The credentials that a result would prove, unless they are accepted already.
    pub(super) unproven: Option<Credential>,
}

impl Ticket {
    /// Returns a ticket of no user.
    #[cfg(all(test, feature = "test-util"))]
    pub(crate) fn with_key(key: Micros) -> Self {
        Ticket {
            key,
            sequence: 0,
            cost: 0,
            pace: Pace::of(0, true),
            user: 0,
            fingerprint: None,
            is_of_flood: false,
            since: key,
            stop_keys: [0; 2],
            unproven: None,
        }
    }

    /// Takes the credentials that were not yet accepted.
    pub(crate) fn take_unproven(&mut self) -> Option<Credential> {
        self.unproven.take()
    }

    /// Returns the ticket of a query that replaces an identical one in the queue. The query keeps
    /// the earlier turn of the two.
    pub(crate) fn in_place_of(self, before: Ticket) -> Self {
        Ticket { key: self.key.min(before.key), since: self.since.max(before.since), ..self }
    }
}

/// Returns the key of a request that arrives now, or moves into the share of its user now.
pub(super) fn key(now: Micros, cost: Micros) -> Micros {
    now.saturating_add(cost.saturating_mul(AGEING))
}

/// Whether a request may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SlotState {
    /// The request has its slot.
    Go,
    Wait,
    /// Too many requests wait, and this one has the longest expected duration.
    Refused,
    /// The client has stopped the request.
    Stopped,
}
