mod builder;
#[cfg(feature = "login-relay")]
mod claim;
#[cfg(feature = "login-relay")]
mod replace;
mod store_state;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use self::builder::SessionsBuilder;
use super::recent_keys::derive_key;
use super::{CachedStore, Lookup, LossEpoch, NearCache, NearEntry, Unavailable, Write, in_use};
use crate::drop_guard::DropGuard;
use crate::maybe_ready::MaybeReady;
use crate::request::ClientAddr;
use crate::session::{
    InvalidSecret, MemoryStore, Precondition, SaveOutcome, Secret, SessionKey, SessionRecord, SessionStore, StoreError,
    Stored,
};

/// The sessions of this front end, kept in a [`SessionStore`]. Clones share them.
///
/// ```
/// use std::time::Duration;
/// use kylin_lb::session::{Affinity, Sessions};
///
/// // A single front end keeps sessions in its memory.
/// let alone = Affinity::learn(Sessions::in_memory()?);
/// # let store = kylin_lb::session::MemoryStore::new();
/// # let secret = kylin_lb::session::Secret::new([7; 32]);
///
/// // Several front ends keep them in one store, with the same secret.
/// let sessions = Sessions::builder(store, secret).deadline(Duration::from_millis(20)).build()?;
/// let shared = Affinity::learn(sessions);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # When the store is slow or unavailable
///
/// Every operation has a deadline. After five failures in a row, the front end stops calling the
/// store, and a background task checks once a second whether it is available again. Meanwhile the
/// front end uses its near cache (the sessions in its own memory), however old the entries are. New
/// bindings live in the near cache and are written once the store is available. If the near cache
/// does not have a session, a hash of it chooses the endpoint, and all front ends choose the same
/// one. No request fails because of the store.
///
/// A store may come back with fewer sessions than before, for example a cache, or a server that
/// keeps nothing on disk. If the store has lost a binding that this front end knows, the binding is
/// written again when the session is next used. A session of the login relay is written again only
/// if no other front end can have logged it out meanwhile, or if that is
/// [enabled](SessionsBuilder::restore_after_loss).
#[derive(Clone)]
#[must_use]
pub struct Sessions {
    pub(super) store: Arc<CachedStore>,
}

impl Sessions {
    /// Returns sessions in the memory of this process, with a random secret.
    ///
    /// # Errors
    /// [`InvalidSecret`] if the operating system has no random bytes for the secret.
    pub fn in_memory() -> Result<Self, InvalidSecret> {
        Ok(Self::local(MemoryStore::new(), Secret::random()?))
    }

    /// Returns sessions in `store`, which is in this process. There is no near cache and no
    /// deadline, because every operation is ready at once.
    pub fn local(store: MemoryStore, secret: Secret) -> Self {
        let mut builder = SessionsBuilder::new(store.clone(), secret);
        (builder.near, builder.local) = (None, Some(store));
        builder.build_unchecked()
    }

    /// Returns sessions in any store, which other front ends may share, with the defaults of
    /// [`builder`](Self::builder).
    ///
    /// All front ends need the same secret. The front end derives the key of a session from the
    /// secret and the session id, so the store never sees an id.
    pub fn remote(store: impl SessionStore, secret: Secret) -> Self {
        SessionsBuilder::new(store, secret).build_unchecked()
    }

    /// Returns a builder of sessions in any store, which other front ends may share.
    pub fn builder(store: impl SessionStore, secret: Secret) -> SessionsBuilder {
        SessionsBuilder::new(store, secret)
    }

    /// Returns these sessions under another secret, in the same store and with the same settings. A
    /// running front end uses this to change its secret.
    ///
    /// Earlier sessions are found if `secret` includes the [previous](Secret::with_previous) one.
    /// They are stored again under the new secret when they are used. While the store is
    /// unavailable, the earlier near cache serves bindings. Pass the result to a new
    /// [`Affinity`](crate::session::Affinity).
    pub fn with_secret(&self, secret: &Secret) -> Self {
        SessionsBuilder::continuing(self, secret.clone()).build_unchecked()
    }

