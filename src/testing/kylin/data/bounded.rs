//! A map with a bounded number of entries.

use std::collections::VecDeque;
use std::sync::Arc;

use ahash::AHashMap;

/// A map that removes its oldest entry when it has more than `MAX`.
pub(crate) struct BoundedMap<V, const MAX: usize> {
    entries: AHashMap<Arc<str>, V>,
    order: VecDeque<Arc<str>>,
}

impl<V, const MAX: usize> BoundedMap<V, MAX> {
    pub(crate) fn insert(&mut self, key: impl Into<Arc<str>>, value: V) {
        let key = key.into();
        if self.entries.insert(key.clone(), value).is_none() {
            self.order.push_back(key);
        }
        if self.order.len() > MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.entries.remove(&oldest);
        }
    }

    pub(crate) fn remove(&mut self, key: &str) {
        if self.entries.remove(key).is_some() {
            self.order.retain(|kept| **kept != *key);
        }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&V> {
        self.entries.get(key)
    }

    pub(crate) fn get_mut(&mut self, key: &str) -> Option<&mut V> {
        self.entries.get_mut(key)
    }

    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.entries.values_mut()
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}

impl<V, const MAX: usize> Default for BoundedMap<V, MAX> {
    fn default() -> Self {
        BoundedMap { entries: AHashMap::new(), order: VecDeque::new() }
    }
}
