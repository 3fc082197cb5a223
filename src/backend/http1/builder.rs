use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::time::Duration;

use super::pool::{Pool, PoolSettings};
use super::{Address, HttpBackend, Shared};
#[cfg(doc)]
use crate::backend::SendErrorKind;
use crate::backend::Timeouts;
use crate::clock::{Clock, InvalidDuration, SystemClock};
#[cfg(doc)]
use crate::endpoint::Endpoint;
use crate::http1::head::{DEFAULT_MAX_HEAD_BYTES, HeadLimits};

/// Configures an [`HttpBackend`].
#[derive(Debug)]
#[must_use]
pub struct HttpBackendBuilder {
    address: Address,
    #[cfg(feature = "tls")]
    tls: Option<crate::tls::TlsConnector>,
    timeouts: Timeouts,
    pool: PoolSettings,
    head_limits: HeadLimits,
    clock: Arc<dyn Clock>,
}

impl HttpBackendBuilder {
    /// The default of [`max_head_bytes`](Self::max_head_bytes).
    pub const DEFAULT_MAX_HEAD_BYTES: usize = DEFAULT_MAX_HEAD_BYTES;

    pub(super) fn new(address: Address) -> Self {
        HttpBackendBuilder {
            address,
            #[cfg(feature = "tls")]
            tls: None,
            timeouts: Timeouts::default(),
            pool: PoolSettings::default(),
            head_limits: HeadLimits::default(),
            clock: Arc::new(SystemClock),
        }
    }

    /// Encrypts the connections. The connect timeout includes the handshake, as in nginx.
    ///
    /// # Errors
    /// [`TlsError`](crate::tls::TlsError) if `tls` names no server and the address is a unix
    /// socket, or the host of the address cannot be in a certificate.
    #[cfg(feature = "tls")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tls")))]
    pub fn tls(mut self, tls: &crate::tls::ClientTls) -> Result<Self, crate::tls::TlsError> {
        let host = match &self.address {
            Address::Socket(socket) => Some(socket.ip().to_string()),
            Address::Name(name, _) => Some(name.clone()),
            Address::Unix(_) => None,
        };
        self.tls = Some(tls.connector(host.as_deref())?);
        Ok(self)
    }

    /// Sets all three timeouts.
    pub fn timeouts(mut self, timeouts: Timeouts) -> Self {
        self.timeouts = timeouts;
        self
    }

    /// Sets [`Timeouts::connect`].
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.timeouts.connect = timeout;
        self
    }

    /// Sets [`Timeouts::head`].
    pub fn head_timeout(mut self, timeout: Duration) -> Self {
        self.timeouts.head = timeout;
        self
    }

    /// Sets [`Timeouts::body`].
    pub fn body_timeout(mut self, timeout: Duration) -> Self {
        self.timeouts.body = timeout;
        self
    }

    /// Sets how long a connection may be idle before it is closed (nginx: `keepalive_timeout`).
    /// Default: 15 s, because Kylin's Tomcat closes at 20 s. With zero, no connection is kept.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.pool.idle_timeout = timeout;
        self
    }

    /// Sets how many idle connections are kept per core (nginx: `keepalive`, per worker). With 0,
    /// every request makes a new connection. Default: 1,024.
    ///
    /// The pool never keeps more connections than there were requests in flight at the same time
    /// within the last [`idle_timeout`](Self::idle_timeout). With a low limit, a front end with
    /// many busy clients makes a new connection for most requests. More requests then end at the
    /// same time than connections may be kept.
    pub fn max_idle(mut self, connections: usize) -> Self {
        self.pool.max_idle = connections;
        self
    }

    /// Sets how many requests a connection carries before it is closed (nginx:
    /// `keepalive_requests`). Default: no limit.
    pub fn max_uses(mut self, requests: Option<NonZeroU32>) -> Self {
        self.pool.max_uses = requests;
        self
    }

    /// Sets how old a connection may become (nginx: `keepalive_time`). Default: no limit. With
    /// zero, no connection is kept.
    pub fn max_age(mut self, age: Option<Duration>) -> Self {
        self.pool.max_age = age;
        self
    }

    /// Sets how many connections may be open, including idle ones. Default: no limit.
    ///
    /// Requests beyond the limit fail with [`SendErrorKind::Limit`]. Policies do not know this
    /// limit; with [`Endpoint::max_in_flight`] they avoid a full endpoint.
    pub fn max_connections(mut self, connections: Option<NonZeroUsize>) -> Self {
        self.pool.max_open = connections;
        self
    }

    /// Sets how many headers a response may have. Default: 100.
    pub fn max_headers(mut self, headers: NonZeroUsize) -> Self {
        self.head_limits.headers = headers.get();
        self
    }

    /// Sets how many bytes the head of a response may have. Default: 64 KiB.
    pub fn max_head_bytes(mut self, bytes: NonZeroUsize) -> Self {
        self.head_limits.bytes = bytes.get();
        self
    }

    /// Sets the clock that measures the age of idle connections. Default: the system clock.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Builds the backend. Makes no connection yet.
    ///
    /// # Errors
    /// [`InvalidDuration`] if one of the three timeouts is below 1 ms.
    pub fn build(self) -> Result<HttpBackend, InvalidDuration> {
        self.timeouts.check()?;
        Ok(self.build_unchecked())
    }

    /// Builds the backend with timeouts that are valid, such as the defaults.
    pub(super) fn build_unchecked(self) -> HttpBackend {
        let HttpBackendBuilder { address, timeouts, pool, head_limits, clock, .. } = self;
        let pool = Arc::new(Pool::new(pool, Arc::clone(&clock)));
        #[cfg(feature = "tls")]
        let shared = Shared { address, tls: self.tls, timeouts, head_limits, pool, clock };
        #[cfg(not(feature = "tls"))]
        let shared = Shared { address, timeouts, head_limits, pool, clock };
        HttpBackend { shared: Arc::new(shared) }
    }
}