    /// Returns how many writes wait until the store is available again.
    pub fn pending_writes(&self) -> usize {
        self.store.pending.len()
    }

    /// Returns how many sessions are in this process's memory: in a local store or the near cache.
    pub fn entries_in_memory(&self) -> usize {
        let CachedStore { near, local, .. } = &*self.store;
        near.as_ref().map(NearCache::len).or(local.as_ref().map(MemoryStore::len)).unwrap_or_default()
    }

    /// Counts the sessions in the memory of this process that are bound to each endpoint. Visits
    /// all of them, so it must not be called on the request path.
    #[cfg(feature = "admin")]
    pub(crate) fn count_bindings(&self, counts: &mut ahash::AHashMap<crate::endpoint::EndpointId, usize>) {
        let see = |id: &crate::endpoint::EndpointId| match counts.get_mut(id) {
            Some(count) => *count += 1,
            None => _ = counts.insert(id.clone(), 1),
        };
        match (&self.store.near, &self.store.local) {
            (Some(near), _) => near.for_each_binding(see),
            (None, Some(local)) => local.for_each_binding(see),
            (None, None) => {}
        }
    }

    /// Returns how many writes were dropped since the start, because 100,000 were already pending.
    /// New bindings are dropped first; only this front end then knows such a session. The end of a
    /// session is dropped only if all pending writes are ends.
    pub fn dropped_writes(&self) -> u64 {
        self.store.pending.dropped()
    }

    /// Returns the time of day, in seconds since 1970.
    pub(crate) fn unix(&self) -> u64 {
        self.store.epoch.clock().unix()
    }

    /// Returns the key of the session with this id.
    pub(crate) fn key(&self, id: &[u8]) -> SessionKey {
        self.store.recent_keys.get(id, || derive_key(&self.store.taggers[0], id))
    }

