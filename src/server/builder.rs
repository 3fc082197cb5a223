use std::fmt;
use std::io;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::thread::{self, available_parallelism};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use super::accept::{Admission, Serving, accept};
use super::limits::{ClientShares, Limits, LineBuffers, servable};
use super::listen::Inherited;
use super::listen::{Listen, Listener};
use super::stop::IdleList;
use super::{AcceptLoop, Handler, ListenOptions, Server};
use crate::buffer::BufferBudget;
use crate::clock::at_least;
use crate::observe::{Cut, CutScope};

/// The default of [`ServerBuilder::backlog`]: enough for a burst of new clients, and no more than a
/// core accepts within a second.
pub const DEFAULT_BACKLOG: NonZeroU32 = NonZeroU32::new(1024).unwrap();

const DEFAULT_MAX_CONNECTIONS: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();

/// Configures a [`Server`].
#[must_use]
pub struct ServerBuilder<H> {
    listeners: Vec<(Listen, ListenOptions, H)>,
    pub(super) settings: FixedSettings,
    limits: Limits,
    inherited: Vec<socket2::Socket>,
}

/// The settings that a running server keeps.
#[derive(Debug, Clone)]
pub(super) struct FixedSettings {
    threads: NonZeroUsize,
    max_connections: Option<NonZeroUsize>,
    max_connections_per_client: Option<NonZeroU32>,
    pub(super) backlog: NonZeroU32,
}

impl FixedSettings {
    /// Returns the names of the settings that differ from `running`.
    pub(super) fn differing(&self, running: &Self) -> Vec<&'static str> {
        let differs = [
            ("threads", self.threads != running.threads),
            ("max_connections", self.max_connections != running.max_connections),
            ("max_connections_per_client", self.max_connections_per_client != running.max_connections_per_client),
            ("backlog", self.backlog != running.backlog),
        ];
        differs.into_iter().filter_map(|(name, differs)| differs.then_some(name)).collect()
    }
}

impl<H: Handler> ServerBuilder<H> {
    pub(super) fn new() -> Self {
        ServerBuilder {
            listeners: Vec::new(),
            settings: FixedSettings {
                threads: available_parallelism().unwrap_or(NonZeroUsize::MIN),
                max_connections: Some(DEFAULT_MAX_CONNECTIONS),
                max_connections_per_client: NonZeroU32::new(1024),
                backlog: DEFAULT_BACKLOG,
            },
            limits: Limits::default(),
            inherited: Vec::new(),
        }
    }

    /// Adds an address to listen on. `handler` responds to its requests.
    pub fn listen(self, listen: Listen, handler: H) -> Self {
        self.listen_with(listen, ListenOptions::new(), handler)
    }

    /// Adds an address to listen on, with TLS, the PROXY protocol, or both.
    pub fn listen_with(mut self, listen: Listen, options: ListenOptions, handler: H) -> Self {
        self.listeners.push((listen, options, handler));
        self
    }

    /// Sets how many accept loops there are, each with its own thread. Default: one per core.
    pub fn threads(mut self, threads: NonZeroUsize) -> Self {
        self.settings.threads = threads;
        self
    }

    /// Sets how many connections are served at once; `None` is no limit. Default: 16384.
    ///
    /// If more clients connect, the server closes the connection that has been idle for the
    /// longest. If none is idle, new connections wait, most of them in the kernel's backlog.
    ///
    /// A server never has more than half as many connections as the process may have open files.
    /// The other half is for nodes, stores and logs. See
    /// [`raise_open_files_limit`](super::raise_open_files_limit). A warning in the log says if that
    /// is less than the setting.
    pub fn max_connections(mut self, connections: Option<NonZeroUsize>) -> Self {
        self.settings.max_connections = connections;
        self
    }

    /// Sets how many connections a client may have; `None` is no limit. Default: 1024.
    ///
    /// Further connections are closed as soon as they are accepted, without a response, because
    /// writing one would cost the work that the limit saves (HAProxy:
    /// `tcp-request connection reject`). A client is an IPv4 address or an IPv6 /64 network. Peers
    /// that the handler [trusts](Handler::trusts) have no limit, and neither do peers of unix
    /// sockets. A warning in the log names a client that reaches the limit.
    ///
    /// If the server serves 64 [connections](Self::max_connections) or more, one client has at most
    /// three quarters of them. Beyond half of them, a new connection replaces the client's own
    /// connection that has been idle for the longest. A warning at the start says if that is less
    /// than this limit.
    pub fn max_connections_per_client(mut self, connections: Option<NonZeroU32>) -> Self {
        self.settings.max_connections_per_client = connections;
        self
    }

