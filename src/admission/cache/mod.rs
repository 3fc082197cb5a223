//! Result cache: gives a user the result of an identical query that is at most a minute old.
//!
//! An entry is used if all these conditions hold:
//!
//! | condition | how it is known |
//! |---|---|
//! | the query is identical to that of the entry | its [key](CacheKey), a keyed hash of what single flight compares |
//! | no write or build has passed since the query of the entry was sent | the epoch of the project, which the entry carries |
//! | no build has been seen since, which other front ends or the scheduler of Kylin may have started | the list of the project's jobs, which a node is asked for every 10 s; a change raises the epoch |
//! | the list of jobs is not older than 15 s | the time of the last check |
//! | a node has accepted the credentials since, and rejected none | the responses to all queries |
//! | the entry is not older than 60 s | its time |
//!
//! A result is stored if the conditions for its project held when its query arrived, and its epoch
//! is still the same.

mod entries;
mod key;
mod poll;
mod projects;
mod rules;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use parking_lot::Mutex;
use tokio::runtime::Handle;

pub(crate) use self::entries::CachedResult;
use self::entries::{CacheUsage, Entries};
use self::key::Keys;
pub(crate) use self::key::{CacheKey, Credentials};
use self::poll::{INTERVAL, PollError, Poller};
use self::projects::{Project, Projects};
pub use self::rules::CacheRules;
use super::flight::{Epochs, ProjectSlot};
use crate::backend::Backend;
use crate::background::{BackgroundTask, ensure_running};
use crate::body::Body;
use crate::buffer::BufferBudget;
use crate::clock::{Clock, Epoch, as_millis};
use crate::cluster::Cluster;
use crate::observe::{CacheOutcome, CacheStatus, ServedBy};
use crate::request::RequestContext;
use crate::session::InvalidSecret;

/// The maximum age of an entry.
const MAX_AGE: Duration = Duration::from_secs(60);

/// The results of a proxy.
pub(crate) struct ResultCache<B> {
    cluster: Cluster<B>,
    /// The epochs that all proxies of the cluster share.
    epochs: Arc<dyn AsRef<Epochs> + Send + Sync>,
    clock: Epoch,
    keys: Keys,
    entries: Entries,
    projects: Projects,
    max_bytes: usize,
    across_users: bool,
    buffers: BufferBudget,
    poller: tokio::sync::Mutex<Poller>,
    task: BackgroundTask,
    /// The reason why the last check failed.
    error: Mutex<Option<String>>,
    hits: AtomicU64,
    misses: AtomicU64,
    stale: AtomicU64,
}

/// A query for which the cache has no result, and whose result it may store.
pub(crate) struct Pending {
    key: CacheKey,
    credentials: Credentials,
    project: Box<str>,
    epoch: u64,
    arrived: u64,
    may_store: bool,
}

/// The result of a lookup.
pub(crate) enum Lookup {
    /// The result, and its age.
    Hit(Arc<CachedResult>, Duration),
    Miss(Pending, CacheOutcome),
}

impl<B> ResultCache<B> {
    /// Returns an empty cache.
    ///
    /// # Errors
    /// [`InvalidSecret`] if the operating system has no random bytes.
    pub(crate) fn new(
        rules: &CacheRules,
        login: HeaderValue,
        cluster: Cluster<B>,
        epochs: Arc<dyn AsRef<Epochs> + Send + Sync>,
        buffers: BufferBudget,
        clock: &Arc<dyn Clock>,
    ) -> Result<Arc<Self>, InvalidSecret> {
        Ok(Arc::new(ResultCache {
            cluster,
            epochs,
            clock: Epoch::new(Arc::clone(clock)),
            keys: Keys::new()?,
            entries: Entries::new(rules.bytes()),
            projects: Projects::default(),
            max_bytes: rules.bytes(),
            across_users: rules.is_across_users(),
            buffers,
            poller: tokio::sync::Mutex::new(Poller::new(login)),
            task: BackgroundTask::default(),
            error: Mutex::new(None),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            stale: AtomicU64::new(0),
        }))
    }

    /// Returns the state and the counts of the cache.
    pub(crate) fn status(&self) -> CacheStatus {
        let CacheUsage { entries, bytes, evicted } = self.entries.usage();
        CacheStatus {
            entries,
            bytes,
            projects: self.projects.len(),
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            stale: self.stale.load(Ordering::Relaxed),
            evicted,
            error: self.error.lock().clone(),
        }
    }

    /// Returns the keys of the credentials of a request.
    pub(crate) fn credentials(&self, context: &RequestContext) -> Credentials {
        self.keys.credentials(context)
    }

    /// Excludes these credentials from all results of queries that arrived before now. A node has
    /// rejected the credentials, their session has ended, or a write with them may still be
    /// executed.
    pub(crate) fn reject(&self, credentials: &Credentials) {
        self.entries.reject(credentials, self.clock.millis());
    }

    fn epoch(&self, project: ProjectSlot) -> u64 {
        (*self.epochs).as_ref().current(project)
    }
}

impl<B: Backend> ResultCache<B> {
    /// Returns the key of a query; `None` if its body is not a JSON object.
    pub(crate) fn key(&self, request: &Request<Body>, credentials: &Credentials) -> Option<CacheKey> {
        self.keys.query(request, Some(credentials.all).filter(|_| !self.across_users))
    }

