use std::time::Duration;

use ahash::AHashMap;
use parking_lot::Mutex;

use crate::background::BackgroundTask;
use crate::request::ClientAddr;
use crate::session::{Precondition, SessionKey, SessionRecord};

/// The maximum number of pending writes. If it is reached, new bindings live only in the near
/// cache, and the end of a session evicts a binding. A lost binding costs a login, but a session
/// that does not end stays open.
const MAX_PENDING: usize = 100_000;

/// The writes that wait until the store is available again, at most one per key.
#[derive(Default)]
pub(super) struct PendingWrites {
    queue: Mutex<Queue>,
    pub(super) task: BackgroundTask,
}

#[derive(Default)]
struct Queue {
    /// The writes, each with a number that tells the task whether it was replaced meanwhile.
    writes: AHashMap<SessionKey, (Write, u64)>,
    next_number: u64,
    /// The number of writes that were dropped since the start.
    dropped: u64,
    /// Whether a dropped write was reported since the queue was last empty.
    is_reported: bool,
    /// Whether a search found no binding among the pending writes, and none was added since.
    has_no_binding: bool,
}

#[derive(Clone)]
pub(super) enum Write {
    Save {
        client: ClientAddr,
        record: SessionRecord,
        precondition: Precondition,
        ttl: Duration,
    },
    Remove,
    /// Replaces the record with a tombstone.
    #[cfg_attr(not(feature = "login-relay"), allow(dead_code, reason = "only the login relay ends sessions"))]
    End {
        ttl: Duration,
    },
}

/// The state of a key in the store after a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Written {
    /// A record of this version.
    Version(u64),
    /// No record of the session.
    Gone,
    /// The state from before the write, because the store does not accept a record of that length.
    Refused,
}

impl PendingWrites {
    /// Adds a write, or replaces the one of the same key. The end of a session is not replaced:
    /// later saves of that session are dropped.
    pub(super) fn push(&self, key: SessionKey, write: Write) {
        let mut queue = self.queue.lock();
        let number = queue.next_number;
        queue.next_number += 1;
        queue.has_no_binding &= !matches!(write, Write::Save { .. });
        if let Some((pending, last_number)) = queue.writes.get_mut(&key) {
            *pending = match (write, &*pending) {
                (Write::Save { .. }, Write::End { .. }) => return,
                // Only the login relay seals records, and it removes a record only when the session
                // ends.
                (Write::Save { record, .. }, Write::Remove) if !record.sealed().is_empty() => return,
                // The store still has the record from before the first of these writes.
                (Write::Save { client, record, ttl, .. }, Write::Save { precondition, .. }) => {
                    Write::Save { client, record, precondition: *precondition, ttl }
                }
                (write, _) => write,
            };
            *last_number = number;
        } else if queue.make_room(&write) {
            queue.writes.insert(key, (write, number));
        }
    }

    /// Returns how many writes were dropped because too many were pending.
    pub(super) fn dropped(&self) -> u64 {
        self.queue.lock().dropped
    }

    /// Returns all keys in random order. If only a part of the store is unavailable, the writes to
    /// that part must not block the others.
    pub(super) fn keys(&self) -> Vec<SessionKey> {
        let mut keys: Vec<SessionKey> = self.queue.lock().writes.keys().copied().collect();
        fastrand::shuffle(&mut keys);
        keys
    }

    /// Returns the write of a key, with its number.
    pub(super) fn get(&self, key: &SessionKey) -> Option<(Write, u64)> {
        self.queue.lock().writes.get(key).cloned()
    }

    /// Replaces the record of a pending save. Returns false if none is pending.
    #[cfg(feature = "login-relay")]
    pub(super) fn replace(&self, key: &SessionKey, new: &SessionRecord) -> bool {
        let mut queue = self.queue.lock();
        let number = queue.next_number;
        queue.next_number += 1;
        let Some((Write::Save { record, .. }, last_number)) = queue.writes.get_mut(key) else { return false };
        (*record, *last_number) = (new.clone(), number);
        true
    }

    /// Removes the write with this number after it was performed. If a newer write has replaced it,
    /// the newer write stays, and its precondition becomes the present state of the store. The
    /// exception is a session with a login that the store no longer has: it was logged out
    /// elsewhere, so the newer write is removed too. Returns whether that was the case.
    pub(super) fn complete(&self, key: &SessionKey, number: u64, written: Written) -> bool {
        let mut queue = self.queue.lock();
        let is_ended = match queue.writes.get_mut(key) {
            Some((_, last_number)) if *last_number == number => false,
            Some((Write::Save { record, .. }, _)) if written == Written::Gone && !record.sealed().is_empty() => true,
            Some((Write::Save { precondition, .. }, _)) => {
                match written {
                    Written::Version(version) => *precondition = Precondition::Version(version),
                    Written::Gone => *precondition = Precondition::Absent,
                    Written::Refused => {}
                }
                return false;
            }
            Some((Write::Remove | Write::End { .. }, _)) | None => return false,
        };
        queue.writes.remove(key);
        queue.is_reported &= !queue.writes.is_empty();
        is_ended
    }

    pub(super) fn len(&self) -> usize {
        self.queue.lock().writes.len()
    }
}

impl Queue {
    /// Drops a binding if the queue is full and `write` ends a session. Returns whether there is
    /// space for `write`.
    fn make_room(&mut self, write: &Write) -> bool {
        if self.writes.len() < MAX_PENDING {
            return true;
        }
        self.dropped += 1;
        if !std::mem::replace(&mut self.is_reported, true) {
            tracing::warn!(
                max = MAX_PENDING,
                "too many writes wait for the session store; some are dropped, bindings first"
            );
        }
        let is_binding = |write: &Write| matches!(write, Write::Save { .. });
        if is_binding(write) {
            return false;
        }
        if self.has_no_binding {
            return false;
        }
        let binding = self.writes.iter().find(|(_, (pending, _))| is_binding(pending)).map(|(key, _)| *key);
        self.has_no_binding = binding.is_none();
        binding.is_some_and(|key| self.writes.remove(&key).is_some())
    }
}
