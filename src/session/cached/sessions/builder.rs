use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::Sessions;
use crate::clock::{Clock, Epoch, SystemClock};
use crate::session::cached::ended::EndedSessions;
use crate::session::cached::generation::Generation;
use crate::session::cached::recent_keys::derive_key;
use crate::session::cached::{CachedStore, NearCache, RecentKeys, RestoreAfterLoss};
use crate::session::store::cache::CacheLimits;
use crate::session::{InvalidStore, MemoryStore, Secret, SessionRecord, SessionStore};

const DEADLINE: Duration = Duration::from_millis(50);
const STALENESS: Duration = Duration::from_secs(3);
const NEAR_ENTRIES: NonZeroUsize = NonZeroUsize::new(100_000).expect("not zero");
const NEAR_BYTES: NonZeroUsize = NonZeroUsize::new(64 << 20).expect("not zero");

/// The size of the largest session, with the overhead of the map.
const MIN_NEAR_BYTES: usize = SessionRecord::MAX_LEN + 1024;

/// The number of the next [`Sessions`].
static BUILT: AtomicU64 = AtomicU64::new(1);

/// Builds [`Sessions`] in a store that several front ends may share.
#[derive(Debug)]
#[must_use]
pub struct SessionsBuilder {
    store: Arc<dyn SessionStore>,
    secret: Secret,
    deadline: Duration,
    staleness: Duration,
    /// `None` for a store in this process.
    pub(super) near: Option<CacheLimits>,
    /// The store, if it is in this process.
    pub(super) local: Option<MemoryStore>,
    clock: Arc<dyn Clock>,
    restore: Option<RestoreAfterLoss>,
    /// The logouts of the sessions that these continue.
    ended: Option<Arc<EndedSessions>>,
    pub(super) previous: Option<Sessions>,
}

impl SessionsBuilder {
    pub(super) fn new(store: impl SessionStore, secret: Secret) -> Self {
        SessionsBuilder {
            store: Arc::new(store),
            secret,
            deadline: DEADLINE,
            staleness: STALENESS,
            near: Some(CacheLimits { entries: NEAR_ENTRIES, bytes: NEAR_BYTES }),
            local: None,
            clock: Arc::new(SystemClock),
            restore: None,
            ended: None,
            previous: None,
        }
    }

    /// Returns a builder of sessions that continue `sessions` under another secret, in the same
    /// store and with the same settings.
    pub(super) fn continuing(sessions: &Sessions, secret: Secret) -> Self {
        let CachedStore { store, near, local, deadline, epoch, restore, previous, .. } = &*sessions.store;
        if let Some(previous) = previous {
            // Earlier sessions are kept while they have pending writes, which would otherwise be
            // lost.
            previous.lock().take_if(|previous| previous.pending_writes() == 0);
        }
        let near = near.as_ref().map(NearCache::settings);
        SessionsBuilder {
            store: Arc::clone(store),
            secret,
            deadline: *deadline,
            staleness: near.map_or(STALENESS, |(_, staleness)| staleness),
            near: near.map(|(limits, _)| limits),
            clock: Arc::clone(epoch.clock()),
            restore: *restore,
            local: local.clone(),
            ended: Some(Arc::clone(&sessions.store.ended)),
            previous: Some(sessions.clone()),
        }
    }

    /// Sets how long a request waits for an operation of the store. Default: 50 ms. Writes that no
    /// request waits for may take longer, because a store that has just started is slow.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Sets how long the front end uses an entry of its near cache before it asks the store again.
    /// Default: 3 s; zero asks the store every time. The value bounds how late the front end learns
    /// that another front end has moved a session.
    pub fn staleness(mut self, staleness: Duration) -> Self {
        self.staleness = staleness;
        self
    }

    /// Sets the limits of the near cache. Default: 100,000 sessions and 64 MiB. The cache must be
    /// able to hold at least one session of the maximum size: [`SessionRecord::MAX_LEN`] bytes and
    /// the overhead of the map.
    pub fn near_cache(mut self, entries: NonZeroUsize, bytes: NonZeroUsize) -> Self {
        self.near = Some(CacheLimits { entries, bytes });
        self
    }

    /// Sets which sessions of the login relay the front end restores after the store has lost them.
    /// A store loses sessions if it restarts without its data, is emptied, or evicts records.
    /// Bindings are always restored.
    ///
    /// The front end cannot know whether a session is absent because of a loss or because another
    /// front end has ended it.
    ///
    /// Default: [`RestoreAfterLoss::Alone`] if the secret of the
    /// [`LoginRelay`](crate::session::LoginRelay) is [random](Secret::random) and is used only once
    /// in this process, so that no other front end can have these sessions. Otherwise
    /// [`RestoreAfterLoss::Never`].
    pub fn restore_after_loss(mut self, restore: RestoreAfterLoss) -> Self {
        self.restore = Some(restore);
        self
    }

    /// Sets the clock. Default: [`SystemClock`]. Deadlines always use the timers of tokio.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Builds the sessions.
    ///
    /// # Errors
    /// [`InvalidStore::Setting`] if the deadline is zero, or the near cache cannot hold one
    /// session.
    pub fn build(self) -> Result<Sessions, InvalidStore> {
        if self.deadline.is_zero() {
            return Err(InvalidStore::setting("the deadline", "more than zero"));
        }
        if self.near.is_some_and(|near| near.bytes.get() < MIN_NEAR_BYTES) {
            return Err(InvalidStore::setting("the bytes of the near cache", "room for one session, 17408"));
        }
        Ok(self.build_unchecked())
    }

    pub(super) fn build_unchecked(self) -> Sessions {
        let epoch = Epoch::new(self.clock);
        let near = self.near.map(|limits| NearCache::new(limits, self.staleness, epoch.clone()));
        let taggers = self.secret.taggers("session-key");
        let store = CachedStore {
            store: self.store,
            near,
            local: self.local,
            restore: self.restore,
            number: BUILT.fetch_add(1, Ordering::Relaxed),
            secrets: Default::default(),
            ended: self.ended.unwrap_or_else(|| Arc::new(EndedSessions::new(epoch.clone()))),
            generation: Generation::new(derive_key(&taggers[0], b"generation of the store")),
            taggers,
            previous: self.previous.map(|previous| Mutex::new(Some(previous))),
            recent_keys: RecentKeys::new(),
            deadline: self.deadline,
            epoch,
            breaker: Default::default(),
            probe: Default::default(),
            pending: Default::default(),
            in_use: Default::default(),
            failures: AtomicU32::new(0),
            last_failure: Default::default(),
            availability: Default::default(),
        };
        Sessions { store: Arc::new(store) }
    }
}
