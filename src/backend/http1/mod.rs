//! HTTP/1.1 to a node, over TCP or a unix socket.
//!
//! A request owns its connection and drives it (`connection`). When the response is read to its
//! end, the connection returns to the pool. The pool keeps idle connections per core, so that a
//! request finds one that its own core's runtime polls. It hands out the most recently used one
//! first, so that surplus connections grow old and are closed.
//!
//! A Kylin node's Tomcat closes connections that are idle for 20 s. The pool drops them at 15 s,
//! because a request that meets the close cannot always be sent again.

mod address;
mod builder;
mod connect;
mod connection;
mod open_count;
mod pool;
#[cfg(test)]
mod property;
mod request_head;
mod response_body;
mod response_head;
mod stream;

#[cfg(fuzzing)]
pub(crate) use response_head::fuzz as fuzz_response_head;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Request, Response};
use tokio::time::timeout;

pub use address::{Address, InvalidAddress};
pub use builder::HttpBackendBuilder;

use self::connect::connect;
#[cfg(feature = "tls")]
use self::connect::secure;
use self::connection::Connection;
use self::pool::Pool;
use self::stream::Stream;
use super::{Backend, ClosesConnection, NewConnection, SendError, SendErrorKind, Timeouts};
use crate::body::Body;
use crate::clock::Clock;
use crate::endpoint::{Endpoint, InvalidId};
use crate::http1::head::HeadLimits;
use crate::shortage::{self, is_shortage};

/// Sends requests to a node over HTTP/1.1. Clones share the connections.
///
/// Requests must be sent from within a tokio runtime, and a connection lives no longer than the
/// runtime that made it. Trailers of responses are dropped. So is a `Connection` header that is
/// only `close` or `keep-alive`.
#[derive(Clone)]
pub struct HttpBackend {
    shared: Arc<Shared>,
}

struct Shared {
    address: Address,
    #[cfg(feature = "tls")]
    tls: Option<crate::tls::TlsConnector>,
    timeouts: Timeouts,
    head_limits: HeadLimits,
    pool: Arc<Pool>,
    clock: Arc<dyn Clock>,
}

impl HttpBackend {
    /// Creates a backend for the node at `address`, with the defaults of [`HttpBackend::builder`].
    ///
    /// # Errors
    /// [`InvalidAddress`] if `address` has none of the forms that [`builder`](Self::builder) takes.
    pub fn new(address: &str) -> Result<Self, InvalidAddress> {
        Ok(Self::builder(address)?.build_unchecked())
    }

    /// Returns a builder for the node at `address`: `name:port`, `1.2.3.4:port`, `[v6]:port` or
    /// `unix:/path`. A name is resolved for every new connection.
    ///
    /// # Errors
    /// [`InvalidAddress`] if `address` has none of these forms.
    pub fn builder(address: &str) -> Result<HttpBackendBuilder, InvalidAddress> {
        Ok(Self::to(address.parse()?))
    }

    /// Returns a builder for the node at a parsed address.
    pub fn to(address: Address) -> HttpBackendBuilder {
        HttpBackendBuilder::new(address)
    }

    /// Returns the node's address.
    pub fn address(&self) -> &Address {
        &self.shared.address
    }

    /// Returns how many connections to the node are open, including idle ones.
    pub fn connections(&self) -> usize {
        self.shared.pool.open.get()
    }

    /// Makes a connection for `request`. At the limit of open connections, or if the process is
    /// short of descriptors, takes a connection that is idle on another core.
    async fn open(&self, request: &Request<Body>) -> Result<Box<Connection>, SendError> {
        let Shared { pool, clock, .. } = &*self.shared;
        let needs_new = needs_new(request);
        let is_full = || SendError::new(SendErrorKind::Limit, "every allowed connection is in use");
        let permit = match pool.open.acquire() {
            Some(permit) => permit,
            None if needs_new => {
                drop(pool.take_from_any_core());
                pool.open.acquire().ok_or_else(is_full)?
            }
            None => return pool.take_from_any_core().ok_or_else(is_full),
        };
        let timer = request.body().connect_timer();
        let began = timer.map(|timer| (timer, clock.now()));
        let stream = self.connect(self.timeouts_of(request).connect).await;
        let now = clock.now();
        if let Some((timer, began)) = began {
            timer.set(now.saturating_duration_since(began));
        }
        match stream {
            Ok(stream) => Ok(Box::new(Connection::new(stream, permit, now))),
            Err(error) if error.kind() == SendErrorKind::Shortage => pool.take_from_any_core().ok_or(error),
            Err(error) => Err(error),
        }
    }

    /// Takes an idle connection, unless the request needs a new one.
    fn take_idle(&self, request: &Request<Body>) -> Option<Box<Connection>> {
        if needs_new(request) { None } else { self.shared.pool.take() }
    }

    fn timeouts_of(&self, request: &Request<Body>) -> Timeouts {
        request.extensions().get::<Timeouts>().copied().unwrap_or(self.shared.timeouts)
    }

