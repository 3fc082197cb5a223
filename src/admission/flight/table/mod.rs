//! The flights of a proxy.

mod follower;
mod leader;

use std::collections::BTreeMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::task::Waker;

use ahash::{AHashMap, RandomState};

pub(crate) use self::follower::{Follower, FollowerOutcome};
pub(crate) use self::leader::Leader;
use super::unshareable::Unshareable;
use super::{Epochs, FlightKey, QueryIds};
use crate::admission::queue::Ticket;
use crate::clock::Clock;
use crate::observe::SingleFlightStatus;
use crate::sync::{AtomicBool, AtomicU64, Mutex, MutexGuard, Ordering, oneshot};

const SHARDS: usize = 16;

/// The maximum number of followers of a flight. Further queries go to nodes.
const MAX_FOLLOWERS: usize = 1024;

/// The flights of a proxy. `T` is the execution that a leader holds, `S` the result that its
/// followers get.
pub(crate) struct FlightTable<T, S> {
    pub(crate) epochs: Epochs,
    shards: [Mutex<Shard<T, S>>; SHARDS],
    seed: RandomState,
    unshareable: Unshareable,
    /// Whether the last response to a query with credentials and without a session began one.
    begins_sessions: AtomicBool,
    shared: AtomicU64,
}

struct Shard<T, S> {
    /// The flights, indexed by the numbers of their keys.
    flights: AHashMap<u64, Flight<T, S>>,
    last_follower: u64,
}

/// A flight, apart from its leader.
struct Flight<T, S> {
    key: Arc<FlightKey>,
    /// The followers in the order of their arrival.
    followers: BTreeMap<u64, Waiting<T, S>>,
    /// Whether a leader has failed.
    has_failed: bool,
    /// The ids of the leader.
    leader: QueryIds,
    /// The query that the execution was begun for, whose ids the node knows; `None` if it is `key`.
    execution: Option<Arc<FlightKey>>,
    /// The ticket of the leader, if it has waited for a slot.
    ticket: Option<Ticket>,
    /// Whether the client of the leader has stopped its query.
    is_leader_stopped: bool,
    /// Whether the flight takes no more followers.
    is_closed: bool,
    /// Wakes the leader, if its query has an id.
    waker: Option<Waker>,
}

struct Waiting<T, S> {
    key: Arc<FlightKey>,
    outcome: oneshot::Sender<Outcome<T, S>>,
}

/// The outcome of a follower.
enum Outcome<T, S> {
    /// The follower leads from now on. It takes over the execution, if there is one, and the place
    /// in the queue.
    Lead(Option<T>, Option<Ticket>),
    Shared(S),
    Released,
    Stopped,
}

/// What the nodes must stop when a client stops a query by its id.
pub(crate) enum StopTarget {
    /// The query that has this id, if there is one.
    Named,
    /// No query, because other clients wait for the execution with this id.
    Nothing,
    /// The execution that was begun for this query, because its last client has left. That client
    /// had taken the execution over, and its own query has another id.
    Execution(Arc<FlightKey>),
}

