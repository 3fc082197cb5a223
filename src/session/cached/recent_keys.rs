use std::fmt;
use std::hash::{BuildHasher, RandomState};

use ahash::RandomState as FastState;
use parking_lot::Mutex;

use crate::session::secret::Tagger;
use crate::session::store::SessionKey;

/// The number of ids whose keys are kept. If more sessions are active, some keys are derived again.
const SLOTS: usize = 4096;

/// Returns the key of the session `id` under the secret of `tagger`.
pub(super) fn derive_key(tagger: &Tagger, id: &[u8]) -> SessionKey {
    let tag = tagger.tag(&[id]);
    let (key, _) = tag.split_first_chunk().expect("a tag has 32 bytes");
    SessionKey::from_bytes(*key)
}

/// The keys of recent session ids. Deriving a key is the most expensive part of a lookup.
///
/// No ids are kept. Two 64-bit hashes with per-process seeds identify an id. One of them is
/// SipHash, for which no client can construct a collision.
pub(in crate::session) struct RecentKeys {
    slots: Box<[Mutex<Option<Slot>>]>,
    seed: RandomState,
    fast_seed: FastState,
}

#[derive(Clone, Copy)]
struct Slot {
    id: [u64; 2],
    key: SessionKey,
}

impl RecentKeys {
    pub(in crate::session) fn new() -> Self {
        RecentKeys {
            slots: (0..SLOTS).map(|_| Mutex::new(None)).collect(),
            seed: RandomState::new(),
            fast_seed: FastState::new(),
        }
    }

    /// Returns the key of `id`. If it is not kept, `derive` computes it. Never waits for another
    /// thread.
    pub(in crate::session) fn get(&self, id: &[u8], derive: impl FnOnce() -> SessionKey) -> SessionKey {
        let hash = [self.seed.hash_one(id), self.fast_seed.hash_one(id)];
        let Some(mut slot) = self.slots[hash[0] as usize % SLOTS].try_lock() else { return derive() };
        match *slot {
            Some(Slot { id, key }) if id == hash => key,
            _ => slot.insert(Slot { id: hash, key: derive() }).key,
        }
    }
}

impl fmt::Debug for RecentKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecentKeys")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_derived_once_and_never_given_to_another_id() {
        let keys = RecentKeys::new();
        let key = |n: u32| SessionKey::from_bytes(u128::from(n).to_be_bytes());
        // More ids than slots, so that several ids share a slot.
        for round in 0..2 {
            for n in 0..3 * SLOTS as u32 {
                assert_eq!(keys.get(&n.to_be_bytes(), || key(n)), key(n), "{round}");
            }
        }
        let last = 3 * SLOTS as u32 - 1;
        assert_eq!(keys.get(&last.to_be_bytes(), || unreachable!()), key(last));
    }
}
