use std::fmt;
use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread::{self, available_parallelism};
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};

use super::accept::accept;
use super::limits::Limits;
use super::listen::{Listen, Listener};
use super::stop::Stop;
use super::{Handler, Loop, Server};

/// The default of [`ServerBuilder::backlog`]: enough for a burst of new clients, and no more than a core accepts within a second.
pub const DEFAULT_BACKLOG: u32 = 1024;

/// Collects what a [`Server`] is made of.
#[must_use]
pub struct ServerBuilder<H> {
    listeners: Vec<(Listen, Arc<H>)>,
    threads: usize,
    max_connections: usize,
    backlog: u32,
    limits: Limits,
}

impl<H: Handler> ServerBuilder<H> {
    pub(super) fn new() -> Self {
        let threads = available_parallelism().map_or(1, NonZeroUsize::get);
        ServerBuilder {
            listeners: Vec::new(),
            threads,
            max_connections: 16_384,
            backlog: DEFAULT_BACKLOG,
            limits: Limits::default(),
        }
    }

    /// Adds an address to listen on, whose requests `handler` answers.
    pub fn listen(mut self, listen: Listen, handler: H) -> Self {
        self.listeners.push((listen, Arc::new(handler)));
        self
    }

    /// How many accept loops there are, each with a thread of its own. Default: one per core.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads.max(1);
        self
    }

    /// How many connections may be served at once; more wait unread, most of them in the kernel's backlog. Default 16384.
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.max_connections = connections.clamp(1, Semaphore::MAX_PERMITS);
        self
    }

    /// How many connections the kernel lets wait for each accept loop of an address (nginx: `backlog`); it may have a lower
    /// limit of its own (Linux: `net.core.somaxconn`). Default 1024.
    pub fn backlog(mut self, connections: u32) -> Self {
        self.backlog = connections.max(1);
        self
    }

    /// For how long a client may take until the head of its next request is complete, counted from its connecting or from the
    /// end of the answer before: what ends both idle and deliberately slow connections. Default 60 s.
    pub fn head_timeout(mut self, timeout: Duration) -> Self {
        self.limits.head_timeout = timeout;
        self
    }

    /// For how long a client may take nothing of an answer that is waiting for it (nginx: `send_timeout`). A client that
    /// does not read would otherwise hold its node's connection for ever. Default 60 s.
    pub fn send_timeout(mut self, timeout: Duration) -> Self {
        self.limits.send_timeout = timeout;
        self
    }

    /// The most header fields of a request; more are answered with 431. Default 100.
    pub fn max_headers(mut self, fields: usize) -> Self {
        self.limits.max_headers = fields;
        self
    }

    /// The most bytes of a request's head, at least 8 KiB; more are answered with 431. Default 64 KiB: Kylin takes SQL in
    /// the query of a GET.
    pub fn max_head_bytes(mut self, bytes: usize) -> Self {
        self.limits.max_head_bytes = bytes.max(8192);
        self
    }

    /// The most requests that an HTTP/2 client may have in flight on one connection. Default 128.
    pub fn max_streams(mut self, streams: u32) -> Self {
        self.limits.max_streams = streams;
        self
    }

    /// Whether an HTTP/1.1 connection serves more than one request. Default: yes.
    pub fn keep_alive(mut self, on: bool) -> Self {
        self.limits.keep_alive = on;
        self
    }

    /// Binds all listeners and starts the accept loops.
    ///
    /// # Errors
    /// When an address cannot be bound or a thread not be started; nothing runs then.
    pub fn start(self) -> io::Result<Server> {
        let mut bound = Vec::new();
        for (listen, handler) in self.listeners {
            bound.push((Listener::bind(&listen, self.threads, self.backlog)?, handler));
        }
        let addresses = bound.iter().filter_map(|(listener, _)| listener.address()).collect();
        let (stop, stopped) = Stop::channel();
        let slots = Arc::new(Semaphore::new(self.max_connections));
        let mut loops = Vec::with_capacity(self.threads);
        for index in 0..self.threads {
            let mut sockets = Vec::new();
            for (listener, handler) in &mut bound {
                sockets.push((listener.share()?, Arc::clone(handler)));
            }
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let (limits, slots, stopped) = (self.limits, Arc::clone(&slots), stopped.clone());
            let (done, is_done) = oneshot::channel();
            let thread = thread::Builder::new().name(format!("kylin-lb-{index}")).spawn(move || {
                let cut = runtime.block_on(accept(sockets, limits, slots, stopped));
                drop(runtime);
                // Nobody may be waiting: the server was dropped.
                _ = done.send(cut);
            })?;
            loops.push(Loop { done: is_done, thread });
        }
        Ok(Server { addresses, stop, loops })
    }
}

impl<H> fmt::Debug for ServerBuilder<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let listeners: Vec<&Listen> = self.listeners.iter().map(|(listen, _)| listen).collect();
        f.debug_struct("ServerBuilder")
            .field("listeners", &listeners)
            .field("threads", &self.threads)
            .field("backlog", &self.backlog)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}