    /// Sets how many connections the kernel lets wait for each accept loop of an address (nginx:
    /// `backlog`). The kernel may have a lower limit (Linux: `net.core.somaxconn`). Default:
    /// [`DEFAULT_BACKLOG`].
    pub fn backlog(mut self, connections: NonZeroU32) -> Self {
        self.settings.backlog = connections;
        self
    }

    /// Sets how long a client may take until the head of its next request is complete. Default: 60
    /// s.
    ///
    /// The time starts when the connection does, or at the end of the last response. So it ends
    /// both idle and deliberately slow connections. A client that has sent a part of a head gets
    /// status 408; an idle one gets nothing.
    ///
    /// Over HTTP/2, a connection without requests in flight gets GOAWAY after this time. A head
    /// must be complete within this time after its beginning, and so must each frame except DATA.
    /// Otherwise the connection ends with GOAWAY and the code `ENHANCE_YOUR_CALM`, even if other
    /// requests are in flight.
    pub fn head_timeout(mut self, timeout: Duration) -> Self {
        self.limits.head_timeout = timeout;
        self
    }

    /// Sets how long a client may accept no byte of its response (nginx: `send_timeout`). Default:
    /// 60 s. Without this limit, a client that does not read would hold its node's connection
    /// forever.
    pub fn send_timeout(mut self, timeout: Duration) -> Self {
        self.limits.send_timeout = timeout;
        self
    }

    /// Sets the budget of buffered bytes. Default: [`BufferBudget::process`], as for
    /// [proxies](crate::proxy::ProxyBuilder::buffers).
    pub fn buffers(mut self, budget: BufferBudget) -> Self {
        self.limits.buffers = budget;
        self
    }

    /// Sets how many headers a request may have. The server responds to more with status 431.
    /// Default: 100.
    pub fn max_headers(mut self, headers: NonZeroUsize) -> Self {
        self.limits.head.headers = headers.get();
        self
    }

    /// Sets how many bytes the head of a request may have. The server responds with status 414 if
    /// the target alone has more, otherwise with 431. Default: 64 KiB, because Kylin accepts SQL in
    /// the query of a GET.
    pub fn max_head_bytes(mut self, bytes: NonZeroUsize) -> Self {
        self.limits.head.bytes = bytes.get();
        self
    }

    /// Sets the buffers for the lines of a head, as in nginx (`client_header_buffer_size`,
    /// `large_client_header_buffers`): a first one, and `count` further ones of `size` bytes. No
    /// line is split between two buffers. The server responds with status 414 to a request line
    /// that fits no buffer, and with 400 to such a header. By default, only [all bytes of a
    /// head](Self::max_head_bytes) are limited. This method also sets that limit to the total size
    /// of the buffers; a later call of `max_head_bytes` changes it.
    pub fn head_buffers(mut self, first: NonZeroUsize, count: NonZeroUsize, size: NonZeroUsize) -> Self {
        let buffers = LineBuffers { first: first.get(), count: count.get(), size: size.get() };
        (self.limits.head.bytes, self.limits.line_buffers) = (buffers.bytes(), Some(buffers));
        self
    }

    /// Sets how many requests an HTTP/2 client may have in flight on one connection. Default: 128.
    pub fn max_streams(mut self, streams: NonZeroU32) -> Self {
        self.limits.max_streams = streams;
        self
    }

    /// Sets whether an HTTP/1.1 connection serves more than one request. Default: true.
    pub fn keep_alive(mut self, on: bool) -> Self {
        self.limits.keep_alive = on;
        self
    }

    /// Sets whether an HTTP/1.1 client that closes its side of the connection still gets the
    /// responses to the requests that it has sent. `nc -N` expects this, and HAProxy and httpd do
    /// it. Default: false, as in nginx: such a client counts as disconnected, which cancels its
    /// request.
    ///
    /// If it is true, a request whose client has closed its socket is cancelled only when its
    /// response cannot be written.
    pub fn half_close(mut self, on: bool) -> Self {
        self.limits.half_close = on;
        self
    }

    /// Wraps each handler in another, for example in one that responds to some paths itself.
    pub fn map<G: Handler>(self, mut wrap: impl FnMut(H) -> G) -> ServerBuilder<G> {
        let listeners = self.listeners.into_iter().map(|(listen, options, handler)| (listen, options, wrap(handler)));
        ServerBuilder {
            listeners: listeners.collect(),
            settings: self.settings,
            limits: self.limits,
            inherited: self.inherited,
        }
    }

