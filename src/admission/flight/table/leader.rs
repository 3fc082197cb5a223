use std::collections::BTreeMap;
use std::mem::replace;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::super::{FlightKey, QueryIds};
use super::{FlightTable, Outcome, Waiting};
use crate::admission::queue::Ticket;
use crate::sync::Ordering;

/// The query that is executed for a flight. If it is dropped, the oldest follower takes over the
/// execution; without followers, the execution is dropped.
pub(crate) struct Leader<'t, T, S> {
    table: &'t FlightTable<T, S>,
    key: Arc<FlightKey>,
    ids: QueryIds,
    running: Option<T>,
    /// Whether the flight is in the table.
    is_open: bool,
}

impl<'t, T, S> Leader<'t, T, S> {
    pub(super) fn new(table: &'t FlightTable<T, S>, key: Arc<FlightKey>, ids: QueryIds, running: Option<T>) -> Self {
        Leader { table, key, ids, running, is_open: true }
    }

    /// Returns whether an execution is running.
    pub(crate) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Stores the ticket, so that the next leader takes over the place in the queue.
    pub(crate) fn wait_with(&self, ticket: Ticket) {
        if let Some(flight) = self.table.shard(&self.key).flights.get_mut(&self.key.number()) {
            flight.ticket = Some(ticket);
        }
    }

    /// Holds an execution that was begun for `query`, the query of this leader.
    /// [`poll`](Self::poll) drives it.
    pub(crate) fn start(&mut self, execution: T, query: &Arc<FlightKey>) {
        // The execution of a leader that took over another one has other ids than that.
        if !Arc::ptr_eq(query, &self.key)
            && let Some(flight) = self.table.shard(&self.key).flights.get_mut(&self.key.number())
        {
            flight.execution = Some(Arc::clone(query));
        }
        self.running = Some(execution);
    }

    /// Holds the rest of an execution, such as the read of its response.
    pub(crate) fn resume(&mut self, execution: T) {
        self.running = Some(execution);
    }

    /// Drives the execution. Ready with `None` if the leader's client has stopped the query, and
    /// the execution continues for others or has the id of another query.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<T::Output>>
    where
        T: Future + Unpin,
    {
        let Some(running) = &mut self.running else { return Poll::Ready(None) };
        if let Poll::Ready(output) = Pin::new(running).poll(cx) {
            self.running = None;
            return Poll::Ready(Some(output));
        }
        if !self.ids.is_empty()
            && let Some(flight) = self.table.shard(&self.key).flights.get_mut(&self.key.number())
        {
            if flight.is_leader_stopped {
                return Poll::Ready(None);
            }
            flight.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Ends the flight if it has no follower. Returns whether it did.
    pub(crate) fn end_if_alone(&mut self) -> bool {
        let mut shard = self.table.shard(&self.key);
        if shard.flights.get(&self.key.number()).is_none_or(|flight| flight.followers.is_empty()) {
            shard.flights.remove(&self.key.number());
            self.is_open = false;
        }
        !self.is_open
    }

    /// Gives all followers a copy of the response.
    pub(crate) fn share(mut self, shared: S)
    where
        S: Clone,
    {
        self.share_with_all(&shared);
    }

    /// Releases all followers, which are then sent to nodes, because the response cannot be copied.
    pub(crate) fn release(mut self) {
        let followers = self.end();
        if !followers.is_empty() {
            self.table.unshareable.add(self.key.hash);
        }
        for follower in followers.into_values() {
            // A follower that leaves at this moment needs no outcome.
            _ = follower.outcome.send(Outcome::Released);
        }
    }

    /// Makes one follower lead the second attempt. After the second failure, all followers get
    /// `shared`; if it is `None`, they are sent to nodes.
    pub(crate) fn fail(self, shared: Option<S>)
    where
        S: Clone,
    {
        self.fail_or_refuse(shared, false);
    }

    /// Like [`fail`](Self::fail), for a query that was refused before it was sent. The next leader
    /// takes over its ticket.
    pub(crate) fn refuse(self, shared: Option<S>)
    where
        S: Clone,
    {
        self.fail_or_refuse(shared, true);
    }

    fn fail_or_refuse(mut self, shared: Option<S>, keeps_ticket: bool)
    where
        S: Clone,
    {
        let has_failed = match self.table.shard(&self.key).flights.get_mut(&self.key.number()) {
            Some(flight) => {
                flight.ticket = flight.ticket.filter(|_| keeps_ticket);
                replace(&mut flight.has_failed, true)
            }
            None => false,
        };
        match (has_failed, shared) {
            (false, _) => {
                self.is_open = false;
                self.table.promote(&self.key, None);
            }
            (true, Some(shared)) => self.share_with_all(&shared),
            (true, None) => self.release(),
        }
    }

    fn share_with_all(&mut self, shared: &S)
    where
        S: Clone,
    {
        for follower in self.end().into_values() {
            if follower.outcome.send(Outcome::Shared(shared.clone())).is_ok() {
                self.table.shared.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Removes the flight from the table and returns its followers.
    fn end(&mut self) -> BTreeMap<u64, Waiting<T, S>> {
        self.is_open = false;
        let flight = self.table.shard(&self.key).flights.remove(&self.key.number());
        flight.map(|flight| flight.followers).unwrap_or_default()
    }
}

impl<T, S> Drop for Leader<'_, T, S> {
    fn drop(&mut self) {
        if self.is_open {
            self.table.promote(&self.key, self.running.take());
        }
    }
}
