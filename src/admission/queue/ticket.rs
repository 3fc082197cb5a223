use super::costs::Micros;
use super::credentials::Credential;

/// The facts that decide when a request is served. It keeps its ticket when it is picked again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket {
    /// The lower one goes first: arrival + `AGEING` x cost.
    pub(super) key: Micros,
    /// The order of arrival, between equal keys.
    pub(super) sequence: u64,
    /// The expected duration.
    pub(super) cost: Micros,
    pub(super) user: u64,
    pub(super) fingerprint: Option<u64>,
    /// It is beyond the share of a user who floods.
    pub(crate) is_of_flood: bool,
    /// From when on the bound of the wait counts: the arrival, or the end of the attempt before.
    pub(super) since: Micros,
    /// Hashes by which the client may stop the query; 0 where there is none.
    pub(super) stop_keys: [u64; 2],
    /// The credentials that a result of the query shows to be accepted, unless that is known.
    pub(super) unproven: Option<Credential>,
}

impl Ticket {
    /// Takes the credentials that were not known to be accepted.
    pub(crate) fn take_unproven(&mut self) -> Option<Credential> {
        self.unproven.take()
    }

    /// Returns the ticket of a query that is sent in place of an equal one, which leaves its queue: it goes when that one would have
    /// gone, if that is earlier.
    pub(crate) fn in_place_of(self, before: Ticket) -> Self {
        Ticket { key: self.key.min(before.key), since: self.since.max(before.since), ..self }
    }
}

/// The outcome of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It has its slot.
    Go,
    Wait,
    /// Too many requests wait, and this is the costliest.
    Refused,
    /// Its client has stopped it.
    Stopped,
}