/// The role of a query in the table.
pub(crate) enum FlightRole<'t, T, S> {
    Leader(Leader<'t, T, S>),
    Follower(Follower<'t, T, S>),
    /// The query is sent without single flight.
    Alone,
}

impl<T, S> FlightTable<T, S> {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        FlightTable {
            epochs: Epochs::new(),
            shards: std::array::from_fn(|_| Mutex::new(Shard { flights: AHashMap::new(), last_follower: 0 })),
            seed: RandomState::new(),
            unshareable: Unshareable::new(clock),
            begins_sessions: AtomicBool::new(false),
            shared: AtomicU64::new(0),
        }
    }

    /// Returns a hasher with the random key of this table.
    pub(crate) fn hasher(&self) -> impl Hasher + use<T, S> {
        self.seed.build_hasher()
    }

    /// Returns the hashes of the ids of a query.
    pub(crate) fn ids(&self, ids: [Option<&str>; 2]) -> QueryIds {
        QueryIds(ids.map(|id| id.map_or(0, |id| self.hash_id(id))))
    }

    fn hash_id(&self, id: &str) -> u64 {
        self.seed.hash_one(id).max(1)
    }

    /// Returns whether the nodes begin a session, with its own cookie, for each query with
    /// credentials and without a session. Such responses cannot be shared, so no query waits for
    /// one.
    pub(crate) fn begins_sessions(&self) -> bool {
        self.begins_sessions.load(Ordering::Relaxed)
    }

    /// Records whether the result of a query with credentials and without a session began one.
    pub(crate) fn set_begins_sessions(&self, begins: bool) {
        if self.begins_sessions() != begins {
            self.begins_sessions.store(begins, Ordering::Relaxed);
        }
    }

    /// Makes a query lead or follow. If a different query with the same number leads, this one is
    /// sent alone. So queries that collide on purpose are not all compared with each other.
    pub(crate) fn enter(&self, key: &Arc<FlightKey>) -> FlightRole<'_, T, S> {
        if self.unshareable.has(key.hash) {
            return FlightRole::Alone;
        }
        let mut equal = None;
        loop {
            let mut shard = self.shard(key);
            let Shard { flights, last_follower } = &mut *shard;
            let flight = match flights.entry(key.number()) {
                Entry::Occupied(flight) => flight.into_mut(),
                Entry::Vacant(flight) => {
                    flight.insert(Flight::led_by(Arc::clone(key)));
                    return FlightRole::Leader(Leader::new(self, Arc::clone(key), key.ids, None));
                }
            };
            if flight.is_closed {
                return FlightRole::Alone;
            }
            if equal.as_ref().is_some_and(|equal| Arc::ptr_eq(equal, &flight.key)) {
                if flight.followers.len() >= MAX_FOLLOWERS {
                    return FlightRole::Alone;
                }
                *last_follower += 1;
                let (outcome, receiver) = oneshot::channel();
                flight.followers.insert(*last_follower, Waiting { key: Arc::clone(key), outcome });
                return FlightRole::Follower(Follower::new(
                    self,
                    Arc::clone(&flight.key),
                    *last_follower,
                    key.ids,
                    receiver,
                ));
            }
            // Compared without the lock, because the comparison may parse both bodies. Another
            // flight may have begun by then.
            let leading = Arc::clone(&flight.key);
            drop(shard);
            if equal.is_some() || !leading.is_equal(key) {
                return FlightRole::Alone;
            }
            equal = Some(leading);
        }
    }

    /// Stops the queries with this id that belong to the user whom `is_of` identifies. Returns what
    /// the nodes must stop.
    pub(crate) fn stop(&self, id: &str, is_of: impl Fn(&FlightKey) -> bool) -> StopTarget {
        let id = self.hash_id(id);
        let (mut stopped, mut wakers, mut is_awaited, mut left) = (Vec::new(), Vec::new(), false, None);
        for shard in &self.shards {
            for flight in shard.lock().flights.values_mut() {
                if is_of(&flight.key) {
                    let ids: Vec<u64> = flight.with_id(id).collect();
                    stopped.extend(ids.iter().filter_map(|follower| flight.followers.remove(follower)));
                    let (leads, has_followers) = (flight.leader.has(id), !flight.followers.is_empty());
                    let is_executed_by_id = flight.execution().ids.has(id);
                    if leads && (has_followers || !is_executed_by_id) {
                        flight.is_leader_stopped = true;
                        wakers.extend(flight.waker.take());
                    }
                    if leads && !has_followers && !is_executed_by_id {
                        // The nodes stop this execution, so no other client may take it over.
                        flight.is_closed = true;
                        left = Some(Arc::clone(flight.execution()));
                    }
                    is_awaited |= is_executed_by_id && (has_followers || !leads);
                }
            }
        }
        for follower in stopped {
            // A follower that leaves at this moment needs no outcome.
            _ = follower.outcome.send(Outcome::Stopped);
        }
        wakers.into_iter().for_each(Waker::wake);
        match left {
            _ if is_awaited => StopTarget::Nothing,
            Some(key) => StopTarget::Execution(key),
            None => StopTarget::Named,
        }
    }

    /// Closes the flights of a client to further followers. `of` accepts the keys of that client.
    pub(crate) fn close(&self, of: impl Fn(&FlightKey) -> bool) {
        for shard in &self.shards {
            for flight in shard.lock().flights.values_mut().filter(|flight| of(&flight.key)) {
                flight.is_closed = true;
            }
        }
    }

    /// Counts the flights.
    pub(crate) fn status(&self) -> SingleFlightStatus {
        let (mut leaders, mut followers) = (0, 0);
        for shard in &self.shards {
            let shard = shard.lock();
            leaders += shard.flights.len();
            followers += shard.flights.values().map(|flight| flight.followers.len()).sum::<usize>();
        }
        SingleFlightStatus { leaders, followers, shared: self.shared.load(Ordering::Relaxed) }
    }

    fn shard(&self, key: &FlightKey) -> MutexGuard<'_, Shard<T, S>> {
        // The map of the shard uses other bits of the number.
        self.shards[(key.hash >> 32) as usize % SHARDS].lock()
    }

    /// Makes the oldest follower the leader of a flight, or ends a flight without one.
    fn promote(&self, key: &FlightKey, mut running: Option<T>) {
        loop {
            let (next, ticket) = {
                let mut shard = self.shard(key);
                let Some(flight) = shard.flights.get_mut(&key.number()) else { return };
                let Some((_, next)) = flight.followers.pop_first() else {
                    shard.flights.remove(&key.number());
                    return;
                };
                flight.leader = next.key.ids;
                if running.is_none() {
                    flight.execution = Some(Arc::clone(&next.key));
                }
                (flight.is_leader_stopped, flight.waker) = (false, None);
                (next, flight.ticket)
            };
            // A follower that leaves at this moment does not take it.
            match next.outcome.send(Outcome::Lead(running, ticket)) {
                Err(Outcome::Lead(back, _)) => running = back,
                _ => return,
            }
        }
    }
}

#[cfg(feature = "cache")]
impl<T, S> AsRef<Epochs> for FlightTable<T, S> {
    fn as_ref(&self) -> &Epochs {
        &self.epochs
    }
}

impl<T, S> Flight<T, S> {
    fn led_by(key: Arc<FlightKey>) -> Self {
        Flight {
            followers: BTreeMap::new(),
            has_failed: false,
            leader: key.ids,
            execution: None,
            key,
            ticket: None,
            is_leader_stopped: false,
            is_closed: false,
            waker: None,
        }
    }

    fn execution(&self) -> &Arc<FlightKey> {
        self.execution.as_ref().unwrap_or(&self.key)
    }

    /// Returns the followers with this id.
    fn with_id(&self, id: u64) -> impl Iterator<Item = u64> {
        self.followers.iter().filter(move |(_, follower)| follower.key.ids.has(id)).map(|(follower, _)| *follower)
    }
}

#[cfg(all(test, feature = "test-util"))]
mod tests;
