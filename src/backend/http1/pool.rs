//! Idle connections, a stack of them per core.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::time::sleep;

use super::connection::Connection;
use crate::clock::Clock;
use crate::shard;

/// How often idle connections are looked through for those that their node has closed or that have idled too long. A request
/// looks for itself; this only gives sockets back.
const SWEEP: Duration = Duration::from_secs(1);

/// Within this time after an answer, what the runtime has heard of a connection is taken for what there is.
const MOMENT: Duration = Duration::from_millis(1);

pub(super) struct Pool {
    shards: Box<[Shard]>,
    reuse: Reuse,
    clock: Arc<dyn Clock>,
    open: Arc<AtomicUsize>,
    max_open: usize,
}

/// When a connection is used again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reuse {
    /// How many idle connections a shard keeps.
    pub(super) max_idle: usize,
    pub(super) idle_timeout: Duration,
    /// 0 is no limit.
    pub(super) max_uses: u32,
    pub(super) max_age: Option<Duration>,
}

/// The idle connections of the threads that share an index.
#[derive(Default)]
#[repr(align(128))]
struct Shard(Mutex<Stack>);

#[derive(Default)]
struct Stack {
    /// Oldest first.
    idle: Vec<Idle>,
    /// A task looks through them now and then.
    swept: bool,
}

struct Idle {
    connection: Box<Connection>,
    since: Instant,
}

/// The right to have one connection open.
pub(super) struct Slot(Arc<AtomicUsize>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pool {
    pub(super) fn new(reuse: Reuse, max_open: usize, clock: Arc<dyn Clock>) -> Self {
        Pool {
            shards: std::iter::repeat_with(Shard::default).take(shard::count()).collect(),
            reuse,
            clock,
            open: Arc::default(),
            max_open,
        }
    }

    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// None when the limit is reached.
    pub(super) fn open_slot(&self) -> Option<Slot> {
        if self.open.fetch_add(1, Ordering::Relaxed) < self.max_open || self.max_open == 0 {
            return Some(Slot(Arc::clone(&self.open)));
        }
        self.open.fetch_sub(1, Ordering::Relaxed);
        None
    }

    /// The most recently used connection of this core, if there is one.
    ///
    /// The kernel is asked whether it is open still and silent. What the runtime has heard of is not enough: an answer that
    /// came before its request is somebody else's, or nobody's, and a request to a closed connection cannot always be sent
    /// again. It is enough where the connection was at work a moment ago and has outlived an answer before, so that its node
    /// is none that closes behind each without saying so: the question is a system call, for every request.
    pub(super) fn take(&self) -> Option<Box<Connection>> {
        self.take_from(self.shard())
    }

    /// A connection, whatever the core.
    pub(super) fn take_anywhere(&self) -> Option<Box<Connection>> {
        self.shards.iter().find_map(|shard| self.take_from(shard))
    }

    fn take_from(&self, shard: &Shard) -> Option<Box<Connection>> {
        let now = self.clock.now();
        let mut stack = shard.0.lock();
        while let Some(Idle { connection, since }) = stack.idle.pop() {
            if now.saturating_duration_since(since) > self.reuse.idle_timeout {
                // All below are older still. Closed after the lock is released.
                let _old = std::mem::take(&mut stack.idle);
                drop(stack);
                return None;
            }
            let proven = connection.uses > 1 && now.saturating_duration_since(since) < MOMENT;
            if connection.is_idle(!proven) {
                return Some(connection);
            }
        }
        None
    }

    /// Closes what is idle on this core.
    pub(super) fn clear(&self) {
        // Closed after the lock is released.
        let _idle = std::mem::take(&mut self.shard().0.lock().idle);
    }

    /// Keeps a connection whose answer has been read to its end, unless it has served for long enough.
    pub(super) fn put(self: &Arc<Self>, mut connection: Box<Connection>) {
        let Reuse { max_idle, max_uses, max_age, .. } = self.reuse;
        let now = self.clock.now();
        let used_up = max_uses > 0 && connection.uses >= max_uses;
        let too_old = max_age.is_some_and(|age| now.saturating_duration_since(connection.born) > age);
        // More than the answer was sent: nobody knows what it belongs to.
        if max_idle == 0 || used_up || too_old || !connection.read.is_empty() {
            return;
        }
        connection.trim();
        let index = self.index();
        let mut stack = self.shards[index].0.lock();
        let oldest = (stack.idle.len() >= max_idle).then(|| stack.idle.remove(0));
        stack.idle.push(Idle { connection, since: now });
        let sweep = !std::mem::replace(&mut stack.swept, true);
        drop(stack);
        drop(oldest);
        if sweep {
            Sweeper::start(self, index);
        }
    }

    /// Closes idle connections of a shard that are of no more use. False when none is left, and none is swept for then.
    fn sweep(&self, index: usize) -> bool {
        let now = self.clock.now();
        let mut stack = self.shards[index].0.lock();
        let old = |idle: &Idle| now.saturating_duration_since(idle.since) > self.reuse.idle_timeout;
        let gone: Vec<Idle> = stack.idle.extract_if(.., |idle| old(idle) || !idle.connection.is_idle(false)).collect();
        stack.swept = !stack.idle.is_empty();
        let goes_on = stack.swept;
        // Closed after the lock is released.
        drop(stack);
        drop(gone);
        goes_on
    }

    fn shard(&self) -> &Shard {
        &self.shards[self.index()]
    }

    fn index(&self) -> usize {
        shard::of_thread(self.shards.len())
    }
}

/// Looks through a shard's idle connections until there are none, or the pool or the runtime is gone.
struct Sweeper {
    pool: Weak<Pool>,
    index: usize,
}

impl Sweeper {
    fn start(pool: &Arc<Pool>, index: usize) {
        // Dropped wherever it comes to its end, which is when another one may begin.
        let mut sweeper = Sweeper { pool: Arc::downgrade(pool), index };
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move {
                loop {
                    sleep(SWEEP).await;
                    let Some(pool) = sweeper.pool.upgrade() else { return };
                    if !pool.sweep(sweeper.index) {
                        // The next one may have begun already.
                        return drop(std::mem::take(&mut sweeper.pool));
                    }
                }
            });
        }
    }
}

impl Drop for Sweeper {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.upgrade() {
            pool.shards[self.index].0.lock().swept = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixStream;

    use super::*;
    use crate::backend::http1::stream::Stream;
    use crate::clock::ManualClock;

    /// Is a connection taken that has carried `uses` requests, has idled for `idle`, and whose node has closed it since, which
    /// the runtime has not heard?
    fn is_taken(uses: u32, idle: Duration) -> bool {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let clock = ManualClock::new();
            let reuse = Reuse { max_idle: 8, idle_timeout: Duration::from_secs(15), max_uses: 0, max_age: None };
            let pool = Arc::new(Pool::new(reuse, 0, Arc::new(clock.clone())));
            let (near, far) = UnixStream::pair().unwrap();
            let mut connection = Box::new(Connection::new(Stream::Unix(near), pool.open_slot().unwrap(), clock.now()));
            connection.uses = uses;
            pool.put(connection);
            clock.advance(idle);
            drop(far);
            pool.take().is_some()
        })
    }

    #[test]
    fn the_kernel_is_asked_but_of_a_connection_that_was_at_work_a_moment_ago_and_has_been_kept_before() {
        assert!(is_taken(2, MOMENT / 2));
        assert!(!is_taken(2, MOMENT), "it has idled");
        assert!(!is_taken(1, Duration::ZERO), "its node may be one that closes behind each answer");
    }
}
