//! The entries of a cache, and the credentials that nodes have accepted.
//!
//! Both use `quick_cache` (a CLOCK-Pro cache), like the sessions in memory. Results that are
//! requested again survive a flood of queries that arrive once.

use std::sync::Arc;

use ahash::RandomState;
use bytes::Bytes;
use http::Response;
use parking_lot::Mutex;
use quick_cache::unsync::{Cache, DefaultLifecycle};
use quick_cache::{OptionsBuilder, UnitWeighter, Weighter};

use super::key::{CacheKey, CredentialKey, Credentials};
use crate::observe::ServedBy;

/// The maximum number of entries, and of known credentials.
const MAX_ENTRIES: usize = 4096;

/// The size of an entry without its response, including the overhead of the map, in bytes.
const OVERHEAD: usize = 512;

/// A result, with the facts that decide which queries may get it. Times are in milliseconds on the
/// clock of the cache.
pub(crate) struct CachedResult {
    pub(crate) head: Response<()>,
    pub(crate) body: Bytes,
    pub(crate) served_by: ServedBy,
    pub(super) credential: CredentialKey,
    /// The epoch of its project before its query was sent.
    pub(super) epoch: u64,
    /// The time at which its query arrived.
    pub(super) arrived: u64,
    pub(super) stored: u64,
}

impl CachedResult {
    /// Returns the bytes that an entry with this head and body takes.
    pub(super) fn weight(head: &Response<()>, body: usize) -> usize {
        let headers = head.headers().iter().map(|(name, value)| 2 * name.as_str().len() + value.len() + 64);
        OVERHEAD + body + headers.sum::<usize>()
    }
}

/// The last decisions of nodes about credentials.
#[derive(Clone, Copy, Default)]
struct CredentialRecord {
    /// The latest arrival of a query with these credentials for which a node returned a result.
    accepted: Option<u64>,
    /// The time at which a node last rejected them.
    rejected: Option<u64>,
}

impl CredentialRecord {
    /// Returns whether a node has accepted the credentials since this time, and none has rejected
    /// them since the query of the entry arrived.
    fn allows(self, since: u64, entry: &CachedResult) -> bool {
        let is_accepted = self.accepted.is_some_and(|accepted| accepted >= since);
        let is_rejected = self.rejected.is_some_and(|rejected| {
            entry.arrived <= rejected || self.accepted.is_none_or(|accepted| accepted <= rejected)
        });
        is_accepted && !is_rejected
    }
}

/// The number of slots for rejections of credentials that no node has accepted. Credentials that
/// share a slot share the rejection, which costs them at most an entry.
const REJECTIONS: usize = 4096;

pub(super) struct Entries {
    results: Mutex<Results>,
    credentials: Mutex<KnownCredentials>,
}

struct KnownCredentials {
    accepted: Cache<CredentialKey, CredentialRecord, UnitWeighter, RandomState>,
    /// The times of the last rejections of credentials that no node had accepted, indexed by a part
    /// of their keys. Their first query may still be running. In milliseconds plus one; 0 means
    /// never.
    rejections: Box<[u64]>,
}

struct Results {
    map: Cache<CacheKey, Arc<CachedResult>, EntryWeight, RandomState>,
    /// The times at which clients last requested new results, in milliseconds, indexed by a part of
    /// the keys. Queries that arrived before may still be running. Keys that share a slot lose at
    /// most an entry.
    forgotten: Box<[u64]>,
    evicted: u64,
}

/// The number of slots for keys whose results were forgotten.
const FORGOTTEN: usize = 4096;

/// The counts that [`Entries::usage`] returns.
pub(super) struct CacheUsage {
    pub(super) entries: usize,
    pub(super) bytes: usize,
    pub(super) evicted: u64,
}