    /// Looks up the session under `key`, the key of `id`. The entry counts towards the near-cache
    /// share of `client`. If `ttl` is given, a session that the store has lost is
    /// [restored](RestoreAfterLoss) for that time.
    pub(crate) fn find<'a>(
        &'a self,
        client: ClientAddr,
        key: SessionKey,
        id: &[u8],
        ttl: Option<Duration>,
    ) -> MaybeReady<'a, Lookup> {
        let store = &self.store;
        let near = store.recall(&key).or_else(|| store.recall_previous(&key, id));
        if near.as_ref().is_some_and(|near| near.is_current) || !store.is_allowed() {
            return MaybeReady::Ready(Lookup::without_store(near));
        }
        if store.near.is_none()
            && let Ok(loaded) = store.store.load(&key).into_ready()
        {
            let lookup = store.loaded(client, &key, loaded, near, store.loss_epoch());
            let of_old_key = |old_key| store.store.load(&old_key).into_ready().ok()?.ok()?;
            let old = if lookup == Lookup::Absent { store.old_keys(id).find_map(of_old_key) } else { None };
            return MaybeReady::Ready(old.map_or(lookup, |old| Lookup::UnderOldKey(old.record)));
        }
        let old_keys: Vec<SessionKey> = store.old_keys(id).collect();
        MaybeReady::boxed(async move {
            store.watch_generation().await;
            let epoch = store.loss_epoch();
            let loaded = store.call(store.store.load(&key)).await;
            let lookup = match self.restored(client, key, &loaded, near.as_ref(), ttl).await {
                Some(lookup) => return lookup,
                None => store.loaded(client, &key, loaded, near, epoch),
            };
            if lookup == Lookup::Absent {
                for old_key in old_keys {
                    if let Ok(Some(Stored { record, .. })) = store.call(store.store.load(&old_key)).await {
                        return Lookup::UnderOldKey(record);
                    }
                }
            }
            lookup
        })
    }

    /// Saves `record` under `key`, if the store meets the `precondition`. Returns the lookup
    /// afterwards: this record, a faster writer's, or none if the session was logged out here.
    pub(crate) fn save<'a>(
        &'a self,
        client: ClientAddr,
        key: SessionKey,
        record: SessionRecord,
        precondition: Precondition,
        ttl: Duration,
    ) -> MaybeReady<'a, Lookup> {
        let store = &self.store;
        if store.is_ended(&key, &record) {
            return MaybeReady::Ready(Lookup::Absent);
        }
        if !store.is_allowed() {
            return MaybeReady::Ready(self.save_later(client, key, record, precondition, ttl));
        }
        let epoch = store.loss_epoch();
        if store.near.is_none()
            && let Some(saved) = store.store.save_for(client, &key, &record, precondition, ttl).into_ready().ok()
        {
            return MaybeReady::Ready(match saved {
                Ok(saved) => self.saved(client, key, record, saved, epoch),
                Err(_) => self.save_later(client, key, record, precondition, ttl),
            });
        }
        MaybeReady::boxed(async move {
            store.watch_generation().await;
            let epoch = store.loss_epoch();
            let saved = store.call(store.store.save_for(client, &key, &record, precondition, ttl)).await;
            if let (Ok(SaveOutcome::Conflict(None)), Some(near)) = (&saved, store.recall(&key)) {
                match store.restores(&key, &near, ttl).await {
                    Ok(true) => return self.restore(client, key, record, ttl).await,
                    Ok(false) => {}
                    Err(Unavailable) => return self.save_later(client, key, record, precondition, ttl),
                }
            }
            match saved {
                Ok(saved) => self.saved(client, key, record, saved, epoch),
                Err(_) => self.save_later(client, key, record, precondition, ttl),
            }
        })
    }

    fn saved(
        &self,
        client: ClientAddr,
        key: SessionKey,
        record: SessionRecord,
        saved: SaveOutcome,
        epoch: LossEpoch,
    ) -> Lookup {
        // The session was logged out meanwhile.
        if self.store.is_ended(&key, &record) {
            return Lookup::Absent;
        }
        let (lookup, is_written) = match saved {
            SaveOutcome::Stored(version) => (Lookup::Found(record, Some(version)), true),
            SaveOutcome::Conflict(Some(winner)) => (Lookup::Found(winner.record, Some(winner.version)), false),
            SaveOutcome::Conflict(None) => (Lookup::Absent, false),
        };
        self.store.remember(client, &key, &lookup, epoch, is_written);
        lookup
    }

    /// Rewrites a session that was absent in the store, if the store has lost it. Returns `None` if
    /// the store has not lost it, so that the session is really absent.
    async fn restored(
        &self,
        client: ClientAddr,
        key: SessionKey,
        loaded: &Result<Option<Stored>, StoreError>,
        near: Option<&NearEntry>,
        ttl: Option<Duration>,
    ) -> Option<Lookup> {
        let (Ok(None), Some(near), Some(ttl)) = (loaded, near, ttl) else { return None };
        match self.store.restores(&key, near, ttl).await {
            Ok(true) => Some(self.restore(client, key, near.record.clone(), ttl).await),
            Ok(false) => None,
            Err(Unavailable) => Some(Lookup::Found(near.record.clone(), near.version)),
        }
    }

    /// Rewrites a session that the store has lost.
    async fn restore(&self, client: ClientAddr, key: SessionKey, record: SessionRecord, ttl: Duration) -> Lookup {
        let store = &self.store;
        let epoch = store.loss_epoch();
        let saved = store.call(store.store.save_for(client, &key, &record, Precondition::Absent, ttl)).await;
        let lookup = match saved {
            Ok(saved) => self.saved(client, key, record, saved, epoch),
            Err(_) => self.save_later(client, key, record, Precondition::Absent, ttl),
        };
        #[cfg(feature = "login-relay")]
        if store.ended.contains(&key) {
            // The session was logged out meanwhile.
            self.end_now(key, ttl).await;
            return Lookup::Absent;
        }
        lookup
    }

    /// Keeps the record in the near cache, and writes it when the store is available again.
    fn save_later(
        &self,
        client: ClientAddr,
        key: SessionKey,
        record: SessionRecord,
        precondition: Precondition,
        ttl: Duration,
    ) -> Lookup {
        if self.store.is_ended(&key, &record) {
            return Lookup::Absent;
        }
        let lookup = Lookup::Found(record.clone(), None);
        self.store.remember(client, &key, &lookup, self.store.loss_epoch(), true);
        self.store.write_later(key, Write::Save { client, record, precondition, ttl });
        lookup
    }

    /// Removes the session under `key`, in the background.
    pub(crate) fn remove(&self, key: SessionKey) {
        let store = &self.store;
        if store.near.is_none() {
            let _ = store.store.remove(&key).into_ready();
            return;
        }
        store.forget(&key);
        if !store.is_allowed() {
            store.write_later(key, Write::Remove);
        } else if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let store = Arc::clone(store);
            runtime.spawn(async move {
                if store.call(store.store.remove(&key)).await.is_err() {
                    store.write_later(key, Write::Remove);
                }
            });
        }
    }

    /// Extends the life of the session, now and until the guard is dropped.
    pub(crate) fn use_now(&self, key: SessionKey, ttl: Duration) -> DropGuard {
        self.store.touch(&key, ttl);
        in_use::hold(&self.store, key, ttl)
    }
}

