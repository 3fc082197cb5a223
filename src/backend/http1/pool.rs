//! Idle connections, one stack per core.

use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::connection::Connection;
use super::open_count::OpenCount;
use crate::background::{self, BackgroundTask};
use crate::clock::Clock;
use crate::{shard, shortage};

/// The interval at which the pool is searched for idle connections that their node has closed, or
/// that are idle for too long. A request checks its connection itself; the sweep only frees
/// sockets.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// For this long after a response, the runtime's state of the socket counts as current.
const TRUST_RUNTIME_TIMEOUT: Duration = Duration::from_millis(1);

pub(super) struct Pool {
    shards: Box<[Shard]>,
    settings: PoolSettings,
    clock: Arc<dyn Clock>,
    pub(super) open: OpenCount,
}

/// Limits on connections and their reuse; `None` is no limit.
#[derive(Debug, Clone, Copy)]
pub(super) struct PoolSettings {
    /// The number of connections that may be open, including idle ones.
    pub(super) max_open: Option<NonZeroUsize>,
    /// The number of idle connections that a shard keeps.
    pub(super) max_idle: usize,
    pub(super) idle_timeout: Duration,
    pub(super) max_uses: Option<NonZeroU32>,
    pub(super) max_age: Option<Duration>,
}

impl Default for PoolSettings {
    fn default() -> Self {
        PoolSettings {
            max_open: None,
            max_idle: 1024,
            idle_timeout: Duration::from_secs(15),
            max_uses: None,
            max_age: None,
        }
    }
}

/// The idle connections of the threads that share a shard index.
#[derive(Default)]
#[repr(align(128))]
struct Shard {
    /// Oldest first.
    idle: Mutex<Vec<IdleConnection>>,
    sweeper: BackgroundTask,
    /// The number of shortages of this process at the last sweep.
    shortages: AtomicU64,
}

struct IdleConnection {
    connection: Box<Connection>,
    since: Instant,
}

impl Pool {
    pub(super) fn new(settings: PoolSettings, clock: Arc<dyn Clock>) -> Self {
        let shards = std::iter::repeat_with(Shard::default).take(shard::count()).collect();
        Pool { shards, settings, clock, open: OpenCount::new(settings.max_open) }
    }

    /// Takes the most recently used connection of this core.
    ///
    /// Asks the kernel whether the connection is open and silent, because the runtime's state of
    /// the socket may be outdated. Bytes that arrived before the request belong to no request, and
    /// a request on a closed connection cannot always be sent again. The system call is skipped if
    /// the connection was used a moment ago and has survived a response before. Its node then does
    /// not close unannounced after each response.
    pub(super) fn take(&self) -> Option<Box<Connection>> {
        self.take_from(self.shard())
    }

    pub(super) fn take_from_any_core(&self) -> Option<Box<Connection>> {
        self.shards.iter().find_map(|shard| self.take_from(shard))
    }

    fn take_from(&self, shard: &Shard) -> Option<Box<Connection>> {
        let now = self.clock.now();
        let mut idle = shard.idle.lock();
        while let Some(IdleConnection { connection, since }) = idle.pop() {
            let idle_time = now.saturating_duration_since(since);
            if idle_time > self.settings.idle_timeout {
                // All others are older. They are closed after the lock is released.
                let _expired = std::mem::take(&mut *idle);
                drop(idle);
                return None;
            }
            let trust_runtime = connection.uses > 1 && idle_time < TRUST_RUNTIME_TIMEOUT;
            if connection.is_idle(!trust_runtime) {
                return Some(connection);
            }
        }
        None
    }

    /// Closes the idle connections of this core.
    pub(super) fn clear(&self) {
        // Closed after the lock is released.
        let _idle = std::mem::take(&mut *self.shard().idle.lock());
    }

