//! What stands between the ways of keeping sessions and a store: a deadline for every operation, a near cache, a breaker, and
//! a backlog of writes for when the store is away. Its callers never see an error, only that nobody knows.

mod backlog;
mod breaker;
#[cfg(feature = "login-relay")]
mod fresh;
mod in_use;
mod inner;
mod near;
mod probe;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use self::backlog::{Backlog, Write};
use self::breaker::Breaker;
use self::in_use::Register;
use self::inner::{Away, Inner, Settings, is_binding};
use self::near::{Near, NearCache};
use crate::clock::{Clock, SystemClock};
use crate::drop_guard::DropGuard;
use crate::maybe_ready::MaybeReady;
use crate::session::secret::Tagger;
use crate::session::store::cache::{Limits, Tenths};
use crate::session::{
    InvalidSecret, MemoryStore, Precondition, SaveOutcome, Secret, SessionKey, SessionRecord, SessionStore, Stored,
};

/// The sessions of one or many front ends, in a store. Clones are handles to the same.
///
/// ```
/// use std::time::Duration;
/// use kylin_lb::session::{Affinity, Sessions};
///
/// // One front end: in its own memory.
/// let alone = Affinity::learn(Sessions::in_memory()?);
/// # let store = kylin_lb::session::MemoryStore::new();
/// # let secret = kylin_lb::session::Secret::new([7; 32]);
///
/// // Several front ends: in a store that all of them reach, under a secret that all of them have.
/// let shared = Affinity::learn(Sessions::remote(store, secret).deadline(Duration::from_millis(20)));
/// # Ok::<(), kylin_lb::session::InvalidSecret>(())
/// ```
///
/// # When the store is slow or away
///
/// Every operation has a deadline. After five failures in a row the store is left alone; a task, for which no request waits, asks
/// it once a second whether it is back. Meanwhile this front end goes on with what it has in its near cache, however old; new bindings live there, and are
/// written when the store is back. A session that nobody knows is placed by a hash that all front ends compute alike. No
/// request fails for it.
///
/// A store may come back with less than it had: a cache does, and so does a server that keeps nothing on disk. A binding that
/// this front end knows and the store has lost is written again when the session is next used. What holds credentials is not:
/// somebody else may have logged out meanwhile.
#[derive(Clone)]
#[must_use]
pub struct Sessions {
    inner: Arc<Inner>,
}

/// What is known of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// This record; with the version to name when it is replaced, none when the store does not have it yet.
    Found(SessionRecord, Option<u64>),
    /// This record, under a secret that was in use before: to be saved under the current one.
    UnderOldKey(SessionRecord),
    /// There is no such session.
    Absent,
    /// Nobody can say: the store is away.
    Unknown,
}

impl Sessions {
    /// Sessions in the memory of this process, under a secret of its own.
    ///
    /// # Errors
    /// [`InvalidSecret`] when the operating system has no random bytes for the secret.
    pub fn in_memory() -> Result<Self, InvalidSecret> {
        Ok(Self::local(MemoryStore::new(), Secret::random()?))
    }

    /// Sessions in `store`, which is in this process: it answers at once, and nothing stands before it.
    pub fn local(store: MemoryStore, secret: Secret) -> Self {
        Self::new(Arc::new(store), &secret, false)
    }

    /// Sessions in a store that other front ends may share. All that share it need the same secret, from which the keys of
    /// sessions are made: the store gets no id.
    pub fn remote(store: impl SessionStore, secret: Secret) -> Self {
        Self::new(Arc::new(store), &secret, true)
    }

    fn new(store: Arc<dyn SessionStore>, secret: &Secret, remote: bool) -> Self {
        let settings = Settings {
            deadline: Duration::from_millis(50),
            staleness: Duration::from_secs(3),
            near: Limits { entries: 100_000, bytes: 64 << 20 },
            clock: Arc::new(SystemClock),
        };
        Self::with(store, secret.taggers("session-key"), settings, remote)
    }

