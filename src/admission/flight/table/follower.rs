use std::sync::Arc;

use super::super::{FlightKey, QueryIds};
use super::{FlightTable, Leader, Outcome};
use crate::admission::queue::Ticket;
use crate::sync::oneshot;

/// A query that waits for the response to an identical one. It can be dropped at any time.
pub(crate) struct Follower<'t, T, S> {
    table: &'t FlightTable<T, S>,
    key: Arc<FlightKey>,
    id: u64,
    ids: QueryIds,
    outcome: oneshot::Receiver<Outcome<T, S>>,
    has_outcome: bool,
}

/// The result of a follower's wait.
pub(crate) enum FollowerOutcome<'t, T, S> {
    /// The query leads from now on. It takes over the execution that the former leader began, if
    /// any. It also takes over the former leader's ticket, if that leader waited for a slot and was
    /// not sent.
    Leads(Leader<'t, T, S>, Option<Ticket>),
    Shared(S),
    /// The query is sent without single flight.
    Released,
    /// The query's client has stopped it.
    Stopped,
}

impl<'t, T, S> Follower<'t, T, S> {
    pub(super) fn new(
        table: &'t FlightTable<T, S>,
        key: Arc<FlightKey>,
        id: u64,
        ids: QueryIds,
        outcome: oneshot::Receiver<Outcome<T, S>>,
    ) -> Self {
        Follower { table, key, id, ids, outcome, has_outcome: false }
    }

    /// Waits until the flight ends, or until this query leads it.
    pub(crate) async fn wait(mut self) -> FollowerOutcome<'t, T, S> {
        let outcome = (&mut self.outcome).await;
        self.has_outcome = true;
        match outcome {
            Ok(Outcome::Lead(running, ticket)) => {
                FollowerOutcome::Leads(Leader::new(self.table, Arc::clone(&self.key), self.ids, running), ticket)
            }
            Ok(Outcome::Shared(shared)) => FollowerOutcome::Shared(shared),
            Ok(Outcome::Stopped) => FollowerOutcome::Stopped,
            // A flight leaves no follower without an outcome.
            Ok(Outcome::Released) | Err(_) => FollowerOutcome::Released,
        }
    }
}

impl<T, S> Drop for Follower<'_, T, S> {
    fn drop(&mut self) {
        if self.has_outcome {
            return;
        }
        let waits = match self.table.shard(&self.key).flights.get_mut(&self.key.number()) {
            Some(flight) => flight.followers.remove(&self.id).is_some(),
            None => false,
        };
        // The follower may have been given the lead a moment ago. If the lead is sent after this,
        // the sender gets it back.
        if !waits {
            self.outcome.close();
            if let Ok(Outcome::Lead(running, _)) = self.outcome.try_recv() {
                self.table.promote(&self.key, running);
            }
        }
    }
}
