//! What could not be written while the store was away, and the one task that writes it when the store is back.

use std::sync::Weak;
use std::time::Duration;

use ahash::AHashMap;
use parking_lot::Mutex;

use super::breaker::PAUSE;
use super::{Away, Inner};
use crate::session::{Precondition, SessionKey, SessionRecord};

/// A write that waits for the store.
#[derive(Clone)]
pub(super) enum Write {
    Save { record: SessionRecord, expect: Precondition, ttl: Duration },
    Remove,
}

#[derive(Default)]
pub(super) struct Backlog(Mutex<State>);

#[derive(Default)]
struct State {
    /// Each with a number of its own, by which the task knows whether it has been replaced meanwhile.
    writes: AHashMap<SessionKey, (Write, u64)>,
    last: u64,
    /// There is a task that writes.
    writing: bool,
}

/// The most that waits. Beyond that new bindings live in the near cache only.
const MOST: usize = 100_000;

impl Backlog {
    /// Keeps `write` for later. True when the caller has to start the task.
    fn push(&self, key: SessionKey, write: Write) -> bool {
        let mut state = self.0.lock();
        let number = state.last;
        state.last += 1;
        if let Some((there, last)) = state.writes.get_mut(&key) {
            *last = number;
            *there = match (write, &*there) {
                // The store still has what it had before the first of these writes.
                (Write::Save { record, ttl, .. }, Write::Save { expect, .. }) => {
                    Write::Save { record, expect: *expect, ttl }
                }
                (write, _) => write,
            };
        } else if state.writes.len() < MOST {
            state.writes.insert(key, (write, number));
        }
        !std::mem::replace(&mut state.writing, true)
    }

    /// All that wait, in no order: where only a part of the store is away, what is meant for it must not stay in the way of the
    /// rest.
    fn keys(&self) -> Vec<SessionKey> {
        let mut keys: Vec<SessionKey> = self.0.lock().writes.keys().copied().collect();
        fastrand::shuffle(&mut keys);
        keys
    }

    fn get(&self, key: &SessionKey) -> Option<(Write, u64)> {
        self.0.lock().writes.get(key).cloned()
    }

    /// The write of this number is done, and left this version if any.
    fn done(&self, key: &SessionKey, number: u64, version: Option<u64>) {
        let mut state = self.0.lock();
        match state.writes.get_mut(key) {
            Some((_, last)) if *last == number => _ = state.writes.remove(key),
            Some((Write::Save { expect, .. }, _)) => {
                *expect = version.map_or(Precondition::Absent, Precondition::Version)
            }
            _ => {}
        }
    }

    pub(super) fn len(&self) -> usize {
        self.0.lock().writes.len()
    }

    /// True when nothing waits: the task may end.
    fn rest(&self) -> bool {
        let mut state = self.0.lock();
        state.writing = !state.writes.is_empty();
        !state.writing
    }
}

/// Says that no task writes any more, when one ends before its time: its runtime is gone.
struct Ended {
    inner: Weak<Inner>,
    in_order: bool,
}

impl Drop for Ended {
    fn drop(&mut self) {
        if let Some(inner) = self.inner.upgrade().filter(|_| !self.in_order) {
            inner.backlog.0.lock().writing = false;
        }
    }
}

/// Keeps `write` until the store is back.
pub(super) fn later(inner: &std::sync::Arc<Inner>, key: SessionKey, write: Write) {
    if inner.backlog.push(key, write) {
        let weak = std::sync::Arc::downgrade(inner);
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => _ = runtime.spawn(write_all(weak)),
            Err(_) => inner.backlog.0.lock().writing = false,
        }
    }
}

/// Tries until all is written. Ends when it is, or when nobody holds the sessions any more.
async fn write_all(inner: Weak<Inner>) {
    let mut ended = Ended { inner, in_order: false };
    loop {
        tokio::time::sleep(PAUSE / 4).await;
        let Some(inner) = ended.inner.upgrade() else { return };
        for key in inner.backlog.keys() {
            let Some((write, number)) = inner.backlog.get(&key) else { continue };
            match inner.write_through(&key, &write).await {
                Ok(version) => inner.backlog.done(&key, number, version),
                Err(Away) if inner.breaker.is_open() => break,
                Err(Away) => {}
            }
        }
        if inner.backlog.rest() {
            // Another task may have been started meanwhile.
            ended.in_order = true;
            return;
        }
    }
}