impl Entries {
    pub(super) fn new(max_bytes: usize) -> Self {
        // The map bounds a single weight. An entry weighs its bytes, and at least its share of the
        // limit, so that neither bound is exceeded.
        let weight = EntryWeight { minimum: max_bytes.div_ceil(MAX_ENTRIES) as u64 };
        let options = |weight: u64| {
            let options = OptionsBuilder::new().estimated_items_capacity(MAX_ENTRIES).weight_capacity(weight).build();
            options.expect("both capacities are set")
        };
        let map =
            Cache::with_options(options(max_bytes as u64), weight, RandomState::new(), DefaultLifecycle::default());
        let accepted = Cache::with_options(
            options(MAX_ENTRIES as u64),
            UnitWeighter,
            RandomState::new(),
            DefaultLifecycle::default(),
        );
        let known = KnownCredentials { accepted, rejections: vec![0; REJECTIONS].into() };
        Entries {
            results: Mutex::new(Results { map, forgotten: vec![0; FORGOTTEN].into(), evicted: 0 }),
            credentials: Mutex::new(known),
        }
    }

    pub(super) fn get(&self, key: &CacheKey) -> Option<Arc<CachedResult>> {
        self.results.lock().map.get(key).cloned()
    }

    /// Adds an entry, unless there is one from a later query, or the key was forgotten after the
    /// entry's query arrived.
    pub(super) fn insert(&self, key: CacheKey, entry: CachedResult) {
        let mut results = self.results.lock();
        let present = results.map.peek(&key);
        let is_old = results.forgotten[key.part() as usize % FORGOTTEN] > entry.arrived;
        if is_old || present.is_some_and(|present| present.arrived > entry.arrived) {
            return;
        }
        let before = results.map.len() + usize::from(present.is_none());
        results.map.insert(key, Arc::new(entry));
        let after = results.map.len();
        results.evicted += before.saturating_sub(after) as u64;
    }

    /// Removes this entry of a key, and no other.
    pub(super) fn remove(&self, key: &CacheKey, only: &Arc<CachedResult>) {
        self.results.lock().map.remove_if(key, |entry| Arc::ptr_eq(only, entry));
    }

    /// Removes the entry of a key. Results of queries that arrived before now are not added
    /// afterwards.
    pub(super) fn forget(&self, key: &CacheKey, now: u64) {
        let mut results = self.results.lock();
        results.forgotten[key.part() as usize % FORGOTTEN] = now;
        results.map.remove(key);
    }

    /// Removes entries that were stored before this time.
    pub(super) fn remove_before(&self, time: u64) {
        self.results.lock().map.retain(|_, entry| entry.stored >= time);
    }

    pub(super) fn allows(&self, credentials: &Credentials, entry: &CachedResult) -> bool {
        // A node has accepted the credentials of the entry's own query.
        let since = if credentials.all == entry.credential { entry.arrived } else { entry.stored };
        let known = self.credentials.lock();
        credentials
            .each()
            .all(|credential| known.accepted.get(&credential).is_some_and(|known| known.allows(since, entry)))
    }

    /// Records that a node has accepted credentials that arrived at this time. If they were
    /// rejected meanwhile, records nothing and returns false.
    pub(super) fn accept(&self, credentials: &Credentials, arrived: u64) -> bool {
        let known = &mut *self.credentials.lock();
        if credentials.each().any(|credential| known.rejections[credential.part() as usize % REJECTIONS] > arrived) {
            return false;
        }
        for credential in credentials.each() {
            let mut record = known.accepted.get(&credential).copied().unwrap_or_default();
            record.accepted = record.accepted.max(Some(arrived));
            known.accepted.insert(credential, record);
        }
        true
    }

    /// Records that credentials are rejected at this time.
    pub(super) fn reject(&self, credentials: &Credentials, now: u64) {
        let known = &mut *self.credentials.lock();
        for credential in credentials.each() {
            match known.accepted.get(&credential).copied() {
                Some(mut record) => {
                    record.rejected = record.rejected.max(Some(now));
                    known.accepted.insert(credential, record);
                }
                None => known.rejections[credential.part() as usize % REJECTIONS] = now.saturating_add(1),
            }
        }
    }

    pub(super) fn usage(&self) -> CacheUsage {
        let results = self.results.lock();
        CacheUsage { entries: results.map.len(), bytes: results.map.weight() as usize, evicted: results.evicted }
    }
}

#[derive(Clone)]
struct EntryWeight {
    minimum: u64,
}

impl Weighter<CacheKey, Arc<CachedResult>> for EntryWeight {
    fn weight(&self, _: &CacheKey, entry: &Arc<CachedResult>) -> u64 {
        self.minimum.max(CachedResult::weight(&entry.head, entry.body.len()) as u64)
    }
}