    fn with(store: Arc<dyn SessionStore>, taggers: Arc<[Tagger]>, settings: Settings, remote: bool) -> Self {
        let origin = settings.clock.now();
        let near = remote.then(|| NearCache::new(settings.near, origin));
        let inner = Arc::new_cyclic(|own| Inner {
            own: own.clone(),
            store,
            near,
            taggers,
            settings,
            breaker: Breaker::default(),
            backlog: Backlog::default(),
            register: Register::default(),
            failures: AtomicU32::new(0),
            origin,
        });
        Sessions { inner }
    }

    fn rebuilt(self, change: impl FnOnce(&mut Settings)) -> Self {
        let Inner { store, near, taggers, settings, .. } = &*self.inner;
        let mut settings = settings.clone();
        change(&mut settings);
        Self::with(Arc::clone(store), Arc::clone(taggers), settings, near.is_some())
    }

    /// How long one operation of the store may take. Default 50 ms.
    pub fn deadline(self, deadline: Duration) -> Self {
        self.rebuilt(|settings| settings.deadline = deadline)
    }

    /// For how long the near cache is believed before the store is asked again: how late this front end may learn that another
    /// has moved a session. Default 3 s.
    pub fn staleness(self, staleness: Duration) -> Self {
        self.rebuilt(|settings| settings.staleness = staleness)
    }

    /// What the near cache may hold. Default 100,000 sessions and 64 MiB.
    pub fn near_cache(self, entries: usize, bytes: usize) -> Self {
        self.rebuilt(|settings| settings.near = Limits { entries, bytes })
    }

    /// Sets where time comes from. Deadlines go by tokio's timers all the same.
    pub fn clock(self, clock: impl Clock) -> Self {
        self.rebuilt(|settings| settings.clock = Arc::new(clock))
    }

    /// Does the store fail at present, so that it is left alone?
    pub fn is_store_unavailable(&self) -> bool {
        self.inner.breaker.is_open()
    }

    /// How many writes wait for the store to come back.
    pub fn backlog(&self) -> usize {
        self.inner.backlog.len()
    }

    /// The time of day, in seconds since 1970.
    pub(crate) fn unix(&self) -> u64 {
        self.inner.settings.clock.unix()
    }

    /// The key of the session with this id.
    pub(crate) fn key(&self, id: &[u8]) -> SessionKey {
        key(&self.inner.taggers[0], id)
    }