    /// Keeps a connection whose response was read to its end, unless it has reached a limit.
    pub(super) fn put(self: &Arc<Self>, mut connection: Box<Connection>) {
        let PoolSettings { max_idle, max_uses, max_age, .. } = self.settings;
        let now = self.clock.now();
        let used_up = max_uses.is_some_and(|max| connection.uses >= max.get());
        let too_old = max_age.is_some_and(|age| now.saturating_duration_since(connection.opened) > age);
        // Bytes after the response belong to no request.
        if max_idle == 0 || used_up || too_old || !connection.read.is_empty() {
            return;
        }
        connection.release_buffer();
        let index = self.index();
        let mut idle = self.shards[index].idle.lock();
        let oldest = (idle.len() >= max_idle).then(|| idle.remove(0));
        idle.push(IdleConnection { connection, since: now });
        drop(idle);
        drop(oldest);
        background::ensure_running(
            self,
            move |pool| &pool.shards[index].sweeper,
            |_| SWEEP_INTERVAL,
            move |pool: Arc<Self>| async move { pool.sweep(&pool.shards[index], shortage::count()) },
            move |pool| !pool.shards[index].idle.lock().is_empty(),
        );
    }

    /// Closes the idle connections of a shard that cannot be reused. After a shortage of
    /// descriptors or memory, which idle connections may have caused, it keeps only those that were
    /// in use since the previous sweep.
    fn sweep(&self, shard: &Shard, shortages: u64) {
        let now = self.clock.now();
        let was_short = shard.shortages.swap(shortages, Ordering::Relaxed) != shortages;
        let idle_timeout = self.settings.idle_timeout.min(if was_short { SWEEP_INTERVAL } else { Duration::MAX });
        let is_expired = |idle: &mut IdleConnection| {
            now.saturating_duration_since(idle.since) > idle_timeout || !idle.connection.is_idle(false)
        };
        // Closed after the lock is released.
        let _expired: Vec<_> = shard.idle.lock().extract_if(.., is_expired).collect();
    }

    fn shard(&self) -> &Shard {
        &self.shards[self.index()]
    }

    fn index(&self) -> usize {
        shard::of_thread(self.shards.len())
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixStream;

    use super::*;
    use crate::backend::http1::stream::Stream;
    use crate::clock::ManualClock;

    /// Returns true if the pool hands out a connection that its node has closed without the
    /// runtime's knowledge. The connection has carried `uses` requests and was idle for `idle`.
    fn is_taken(uses: u32, idle: Duration) -> bool {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let clock = ManualClock::new();
            let pool = Arc::new(Pool::new(PoolSettings::default(), Arc::new(clock.clone())));
            let (near, far) = UnixStream::pair().unwrap();
            let mut connection =
                Box::new(Connection::new(Stream::Unix(near), pool.open.acquire().unwrap(), clock.now()));
            connection.uses = uses;
            pool.put(connection);
            clock.advance(idle);
            drop(far);
            pool.take().is_some()
        })
    }

    #[tokio::test]
    async fn a_shortage_closes_connections_that_idle_and_keeps_those_in_use() {
        let clock = ManualClock::new();
        let pool = Arc::new(Pool::new(PoolSettings::default(), Arc::new(clock.clone())));
        let mut far = Vec::new();
        for age in [2, 1] {
            let (near, other_end) = UnixStream::pair().unwrap();
            far.push(other_end);
            pool.put(Box::new(Connection::new(Stream::Unix(near), pool.open.acquire().unwrap(), clock.now())));
            clock.advance(SWEEP_INTERVAL * age / 2);
        }
        let left = [0, 1].map(|shortages| {
            pool.sweep(pool.shard(), shortages);
            pool.open.get()
        });
        assert_eq!(left, [2, 1]);
    }

    #[test]
    fn the_kernel_is_asked_unless_the_connection_was_used_a_moment_ago_and_was_kept_before() {
        assert!(is_taken(2, TRUST_RUNTIME_TIMEOUT / 2));
        assert!(!is_taken(2, TRUST_RUNTIME_TIMEOUT), "it was idle for too long");
        assert!(!is_taken(1, Duration::ZERO), "its node may close after each response");
    }
}
