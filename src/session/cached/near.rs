use std::time::Duration;

use super::generation::LossEpoch;
use crate::clock::{Epoch, as_millis};
use crate::request::ClientAddr;
use crate::session::store::cache::{CacheLimits, ShardedCache, Weighted};
use crate::session::{SessionKey, SessionRecord};

/// The near cache: serves repeated lookups without a round trip, and all lookups while the store is
/// unavailable.
pub(super) struct NearCache {
    cache: ShardedCache<Cached>,
    limits: CacheLimits,
    /// In milliseconds.
    staleness: u64,
    epoch: Epoch,
}

/// The entry of a session in the near cache.
pub(super) struct NearEntry {
    pub(super) record: SessionRecord,
    /// The version in the store; `None` while the store does not have the record yet.
    pub(super) version: Option<u64>,
    /// The epoch in which the store had the record.
    pub(super) epoch: LossEpoch,
    /// Whether the entry is fresh, or newer than the record in the store.
    pub(super) is_current: bool,
    /// The time since the store last received a write or a touch, if this front end has sent one.
    touched_ago: Option<u64>,
}

impl NearEntry {
    /// Returns whether the record would still be in the store if the store had not lost it.
    pub(super) fn is_alive(&self, ttl: Duration) -> bool {
        self.touched_ago.is_some_and(|ago| ago < as_millis(ttl))
    }
}

struct Cached {
    record: SessionRecord,
    version: Option<u64>,
    epoch: LossEpoch,
    /// The time at which the store last returned the record, or failed to, in milliseconds.
    checked: u64,
    /// The time at which this front end last wrote or touched the record in the store, in
    /// milliseconds.
    touched: Option<u64>,
}

/// The lifetime of an entry, which is that of a record in the store. An old entry is used only
/// while the store is unavailable.
const LIFETIME: Duration = Duration::from_secs(24 * 3600);

impl NearCache {
    pub(super) fn new(limits: CacheLimits, staleness: Duration, epoch: Epoch) -> Self {
        let staleness = as_millis(staleness);
        NearCache { cache: ShardedCache::new(limits), limits, staleness, epoch }
    }

    /// Returns the limits, and how long an entry is used before the store is asked again.
    pub(super) fn settings(&self) -> (CacheLimits, Duration) {
        (self.limits, Duration::from_millis(self.staleness))
    }

    pub(super) fn len(&self) -> usize {
        self.cache.len()
    }

    /// Calls `see` with the endpoint of each session that is bound.
    #[cfg(feature = "admin")]
    pub(super) fn for_each_binding(&self, mut see: impl FnMut(&crate::endpoint::EndpointId)) {
        self.cache.for_each(self.epoch.millis(), |cached| {
            cached.record.endpoint().into_iter().for_each(&mut see);
        });
    }

    pub(super) fn get(&self, key: &SessionKey) -> Option<NearEntry> {
        let now = self.epoch.millis();
        let entry = self.cache.entry(key, now);
        let Cached { record, version, epoch, checked, touched } = entry.get()?;
        let is_current = version.is_none() || now.saturating_sub(*checked) < self.staleness;
        let touched_ago = touched.map(|touched| now.saturating_sub(touched));
        Some(NearEntry { record: record.clone(), version: *version, epoch: *epoch, is_current, touched_ago })
    }

    /// Records that the store had this record in this epoch. `is_written` says that this front end
    /// has just written it, so that its time to live begins now.
    pub(super) fn learn(
        &self,
        client: ClientAddr,
        key: &SessionKey,
        record: &SessionRecord,
        version: Option<u64>,
        epoch: LossEpoch,
        is_written: bool,
    ) {
        let now = self.epoch.millis();
        let mut entry = self.cache.entry(key, now);
        let known = entry.update(|cached| {
            let is_same = cached.version == version && cached.record == *record;
            if is_same {
                (cached.checked, cached.epoch) = (now, epoch);
            }
            (is_same, cached.touched)
        });
        let touched = match known {
            Some((true, _)) => return,
            _ if is_written => Some(now),
            // A touch extends the session, regardless of the endpoint that it is bound to.
            Some((false, touched)) => touched,
            // Another front end has written the record at an unknown time, so a touch is due.
            None => None,
        };
        entry.insert(client, Cached { record: record.clone(), version, epoch, checked: now, touched }, LIFETIME);
    }

    /// Makes an entry fresh again after the store failed, so that not every request waits for the
    /// failing store.
    pub(super) fn postpone(&self, key: &SessionKey) {
        let now = self.epoch.millis();
        self.cache.entry(key, now).update(|cached| cached.checked = now);
    }

    pub(super) fn forget(&self, key: &SessionKey) {
        self.cache.entry(key, self.epoch.millis()).remove();
    }

    /// Returns whether to touch the session in the store: true once per `interval`, regardless of
    /// the number of requests.
    pub(super) fn is_touch_due(&self, key: &SessionKey, interval: Duration) -> bool {
        let now = self.epoch.millis();
        let is_due = self.cache.entry(key, now).update(|cached| {
            let age = cached.touched.map(|touched| u128::from(now.saturating_sub(touched)));
            let is_due = age.is_none_or(|age| age >= interval.as_millis());
            if is_due {
                cached.touched = Some(now);
            }
            is_due
        });
        is_due.unwrap_or(false)
    }
}

impl Weighted for Cached {
    fn heap_bytes(&self) -> usize {
        self.record.sealed().len()
    }
}