    /// Looks up the result of a query that has just arrived. Accepts a result that is at most
    /// `max_age` old.
    pub(crate) fn look_up(
        self: &Arc<Self>,
        key: CacheKey,
        credentials: Credentials,
        project: Box<str>,
        max_age: Option<Duration>,
    ) -> Lookup {
        self.ensure_polling();
        let arrived = self.clock.millis();
        let epoch = self.epoch(ProjectSlot::of(&project));
        let allowed = self.projects.get(&project).map(|project| project.allows(epoch, arrived));
        let may_store = allowed.is_some_and(|allowed| allowed.store);
        let outcome = match self.entries.get(&key) {
            None => CacheOutcome::Miss,
            Some(entry) => {
                let age = arrived.saturating_sub(entry.stored);
                let is_valid = entry.epoch == epoch && age <= as_millis(MAX_AGE);
                if !is_valid {
                    self.entries.remove(&key, &entry);
                }
                let is_young = max_age.is_none_or(|max_age| age <= as_millis(max_age));
                let may_get = is_young && allowed.is_some_and(|allowed| allowed.get);
                if is_valid && may_get && self.entries.allows(&credentials, &entry) {
                    self.hits.fetch_add(1, Ordering::Relaxed);
                    return Lookup::Hit(entry, Duration::from_millis(age));
                }
                CacheOutcome::Stale
            }
        };
        let count = if outcome == CacheOutcome::Stale { &self.stale } else { &self.misses };
        count.fetch_add(1, Ordering::Relaxed);
        Lookup::Miss(Pending { key, credentials, project, epoch, arrived, may_store }, outcome)
    }

    /// Removes the result of a query whose client requested a new one. The client must not get the
    /// older one afterwards.
    pub(crate) fn forget(&self, key: &CacheKey) {
        self.entries.forget(key, self.clock.millis());
    }

    /// Stores the result of a query. `head` and `body` are copied.
    pub(crate) fn store(self: &Arc<Self>, pending: Pending, head: Response<()>, body: &Bytes, served_by: ServedBy) {
        let Pending { key, credentials, project, epoch, arrived, may_store } = pending;
        self.follow(&project);
        let credential = credentials.all;
        // A node may have rejected the credentials, or their session may have ended, while the
        // query ran.
        if !self.entries.accept(&credentials, arrived) || !may_store || self.epoch(ProjectSlot::of(&project)) != epoch {
            return;
        }
        let weight = CachedResult::weight(&head, body.len());
        // The rest of the budget is for bodies that need it.
        let status = self.buffers.status();
        let has_room = status.limit.is_none_or(|limit| status.used.saturating_add(weight) <= limit / 2);
        let mut reservation = self.buffers.reservation(None);
        if weight > self.max_bytes || !has_room || !reservation.grow(weight) {
            return;
        }
        // A copy, because the body may be part of a larger buffer, or count towards the share of
        // its client.
        let body = reservation.hold(body.to_vec());
        let stored = self.clock.millis();
        self.entries.insert(key, CachedResult { head, body, served_by, credential, epoch, arrived, stored });
    }

    /// Begins to follow the builds of a project, unless they are already followed.
    fn follow(self: &Arc<Self>, name: &str) {
        let Ok(runtime) = Handle::try_current() else { return };
        let slot = ProjectSlot::of(name);
        let Some(project) = self.projects.follow(name, self.epoch(slot), self.clock.millis()) else { return };
        // The project was not followed until now, so earlier results may be older than a build.
        (*self.epochs).as_ref().raise(Some(slot));
        project.begin_at(self.epoch(slot));
        let cache = Arc::clone(self);
        runtime.spawn(async move {
            if let Err(error) = cache.check(&project).await {
                cache.note_error(Some(error));
            }
        });
        self.ensure_polling();
    }

    fn ensure_polling(self: &Arc<Self>) {
        if self.projects.len() > 0 {
            ensure_running(self, |cache| &cache.task, |_| INTERVAL, Self::round, |cache| cache.projects.len() > 0);
        }
    }

    /// Checks all projects, and removes entries that are too old.
    async fn round(self: Arc<Self>) {
        let now = self.clock.millis();
        self.entries.remove_before(now.saturating_sub(as_millis(MAX_AGE)));
        let mut first_error = None;
        for project in self.projects.in_use(now) {
            match self.check(&project).await {
                Ok(()) => {}
                Err(error @ (PollError::Denied { .. } | PollError::NoList { .. })) => {
                    _ = first_error.get_or_insert(error);
                }
                Err(error) => {
                    // The nodes would probably not respond for the other projects either.
                    first_error = Some(error);
                    break;
                }
            }
        }
        self.note_error(first_error);
    }

    /// Asks a node whether a build has changed a project.
    async fn check(&self, project: &Project) -> Result<(), PollError> {
        let mut poller = self.poller.lock().await;
        let began = self.clock.millis();
        let last_change = poller.last_change(&self.cluster, project).await?;
        if project.check(last_change, began) {
            (*self.epochs).as_ref().raise(Some(project.slot));
            project.see(self.epoch(project.slot), self.clock.millis());
        }
        Ok(())
    }

    fn note_error(&self, error: Option<PollError>) {
        let error = error.map(|error| error.to_string());
        let before = std::mem::replace(&mut *self.error.lock(), error.clone());
        if let Some(error) = error
            && before.as_ref() != Some(&error)
        {
            tracing::warn!(error, "builds are not followed, so results are not cached");
        }
    }
}
