use std::fmt;
use std::io;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::thread::{self, available_parallelism};
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot, watch};

use super::accept::{Admission, accept};
use super::limits::{Limits, servable};
use super::listen::{Listen, Listener};
use super::stop::IdleList;
use super::{AcceptLoop, Handler, ListenOptions, Server};
use crate::buffer::BufferBudget;
use crate::request::{ClientKey, ClientLimit};

/// The default of [`ServerBuilder::backlog`]: enough for a burst of new clients, and no more than a
/// core accepts within a second.
pub const DEFAULT_BACKLOG: NonZeroU32 = NonZeroU32::new(1024).unwrap();

const DEFAULT_MAX_CONNECTIONS: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();

/// Configures a [`Server`].
#[must_use]
pub struct ServerBuilder<H> {
    listeners: Vec<(Listen, Arc<ListenOptions>, Arc<H>)>,
    threads: NonZeroUsize,
    max_connections: Option<NonZeroUsize>,
    max_connections_per_client: Option<NonZeroU32>,
    backlog: NonZeroU32,
    limits: Limits,
}

impl<H: Handler> ServerBuilder<H> {
    pub(super) fn new() -> Self {
        ServerBuilder {
            listeners: Vec::new(),
            threads: available_parallelism().unwrap_or(NonZeroUsize::MIN),
            max_connections: Some(DEFAULT_MAX_CONNECTIONS),
            max_connections_per_client: NonZeroU32::new(1024),
            backlog: DEFAULT_BACKLOG,
            limits: Limits::default(),
        }
    }

    /// Adds an address to listen on. `handler` responds to its requests.
    pub fn listen(self, listen: Listen, handler: H) -> Self {
        self.listen_with(listen, ListenOptions::new(), handler)
    }

    /// Adds an address to listen on, whose connections begin as `options` say: with TLS, with the PROXY protocol, or with both.
    pub fn listen_with(mut self, listen: Listen, options: ListenOptions, handler: H) -> Self {
        self.listeners.push((listen, Arc::new(options), Arc::new(handler)));
        self
    }

    /// Sets how many accept loops there are, each with its own thread. Default: one per core.
    pub fn threads(mut self, threads: NonZeroUsize) -> Self {
        self.threads = threads;
        self
    }

    /// Sets how many connections are served at once. Where there are more, the server closes the one
    /// that has been idle for the longest. If none is idle, more wait unread, most of them in the
    /// kernel's backlog. `None` is no limit. Default 16384.
    ///
    /// A server never has more than half as many connections as the process may open files: the other
    /// half is for nodes, stores and logs. See
    /// [`raise_open_files_limit`](super::raise_open_files_limit). A warning in the log tells if that is
    /// less than what was set.
    pub fn max_connections(mut self, connections: Option<NonZeroUsize>) -> Self {
        self.max_connections = connections;
        self
    }

    /// Sets how many connections a client may have; `None` is no limit. Default 1024.
    ///
    /// More are closed as soon as they are accepted, without a response: to write one would take the
    /// work that the limit saves (HAProxy: `tcp-request connection reject`). A client is an IPv4
    /// address, or a /64 network of IPv6. Peers that the handler [trusts](Handler::trusts) have no
    /// limit, nor have those of unix sockets. A warning in the log names a client that reaches the
    /// limit.
    pub fn max_connections_per_client(mut self, connections: Option<NonZeroU32>) -> Self {
        self.max_connections_per_client = connections;
        self
    }

    /// Sets how many connections the kernel lets wait for each accept loop of an address (nginx:
    /// `backlog`). The kernel may have a lower limit (Linux: `net.core.somaxconn`). Default
    /// [`DEFAULT_BACKLOG`].
    pub fn backlog(mut self, connections: NonZeroU32) -> Self {
        self.backlog = connections;
        self
    }

    /// Sets how long a client may take until the head of its next request is complete. The time
    /// counts from the connection's start or the end of the last response, so that it ends both
    /// idle and deliberately slow connections. A client that has sent a part of a head gets status
    /// 408; an idle one gets nothing. Default 60 s.
    pub fn head_timeout(mut self, timeout: Duration) -> Self {
        self.limits.head_timeout = timeout;
        self
    }