    /// Sends the rest of the request that was started on `connection`, and receives the head of its
    /// response.
    async fn receive(&self, mut connection: Box<Connection>) -> Result<Response<Body>, SendError> {
        match connection.response(self.shared.head_limits).await {
            Ok(mut head) => {
                if !head.keep_alive {
                    let uses = connection.uses;
                    head.response.extensions_mut().insert(ClosesConnection { uses });
                }
                let timeout = connection.body_timeout();
                let body = response_body::new(connection, head.body, head.keep_alive, &self.shared.pool);
                Ok(head.response.map(|()| body.stall_after(timeout)))
            }
            Err(error) => {
                if error.kind() == SendErrorKind::Stale {
                    // The other idle connections of this core are at least as old.
                    self.shared.pool.clear();
                }
                Err(error)
            }
        }
    }

    async fn connect(&self, limit: Duration) -> Result<Stream, SendError> {
        let connect = async {
            let stream = connect(&self.shared.address).await?;
            #[cfg(feature = "tls")]
            let stream = secure(stream, self.shared.tls.as_ref()).await?;
            Ok(stream)
        };
        match timeout(limit, connect).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err::<_, std::io::Error>(error)) if is_shortage(&error) => {
                shortage::report("connecting to a node", &error);
                Err(SendError::new(SendErrorKind::Shortage, error))
            }
            Ok(Err(error)) => Err(SendError::new(SendErrorKind::Connect, error)),
            Err(elapsed) => Err(SendError::new(SendErrorKind::ConnectTimeout, elapsed)),
        }
    }
}

/// Returns whether the request needs a new connection.
fn needs_new(request: &Request<Body>) -> bool {
    request.extensions().get::<NewConnection>().is_some()
}

impl Backend for HttpBackend {
    /// Starts the request on an idle connection before the future is polled, because a future that
    /// holds no request is cheaper to move.
    fn send(&self, mut request: Request<Body>) -> impl Future<Output = Result<Response<Body>, SendError>> + Send {
        let idle = match self.take_idle(&request) {
            Some(mut connection) => {
                let timeouts = self.timeouts_of(&request);
                connection.start(&mut request, timeouts);
                Ok(connection)
            }
            None => Err(Box::new(request)),
        };
        async move {
            let connection = match idle {
                Ok(connection) => connection,
                // Boxed, because it is rare and its state is large.
                Err(mut request) => match Box::pin(self.open(&request)).await {
                    Ok(mut connection) => {
                        let timeouts = self.timeouts_of(&request);
                        connection.start(&mut request, timeouts);
                        connection
                    }
                    Err(error) => return Err(error.with_request(*request)),
                },
            };
            self.receive(connection).await
        }
    }

    /// Encodes the request without copying it first.
    fn send_copy(&self, request: &Request<Body>) -> impl Future<Output = Result<Response<Body>, SendError>> + Send {
        let idle = self.take_idle(request).map(|mut connection| {
            connection.start_copy(request, self.timeouts_of(request));
            connection
        });
        async move {
            let connection = match idle {
                Some(connection) => connection,
                None => {
                    let mut connection = Box::pin(self.open(request)).await?;
                    connection.start_copy(request, self.timeouts_of(request));
                    connection
                }
            };
            self.receive(connection).await
        }
    }

    /// Makes a connection and closes it.
    async fn check_connect(&self) -> Result<(), SendError> {
        self.connect(self.shared.timeouts.connect).await.map(drop)
    }

    fn head_timeout(&self) -> Duration {
        self.shared.timeouts.head
    }

    /// Returns the address and port; `localhost` for a unix socket, as nginx does.
    fn host(&self) -> Option<HeaderValue> {
        match &self.shared.address {
            Address::Unix(_) => Some(HeaderValue::from_static("localhost")),
            address => HeaderValue::try_from(address.to_string()).ok(),
        }
    }
}

impl fmt::Debug for HttpBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shared { address, timeouts, .. } = &*self.shared;
        f.debug_struct("HttpBackend").field("address", address).field("timeouts", timeouts).finish_non_exhaustive()
    }
}

impl Endpoint<HttpBackend> {
    /// Creates an endpoint `id` at `address` (see [`HttpBackend::builder`]). Hash policies use that
    /// address to place keys on it.
    ///
    /// # Errors
    /// [`InvalidEndpoint`] if the id or the address is not valid.
    pub fn http(id: impl AsRef<str>, address: &str) -> Result<Self, InvalidEndpoint> {
        Ok(Endpoint::new(id, HttpBackend::new(address)?)?.placement(address))
    }
}

/// The error for an [`HttpBackend`] endpoint that cannot be created.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidEndpoint {
    /// The id is not valid.
    #[error(transparent)]
    Id(#[from] InvalidId),
    /// The address is not valid.
    #[error(transparent)]
    Address(#[from] InvalidAddress),
    /// A timeout is not valid.
    #[error(transparent)]
    Timeout(#[from] crate::clock::InvalidDuration),
}
