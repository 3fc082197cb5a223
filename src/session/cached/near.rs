use crate::session::store::cache::{Limits, Shelf, Tenths, Weigh};
use crate::session::{SessionKey, SessionRecord};

/// What this front end remembers of a session that a store keeps.
#[derive(Clone)]
pub(super) struct Near {
    pub(super) record: SessionRecord,
    /// The version in the store; none when the store does not have it yet.
    pub(super) version: Option<u64>,
    /// When the store said so, or was last asked in vain.
    pub(super) seen: Tenths,
    /// The store's [era](super::Inner::era) in which it said so.
    pub(super) era: u32,
    /// When the store was last told that the session is in use.
    pub(super) touched: Tenths,
}

impl Weigh for Near {
    fn extra_bytes(&self) -> usize {
        self.record.sealed().len()
    }
}

/// The near cache: answers repeated lookups without a round trip, and all lookups while the store is away.
pub(super) struct NearCache(Shelf<Near>);

/// Something is kept as long as the store could keep it: what is old is not trusted while the store can be asked, but better
/// than nothing when it cannot.
const KEPT: Tenths = 24 * 3600 * 10;

impl NearCache {
    pub(super) fn new(limits: Limits, origin: std::time::Instant) -> Self {
        NearCache(Shelf::new(limits, origin))
    }

    pub(super) fn get(&self, key: &SessionKey, now: Tenths) -> Option<Near> {
        let (mut shard, hash) = self.0.shard(key);
        shard.get(key, hash, now).map(|near| near.clone())
    }

    /// Notes what the store had in this era, unless it is what is known already; then only that it is known to be so.
    pub(super) fn learn(&self, key: &SessionKey, record: &SessionRecord, version: Option<u64>, era: u32, now: Tenths) {
        let (mut shard, hash) = self.0.shard(key);
        match shard.get(key, hash, now) {
            Some(near) if near.version == version && near.record == *record => (near.seen, near.era) = (now, era),
            there => {
                // A touch is the session's, whoever it is bound to.
                let touched = there.map_or(now, |near| near.touched);
                let near = Near { record: record.clone(), version, seen: now, era, touched };
                shard.put(key, hash, near, now.saturating_add(KEPT), now);
            }
        }
    }

    /// The store was asked in vain: what is known is believed for a while again, so that not every request asks in vain.
    pub(super) fn put_off(&self, key: &SessionKey, now: Tenths) {
        let (mut shard, hash) = self.0.shard(key);
        if let Some(near) = shard.get(key, hash, now) {
            near.seen = now;
        }
    }

    pub(super) fn forget(&self, key: &SessionKey) {
        let (mut shard, hash) = self.0.shard(key);
        shard.remove(key, hash);
    }

    /// True when the store is to be told that the session is in use: once per `interval`, however many ask.
    pub(super) fn wants_touch(&self, key: &SessionKey, interval: Tenths, now: Tenths) -> bool {
        let (mut shard, hash) = self.0.shard(key);
        match shard.get(key, hash, now) {
            Some(near) if now.saturating_sub(near.touched) >= interval => {
                near.touched = now;
                true
            }
            _ => false,
        }
    }

    pub(super) fn tenths(&self, now: std::time::Instant) -> Tenths {
        self.0.tenths(now)
    }
}
