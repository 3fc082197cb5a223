//! A cache of parsed queries: the users of a dashboard send the same queries again and again.

use std::fmt;

use ahash::RandomState;
use parking_lot::Mutex;

use crate::kylin::query::WantedKeys;

/// The number of queries that are kept.
const SLOTS: usize = 256;
/// The maximum length of a body that is kept, in bytes.
const MAX_BODY: usize = 4096;

/// The results of parsing recent queries, keyed by all bytes of their bodies.
///
/// A query is kept when it arrives for the second time. Queries that arrive only once cost no
/// memory and evict no other query.
pub(super) struct RecentQueries<T> {
    slots: Box<[Mutex<Slot<T>>]>,
    seed: RandomState,
}

struct Slot<T> {
    /// The hash of the last query that was parsed.
    hash: u64,
    kept: Option<CachedRead<T>>,
}

struct CachedRead<T> {
    wanted: WantedKeys,
    /// A hash of the user, so that no credentials are kept. Only the keys depend on the user.
    user: u64,
    body: Box<[u8]>,
    read: T,
}

impl<T: Clone> RecentQueries<T> {
    pub(super) fn new() -> Self {
        let slot = |_| Mutex::new(Slot { hash: 0, kept: None });
        RecentQueries { slots: (0..SLOTS).map(slot).collect(), seed: RandomState::new() }
    }

    /// Returns what `read` returns for this body. The result of `read` may depend on `user` only if
    /// keys are `wanted`, and on nothing else. Never waits for another thread.
    pub(super) fn get(
        &self,
        wanted: WantedKeys,
        user: &[u8],
        body: &[u8],
        read: impl FnOnce() -> Option<T>,
    ) -> Option<T> {
        if body.len() > MAX_BODY {
            return read();
        }
        let user = if wanted == WantedKeys::None { 0 } else { self.seed.hash_one(user) };
        let hash = self.seed.hash_one((user, body));
        let Some(mut slot) = self.slots[hash as usize % SLOTS].try_lock() else { return read() };
        if let Some(kept) = &slot.kept
            && *kept.body == *body
            && (kept.wanted, kept.user) == (wanted, user)
        {
            return Some(kept.read.clone());
        }
        let read = read()?;
        let kept = (slot.hash == hash).then(|| CachedRead { wanted, user, body: body.into(), read: read.clone() });
        *slot = Slot { hash, kept };
        Some(read)
    }
}

impl<T> fmt::Debug for RecentQueries<T> {
    /// Shows no query.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecentQueries")
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_query_is_read_until_it_has_come_twice_and_is_never_taken_for_another() {
        let (recent, reads) = (RecentQueries::new(), Cell::new(0));
        let get_with = |wanted, user: &str, body: &str| {
            let read = || {
                reads.set(reads.get() + 1);
                Some((user.len(), body.len()))
            };
            let before = reads.get();
            let expected = if wanted == WantedKeys::None { None } else { Some(user.len()) };
            let got = recent.get(wanted, user.as_bytes(), body.as_bytes(), read).unwrap();
            assert_eq!((expected.unwrap_or(got.0), body.len()), got);
            reads.get() > before
        };
        let get = |user: &str, body: &str| get_with(WantedKeys::Affinity, user, body);
        assert!(get("", "select 1") && get("", "select 1") && !get("", "select 1"));
        assert!(get("ADMIN", "select 1"), "for another user");
        let without = |user| get_with(WantedKeys::None, user, "select 1");
        assert!(without("ADMIN") && without("MARY") && !without("ANALYST"), "without keys for all users");
        assert!(get_with(WantedKeys::All, "", "select 1"), "with other keys");
        assert!(get("ADMINselect", " 1") && get("", "select 10"));
        let long = "x".repeat(MAX_BODY + 1);
        assert!(get("", &long) && get("", &long) && get("", &long));
        // More users and queries than slots, each of which keeps what came twice.
        for number in 0..3 * SLOTS {
            let user = "u".repeat(number % 97 + 1);
            (0..2).for_each(|_| _ = get(&format!("{user}{number:04}"), "select 1"));
        }
        for number in 0..3 * SLOTS {
            let body = format!("{:width$}", 1, width = number % 97 + 1);
            get("", &body);
        }
    }

    #[test]
    fn what_cannot_be_read_is_not_kept() {
        let recent = RecentQueries::<u8>::new();
        for _ in 0..3 {
            assert_eq!(recent.get(WantedKeys::None, b"", b"{", || None), None);
        }
        assert_eq!(recent.get(WantedKeys::None, b"", b"{", || Some(1)), Some(1));
    }
}