    /// Uses a listening socket that was passed to this process, for example by systemd
    /// (`LISTEN_FDS`). The listener with the socket's address uses the socket instead of binding
    /// the address. Several sockets may have the same address, like those of another process of
    /// this server (`SO_REUSEPORT`).
    ///
    /// Another process may accept from the same socket, so no connection is lost while one process
    /// takes over from another. The [backlog](Self::backlog) is that of the socket.
    /// [`Listen::of_socket`] returns its address. [`Server::replace`] ignores sockets that are
    /// passed to its builder.
    pub fn inherit(mut self, socket: impl Into<std::os::fd::OwnedFd>) -> Self {
        self.inherited.push(socket2::Socket::from(socket.into()));
        self
    }

    /// Binds all listeners and starts the accept loops.
    ///
    /// # Errors
    /// An error if an address cannot be bound, a thread cannot be started, or an
    /// [inherited](Self::inherit) socket has the address of no listener. Nothing is running then.
    /// If a timeout is below 1 ms, the error is an
    /// [`InvalidDuration`](crate::clock::InvalidDuration) in an [`io::Error`] of the kind
    /// `InvalidInput`.
    pub fn start(mut self) -> io::Result<Server> {
        let settings = self.settings.clone();
        let threads = settings.threads.get();
        let mut inherited = Inherited::new(std::mem::take(&mut self.inherited))?;
        let mut bound = Vec::new();
        for (listen, serving) in self.into_serving()? {
            let listener = match inherited.adopt(&listen, threads)? {
                Some(listener) => listener,
                None => Listener::bind(&listen, threads, settings.backlog)?,
            };
            bound.push((listen, listener, serving));
        }
        inherited.finish()?;
        let (stop, stopped) = watch::channel(None);
        let max_connections = servable(settings.max_connections);
        if settings.max_connections != Some(DEFAULT_MAX_CONNECTIONS)
            && settings.max_connections != Some(max_connections)
        {
            tracing::warn!(max_connections, "the limit of open files allows fewer connections than configured");
        }
        let idle = Arc::new(IdleList::default());
        let shares = settings.max_connections_per_client.map(|max| ClientShares::new(max, max_connections, &idle));
        let max_permits = max_connections.get().min(Semaphore::MAX_PERMITS);
        let permits = Arc::new(Semaphore::new(max_permits));
        let mut loops = Vec::with_capacity(threads);
        let serving = watch::Sender::new(());
        for index in 0..threads {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let (permits, shares, idle) = (Arc::clone(&permits), shares.clone(), Arc::clone(&idle));
            let admission = Admission { permits, shares, idle };
            let (stopped, serving) = (stopped.clone(), serving.clone());
            let (done, is_done) = oneshot::channel();
            let (changes, changed) = mpsc::unbounded_channel();
            let thread = thread::Builder::new().name(format!("kylin-lb-{index}")).spawn(move || {
                let cut = runtime.block_on(accept(changed, admission, stopped, serving));
                let mut cuts = CutScope::default();
                cuts.enter(Cut::Closes);
                drop(runtime);
                // Sending fails if the server was dropped.
                _ = done.send(cut);
            })?;
            loops.push(AcceptLoop { done: is_done, changes, thread });
        }
        let (addresses, listeners) = (Vec::new(), Vec::new());
        let permits = (permits, max_permits);
        let mut server = Server { addresses, listeners, next_listener: 0, settings, stop, loops, permits };
        for (listen, listener, serving) in bound {
            server.run_listener(listen, listener, serving);
        }
        Ok(server)
    }

    /// Returns each listener with its handler and settings, or an error if a timeout is not valid.
    pub(super) fn into_serving(self) -> io::Result<Vec<(Listen, Serving<H>)>> {
        let limits = self.limits;
        for (timeout, setting) in [(limits.head_timeout, "head timeout"), (limits.send_timeout, "send timeout")] {
            at_least(Duration::from_millis(1), timeout, setting)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        }
        let serving = |(listen, options, handler)| (listen, Serving { handler, options, limits: limits.clone() });
        Ok(self.listeners.into_iter().map(serving).collect())
    }
}

impl<H> fmt::Debug for ServerBuilder<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let listeners: Vec<&Listen> = self.listeners.iter().map(|(listen, ..)| listen).collect();
        f.debug_struct("ServerBuilder")
            .field("listeners", &listeners)
            .field("threads", &self.settings.threads)
            .field("backlog", &self.settings.backlog)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}
