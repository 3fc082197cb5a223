use std::time::Duration;

use ahash::AHashMap;
use parking_lot::Mutex;

use crate::background::BackgroundTask;
use crate::request::ClientAddr;
use crate::session::{Precondition, SessionKey, SessionRecord};

/// The maximum number of pending writes. Beyond it, new bindings live in the near cache only.
const MAX_PENDING: usize = 100_000;

/// The writes that wait until the store is available again: at most one for each key.
#[derive(Default)]
pub(super) struct PendingWrites {
    queue: Mutex<Queue>,
    pub(super) task: BackgroundTask,
}

#[derive(Default)]
struct Queue {
    /// Each with its number, by which the task recognizes a write that was replaced meanwhile.
    writes: AHashMap<SessionKey, (Write, u64)>,
    next_number: u64,
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

impl PendingWrites {
    /// Adds a write, or replaces that of the same key. The end of a session stays: what a request of that session still saves is
    /// dropped.
    pub(super) fn push(&self, key: SessionKey, write: Write) {
        let mut queue = self.queue.lock();
        let number = queue.next_number;
        queue.next_number += 1;
        if let Some((pending, last_number)) = queue.writes.get_mut(&key) {
            *pending = match (write, &*pending) {
                (Write::Save { .. }, Write::End { .. }) => return,
                // Only the login relay seals records, and it removes one only when the session ends.
                (Write::Save { record, .. }, Write::Remove) if !record.sealed().is_empty() => return,
                // The store still has the record from before the first of these writes.
                (Write::Save { client, record, ttl, .. }, Write::Save { precondition, .. }) => {
                    Write::Save { client, record, precondition: *precondition, ttl }
                }
                (write, _) => write,
            };
            *last_number = number;
        } else if queue.writes.len() < MAX_PENDING {
            queue.writes.insert(key, (write, number));
        }
    }

    /// Returns all keys in random order: where only a part of the store is unavailable, its writes
    /// must not block the others.
    pub(super) fn keys(&self) -> Vec<SessionKey> {
        let mut keys: Vec<SessionKey> = self.queue.lock().writes.keys().copied().collect();
        fastrand::shuffle(&mut keys);
        keys
    }

    /// Returns the write of a key, with its number.
    pub(super) fn get(&self, key: &SessionKey) -> Option<(Write, u64)> {
        self.queue.lock().writes.get(key).cloned()
    }

    /// Removes the write of this number, after which the store has this version, if any. A write that
    /// has replaced it stays, and expects that version.
    pub(super) fn complete(&self, key: &SessionKey, number: u64, version: Option<u64>) {
        let mut queue = self.queue.lock();
        match queue.writes.get_mut(key) {
            Some((_, last_number)) if *last_number == number => _ = queue.writes.remove(key),
            Some((Write::Save { precondition, .. }, _)) => {
                *precondition = version.map_or(Precondition::Absent, Precondition::Version);
            }
            Some((Write::Remove | Write::End { .. }, _)) | None => {}
        }
    }

    pub(super) fn len(&self) -> usize {
        self.queue.lock().writes.len()
    }
}
