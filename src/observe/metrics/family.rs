use std::hash::Hash;

use ahash::AHashMap;
use parking_lot::RwLock;

/// The metrics of one name, by the values of their labels. A recorder looks up a metric by hashing its name and all its labels,
/// which costs more than the rest of an event. A family does this once for each value.
pub(super) struct Family<K, M> {
    known: RwLock<AHashMap<K, M>>,
}

impl<K: Hash + Eq + Clone, M> Family<K, M> {
    /// Calls `apply` with the metric of `key`, which `register` makes the first time.
    pub(super) fn with<R>(&self, key: &K, register: impl FnOnce() -> M, apply: impl FnOnce(&M) -> R) -> R {
        if let Some(metric) = self.known.read().get(key) {
            return apply(metric);
        }
        apply(self.known.write().entry(key.clone()).or_insert_with(register))
    }

    /// Forgets the metric of `key`. The recorder keeps its value.
    pub(super) fn remove(&self, key: &K) {
        self.known.write().remove(key);
    }
}

impl<K, M> Default for Family<K, M> {
    fn default() -> Self {
        Family { known: RwLock::default() }
    }
}