/// Lookups and removals for the login relay, which bypass the near cache.
#[cfg(feature = "login-relay")]
impl Sessions {
    /// Looks up the session under `key` in the store. Uses the near cache only while the store is
    /// unavailable. `ttl` has the same meaning as in [`find`](Self::find).
    pub(crate) async fn find_fresh(&self, client: ClientAddr, key: SessionKey, ttl: Option<Duration>) -> Lookup {
        let store = &self.store;
        let near = store.recall(&key);
        // A pending write is newer than the record in the store.
        if near.as_ref().is_some_and(|near| near.version.is_none()) || !store.is_allowed() {
            return Lookup::without_store(near);
        }
        let epoch = store.loss_epoch();
        let loaded = store.call(store.store.load(&key)).await;
        match self.restored(client, key, &loaded, near.as_ref(), ttl).await {
            Some(lookup) => lookup,
            None => store.loaded(client, &key, loaded, near, epoch),
        }
    }

    /// Removes the record under `key` and waits for the store.
    pub(crate) async fn remove_now(&self, key: SessionKey) {
        self.write_now(key, Write::Remove).await;
    }

    /// Ends the session under `key`, whose records live for `ttl`, and waits for the store.
    /// Afterwards no front end finds the session in the store, unless the store is unavailable.
    pub(crate) async fn end_now(&self, key: SessionKey, ttl: Duration) {
        let store = &self.store;
        if store.near.is_some() {
            store.ended.add(key, ttl);
        }
        store.watch_generation().await;
        self.write_now(key, if store.is_shared() { Write::End { ttl } } else { Write::Remove }).await;
    }

    async fn write_now(&self, key: SessionKey, write: Write) {
        let store = &self.store;
        store.forget(&key);
        let is_written = store.is_allowed()
            && match &write {
                Write::Remove => store.call(store.store.remove(&key)).await.is_ok(),
                write => store.write(&key, write).await.is_ok(),
            };
        // Another request may have looked the session up meanwhile.
        store.forget(&key);
        if !is_written {
            store.write_later(key, write);
        }
    }

    /// Records that a login relay with `secret` keeps its sessions here.
    pub(crate) fn note_relay(&self, secret: &Secret) {
        self.store.secrets.lock().push(secret.used_by(self.store.number));
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions")
            .field("store", &self.store.store)
            .field("is_store_available", &self.is_store_available())
            .field("pending_writes", &self.pending_writes())
            .finish_non_exhaustive()
    }
}
