//! Idle connections, a stack of them per core.

use std::cell::Cell;
use std::future::poll_fn;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::SendRequest;
use parking_lot::Mutex;
use tokio::time::{Sleep, sleep};

use crate::body::{Activity, Body, OnEnd};
use crate::clock::{Clock, timer_in};

pub(super) struct Pool {
    shards: Box<[Shard]>,
    reuse: Reuse,
    open: AtomicUsize,
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

/// The idle connections of the threads that share an index, oldest first.
#[derive(Default)]
#[repr(align(128))]
struct Shard(Mutex<Vec<Idle>>);

struct Idle {
    connection: Arc<Connection>,
    since: Instant,
}

/// A connection to the node.
struct Connection {
    sender: SendRequest<Body>,
    /// Weak, so that a pool that nobody sends with closes its connections.
    pool: Weak<Pool>,
    clock: Arc<dyn Clock>,
    uses: u32,
    born: Instant,
    timer: Pin<Box<Sleep>>,
}

/// A connection that a request has to itself. It is an `Arc` of which there is no other, so that it can be handed to the
/// body of the answer, and from there back to the pool, without being allocated anew.
pub(super) struct Owned(Arc<Connection>);

impl Owned {
    pub(super) fn new(sender: SendRequest<Body>, pool: &Arc<Pool>, clock: &Arc<dyn Clock>) -> Self {
        let (pool, clock) = (Arc::downgrade(pool), Arc::clone(clock));
        let timer = Box::pin(sleep(Duration::ZERO));
        Owned(Arc::new(Connection { sender, pool, uses: 0, born: clock.now(), clock, timer }))
    }

    /// Sends a request. Dropping the future closes the connection.
    pub(super) fn send(
        &mut self,
        request: Request<Body>,
    ) -> impl Future<Output = Result<Response<Incoming>, TrySendError<Request<Body>>>> + use<> {
        let connection = self.connection();
        connection.uses = connection.uses.saturating_add(1);
        connection.sender.try_send_request(request)
    }

    /// Waits for the head of an answer; none when it took more than `limit` since the last progress of `upload`.
    pub(super) async fn wait<F: Future>(
        &mut self,
        mut head: Pin<&mut F>,
        limit: Duration,
        upload: Option<Arc<Activity>>,
    ) -> Option<F::Output> {
        // The timer stays with the connection: to set it to a later time costs far less than to make one per request.
        let mut timer = self.connection().timer.as_mut();
        timer.as_mut().reset(timer_in(limit));
        let progress = || upload.as_ref().map_or(0, |upload| upload.count());
        let mut seen = progress();
        poll_fn(|cx| {
            if let Poll::Ready(head) = head.as_mut().poll(cx) {
                return Poll::Ready(Some(head));
            }
            while timer.as_mut().poll(cx).is_ready() {
                // A client that keeps its own upload waiting is not the node's fault; the upload has a limit of its own.
                let waiting = upload.as_ref().is_some_and(|upload| upload.is_waiting());
                if seen == std::mem::replace(&mut seen, progress()) && !waiting {
                    return Poll::Ready(None);
                }
                timer.as_mut().reset(timer_in(limit));
            }
            Poll::Pending
        })
        .await
    }

    /// The connection as something to be told of the end of a body.
    pub(super) fn share(self) -> Arc<dyn OnEnd> {
        self.0
    }

    fn connection(&mut self) -> &mut Connection {
        Arc::get_mut(&mut self.0).expect("made from an Arc of which there was no other, and never cloned")
    }
}

impl OnEnd for Connection {
    /// The answer has been read to its end: the connection can carry the next request. After anything else it is dropped,
    /// which closes it.
    fn on_end(self: Arc<Self>, whole: bool) {
        if let Some(pool) = self.pool.upgrade().filter(|_| whole && !self.sender.is_closed()) {
            let now = self.clock.now();
            pool.put(self, now);
        }
    }
}

/// The right to have one connection open.
pub(super) struct Slot(Arc<Pool>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pool {
    pub(super) fn new(reuse: Reuse, max_open: usize) -> Self {
        let cores = available_parallelism().map_or(1, NonZeroUsize::get).next_power_of_two();
        Pool {
            shards: std::iter::repeat_with(Shard::default).take(cores).collect(),
            reuse,
            open: AtomicUsize::new(0),
            max_open,
        }
    }

    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// None when the limit is reached.
    pub(super) fn open_slot(self: &Arc<Self>) -> Option<Slot> {
        if self.open.fetch_add(1, Ordering::Relaxed) < self.max_open || self.max_open == 0 {
            return Some(Slot(Arc::clone(self)));
        }
        self.open.fetch_sub(1, Ordering::Relaxed);
        None
    }

    /// The most recently used connection of this core that is ready, if there is one.
    pub(super) fn take(&self, now: Instant) -> Option<Owned> {
        self.take_from(self.shard(), now)
    }

    /// A connection that is ready, whatever the core.
    pub(super) fn take_anywhere(&self, now: Instant) -> Option<Owned> {
        self.shards.iter().find_map(|shard| self.take_from(shard, now))
    }

    fn take_from(&self, shard: &Shard, now: Instant) -> Option<Owned> {
        let mut stack = shard.0.lock();
        let mut place = stack.len();
        while place > 0 {
            place -= 1;
            if now.saturating_duration_since(stack[place].since) > self.reuse.idle_timeout {
                // All below are older still.
                drop(stack.drain(..=place));
                return None;
            }
            let sender = &stack[place].connection.sender;
            if sender.is_ready() {
                return Some(Owned(stack.remove(place).connection));
            }
            // Not ready and not closed: it still sends the rest of a request that was answered early.
            if sender.is_closed() {
                stack.remove(place);
            }
        }
        None
    }

    /// Closes what is idle on this core.
    pub(super) fn clear(&self) {
        // Dropped after the lock is released.
        let _idle = std::mem::take(&mut *self.shard().0.lock());
    }

    fn put(&self, connection: Arc<Connection>, now: Instant) {
        let Reuse { max_idle, max_uses, max_age, .. } = self.reuse;
        let used_up = max_uses > 0 && connection.uses >= max_uses;
        let too_old = max_age.is_some_and(|age| now.saturating_duration_since(connection.born) > age);
        if max_idle == 0 || used_up || too_old {
            return;
        }
        let mut stack = self.shard().0.lock();
        if stack.len() >= max_idle {
            stack.remove(0);
        }
        stack.push(Idle { connection, since: now });
    }

    fn shard(&self) -> &Shard {
        &self.shards[thread_index() & (self.shards.len() - 1)]
    }
}

/// A small number that stays the same for the life of a thread.
fn thread_index() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static INDEX: Cell<usize> = Cell::new(NEXT.fetch_add(1, Ordering::Relaxed));
    }
    INDEX.try_with(Cell::get).unwrap_or(0)
}