    /// Sets how long a client may accept nothing of a response that waits for it (nginx:
    /// `send_timeout`). Without this limit, a client that does not read would hold its node's
    /// connection forever. Default 60 s.
    pub fn send_timeout(mut self, timeout: Duration) -> Self {
        self.limits.send_timeout = timeout;
        self
    }

    /// Sets the budget of bytes that wait in memory. Default: [`BufferBudget::process`], as for
    /// [proxies](crate::proxy::ProxyBuilder::buffers).
    pub fn buffers(mut self, budget: BufferBudget) -> Self {
        self.limits.buffers = budget;
        self
    }

    /// Sets how many headers a request may have. The server responds to more with status 431.
    /// Default 100.
    pub fn max_headers(mut self, headers: usize) -> Self {
        self.limits.head.headers = headers;
        self
    }

    /// Sets how many bytes the head of a request may have. The server responds with status 414 if the
    /// target alone has more, else with 431. Default 64 KiB: Kylin takes SQL in the query of a GET.
    pub fn max_head_bytes(mut self, bytes: usize) -> Self {
        self.limits.head.bytes = bytes;
        self
    }

    /// Sets how many requests an HTTP/2 client may have in flight on one connection. Default 128.
    pub fn max_streams(mut self, streams: NonZeroU32) -> Self {
        self.limits.max_streams = streams;
        self
    }

    /// Sets whether an HTTP/1.1 connection serves more than one request. Default true.
    pub fn keep_alive(mut self, on: bool) -> Self {
        self.limits.keep_alive = on;
        self
    }

    /// Binds all listeners and starts the accept loops.
    ///
    /// # Errors
    /// An error if an address cannot be bound or a thread cannot be started; then nothing runs.
    pub fn start(self) -> io::Result<Server> {
        let threads = self.threads.get();
        let mut bound = Vec::new();
        for (listen, options, handler) in self.listeners {
            bound.push((Listener::bind(&listen, threads, self.backlog)?, options, handler));
        }
        let addresses = bound.iter().filter_map(|(listener, ..)| listener.address).collect();
        let (stop, stopped) = watch::channel(None);
        let max_connections = servable(self.max_connections);
        if self.max_connections != Some(DEFAULT_MAX_CONNECTIONS) && self.max_connections != Some(max_connections) {
            tracing::warn!(max_connections, "the limit of open files allows fewer connections than configured");
        }
        let idle = Arc::new(IdleList::default());
        let client_limit = self.max_connections_per_client.map(|max| ClientLimit::new(max, warn_of_connections));
        let max_permits = max_connections.get().min(Semaphore::MAX_PERMITS);
        let permits = Arc::new(Semaphore::new(max_permits));
        let mut loops = Vec::with_capacity(threads);
        for index in 0..threads {
            let sockets = bound.iter_mut().filter_map(|(listener, options, handler)| {
                let socket = listener.sockets.pop()?;
                Some((socket, Arc::clone(options), Arc::clone(handler)))
            });
            let sockets = sockets.collect();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let (permits, client_limit, idle) = (Arc::clone(&permits), client_limit.clone(), Arc::clone(&idle));
            let admission = Admission { permits, client_limit, idle };
            let (limits, stopped) = (self.limits.clone(), stopped.clone());
            let (done, is_done) = oneshot::channel();
            let thread = thread::Builder::new().name(format!("kylin-lb-{index}")).spawn(move || {
                let cut = runtime.block_on(accept(sockets, limits, admission, stopped));
                drop(runtime);
                // The receiver is gone if the server was dropped.
                _ = done.send(cut);
            })?;
            loops.push(AcceptLoop { done: is_done, thread });
        }
        Ok(Server { addresses, stop, loops, permits: (permits, max_permits) })
    }
}

fn warn_of_connections(client: ClientKey, max: NonZeroU32) {
    tracing::warn!(
        %client, max,
        "a client has its maximum of connections, and further ones are closed. If it is a proxy in front of many clients, name it in \
         ProxyBuilder::trusted_proxies (kylin_front: --trust), or raise ServerBuilder::max_connections_per_client \
         (--client-connections)"
    );
}

impl<H> fmt::Debug for ServerBuilder<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let listeners: Vec<&Listen> = self.listeners.iter().map(|(listen, ..)| listen).collect();
        f.debug_struct("ServerBuilder")
            .field("listeners", &listeners)
            .field("threads", &self.threads)
            .field("backlog", &self.backlog)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}
