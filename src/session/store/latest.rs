use std::collections::VecDeque;
use std::hash::Hash;

use ahash::AHashMap;

/// A bounded map that evicts its oldest entry.
pub(in crate::session) struct Latest<K, V> {
    entries: AHashMap<K, V>,
    order: VecDeque<K>,
}

impl<K: Hash + Eq + Clone, V> Latest<K, V> {
    pub(in crate::session) fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key)
    }

    #[cfg_attr(not(feature = "login-relay"), allow(dead_code, reason = "only the login relay changes entries"))]
    pub(in crate::session) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.entries.get_mut(key)
    }

    #[cfg_attr(not(feature = "login-relay"), allow(dead_code, reason = "only the login relay removes entries"))]
    pub(in crate::session) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(in crate::session) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.entries.iter()
    }

    #[cfg_attr(not(feature = "login-relay"), allow(dead_code, reason = "only the login relay removes entries"))]
    /// Evicts the oldest entry if `test` is true for its value. Returns whether it did.
    pub(in crate::session) fn evict_oldest_if(&mut self, test: impl FnOnce(&V) -> bool) -> bool {
        let Some(oldest) = self.order.front() else { return false };
        let evicts = self.entries.get(oldest).is_none_or(test);
        if evicts && let Some(oldest) = self.order.pop_front() {
            self.entries.remove(&oldest);
        }
        evicts
    }

    /// Sets the value of `key`. Evicts the oldest entries beyond `max`. Returns whether it evicted
    /// any. A replaced entry keeps its age.
    pub(in crate::session) fn put(&mut self, key: K, value: V, max: usize) -> bool {
        if self.entries.insert(key.clone(), value).is_none() {
            self.order.push_back(key);
        }
        let evicts = self.order.len() > max;
        while self.order.len() > max {
            if let Some(oldest) = self.order.pop_front() {
                self.entries.remove(&oldest);
            }
        }
        evicts
    }

    #[cfg_attr(not(feature = "login-relay"), allow(dead_code, reason = "only the login relay removes entries"))]
    pub(in crate::session) fn remove(&mut self, key: &K) -> bool {
        let was_present = self.entries.remove(key).is_some();
        if was_present {
            self.order.retain(|other| other != key);
        }
        was_present
    }
}

impl<K, V> Default for Latest<K, V> {
    fn default() -> Self {
        Latest { entries: AHashMap::new(), order: VecDeque::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evicts_the_oldest_entry_first() {
        let mut latest = Latest::default();
        for n in 0..5 {
            latest.put(n, n, 3);
        }
        latest.put(2, 20, 3);
        assert_eq!((latest.get(&1), latest.get(&2), latest.get(&4)), (None, Some(&20), Some(&4)));
        assert!(latest.remove(&3));
        latest.put(5, 5, 3);
        assert!(latest.get(&2).is_some() && latest.order.len() == 3);
    }
}