    /// What is known of the session under `key`, the key of `id`. A binding that the store has lost is written again, to live
    /// for `ttl` if there is one.
    pub(crate) fn find<'a>(&'a self, key: SessionKey, id: &[u8], ttl: Option<Duration>) -> MaybeReady<'a, Lookup> {
        let inner = &*self.inner;
        let now = inner.tenths();
        let near = self.recalls(&key, now);
        match near {
            Some(near) if near.version.is_none() || inner.is_fresh(&near, now) => {
                return MaybeReady::Ready(known(near));
            }
            _ => {}
        }
        if !inner.breaker.allows(inner.millis()) {
            return MaybeReady::Ready(near.map_or(Lookup::Unknown, known));
        }
        if inner.near.is_none()
            && let Ok(loaded) = inner.store.load(&key).now()
        {
            return MaybeReady::Ready(inner.loaded(&key, loaded, near, 0));
        }
        let older: Vec<SessionKey> = inner.taggers[1..].iter().map(|tagger| self::key(tagger, id)).collect();
        MaybeReady::Boxed(Box::pin(async move {
            let era = inner.era();
            let loaded = inner.in_time(inner.store.load(&key)).await;
            if let (Ok(None), Some(near), Some(ttl)) = (&loaded, &near, ttl)
                && inner.has_lost(near)
            {
                return self.save(key, near.record.clone(), Precondition::Absent, ttl).await;
            }
            let found = inner.loaded(&key, loaded, near, era);
            if found == Lookup::Absent {
                for old in older {
                    if let Ok(Some(Stored { record, .. })) = inner.in_time(inner.store.load(&old)).await {
                        return Lookup::UnderOldKey(record);
                    }
                }
            }
            found
        }))
    }

    /// Binds the session under `key`, if what is there is what the caller `expect`s. What is known afterwards: the record, or
    /// that of a faster writer.
    pub(crate) fn save<'a>(
        &'a self,
        key: SessionKey,
        record: SessionRecord,
        expect: Precondition,
        ttl: Duration,
    ) -> MaybeReady<'a, Lookup> {
        let inner = &self.inner;
        if !inner.breaker.allows(inner.millis()) {
            return MaybeReady::Ready(self.save_later(key, record, expect, ttl));
        }
        let era = inner.era();
        if inner.near.is_none() {
            let saved = inner.store.save(&key, &record, expect, ttl).now();
            if let Ok(saved) = saved.map_err(drop) {
                let saved = saved.map_err(|error| inner.failed(&error));
                return MaybeReady::Ready(self.saved(key, record, expect, ttl, saved, era));
            }
        }
        MaybeReady::Boxed(Box::pin(async move {
            let saved = inner.in_time(inner.store.save(&key, &record, expect, ttl)).await;
            self.saved(key, record, expect, ttl, saved.map_err(|_| Away), era)
        }))
    }

    fn saved(
        &self,
        key: SessionKey,
        record: SessionRecord,
        expect: Precondition,
        ttl: Duration,
        saved: Result<SaveOutcome, Away>,
        era: u32,
    ) -> Lookup {
        let inner = &self.inner;
        let known = match saved {
            Ok(SaveOutcome::Stored(version)) => Lookup::Found(record, Some(version)),
            Ok(SaveOutcome::Conflict(Some(Stored { record, version }))) => Lookup::Found(record, Some(version)),
            // What was to be replaced went with the store.
            Ok(SaveOutcome::Conflict(None))
                if is_binding(&record)
                    && self.recalls(&key, inner.tenths()).is_some_and(|near| inner.has_lost(&near)) =>
            {
                return self.save_later(key, record, Precondition::Absent, ttl);
            }
            Ok(SaveOutcome::Conflict(None)) => Lookup::Absent,
            Err(Away) => return self.save_later(key, record, expect, ttl),
        };
        inner.remember(&key, &known, era);
        known
    }

    fn recalls(&self, key: &SessionKey, now: Tenths) -> Option<Near> {
        self.inner.near.as_ref().and_then(|cache| cache.get(key, now))
    }

    /// The store is away: the binding lives in the near cache, and is written when the store is back.
    fn save_later(&self, key: SessionKey, record: SessionRecord, expect: Precondition, ttl: Duration) -> Lookup {
        let known = Lookup::Found(record.clone(), None);
        self.inner.remember(&key, &known, self.inner.era());
        backlog::later(&self.inner, key, Write::Save { record, expect, ttl });
        known
    }

    /// Removes the session under `key`. Nobody waits for it.
    pub(crate) fn remove(&self, key: SessionKey) {
        let inner = &self.inner;
        let Some(near) = &inner.near else {
            let _ = inner.store.remove(&key).now();
            return;
        };
        near.forget(&key);
        if !inner.breaker.allows(inner.millis()) {
            backlog::later(inner, key, Write::Remove);
        } else if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let inner = Arc::clone(inner);
            runtime.spawn(async move {
                if inner.in_time(inner.store.remove(&key)).await.is_err() {
                    backlog::later(&inner, key, Write::Remove);
                }
            });
        }
    }

    /// Tells the store that the session is in use, and has it told so while what is returned lives.
    pub(crate) fn use_now(&self, key: SessionKey, ttl: Duration) -> DropGuard {
        self.inner.touch(&key, ttl);
        in_use::use_now(&self.inner, key, ttl)
    }
}

fn key(tagger: &Tagger, id: &[u8]) -> SessionKey {
    let tag = tagger.tag(&[id]);
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&tag[..16]);
    SessionKey::from_bytes(bytes)
}

fn known(near: Near) -> Lookup {
    Lookup::Found(near.record, near.version)
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions")
            .field("store", &self.inner.store)
            .field("store_away", &self.is_store_unavailable())
            .field("backlog", &self.backlog())
            .finish_non_exhaustive()
    }
}
