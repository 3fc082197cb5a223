mod kylin;

use std::fmt;
use std::marker::PhantomData;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use http::StatusCode;

use super::recent_queries::RecentQueries;
use super::replay::{DEFAULT_STREAMS, StreamLimit};
use super::retry::RetryAccount;
use super::rules::{KylinRules, RuleState};
use super::{Proxy, ProxyCore, RetryPolicy, TrustedProxies};
use crate::admission::QueueRules;
#[cfg(feature = "cache")]
use crate::admission::cache::ResultCache;
use crate::admission::queue::Queues;
use crate::buffer::BufferBudget;
use crate::clock::{Clock, InvalidDuration, SystemClock, at_least};
use crate::cluster::Cluster;
use crate::observe::{Observer, Observers};
use crate::request::{ClientKey, ClientLimit};
use crate::session::{Affinity, InvalidSecret, Sessions};
use crate::setting::InvalidSetting;

/// The settings of a proxy, apart from its cluster.
#[derive(Debug, Clone)]
pub(in crate::proxy) struct ProxySettings {
    pub(in crate::proxy) trusted: TrustedProxies,
    pub(in crate::proxy) forwarded_headers: bool,
    pub(in crate::proxy) secure: bool,
    pub(in crate::proxy) retry: RetryPolicy,
    pub(in crate::proxy) replay_limit: usize,
    pub(in crate::proxy) max_body: Option<u64>,
    pub(in crate::proxy) body_timeout: Duration,
    pub(in crate::proxy) body_min_rate: Option<NonZeroU32>,
    pub(in crate::proxy) buffers: BufferBudget,
    pub(in crate::proxy) streams: Arc<StreamLimit>,
    pub(in crate::proxy) max_requests_per_client: Option<NonZeroU32>,
    pub(in crate::proxy) response_buffer: Option<NonZeroUsize>,
    pub(in crate::proxy) unavailable: StatusCode,
    pub(in crate::proxy) clock: Arc<dyn Clock>,
    pub(in crate::proxy) affinity: Option<Affinity>,
    pub(in crate::proxy) observers: Arc<Observers>,
    /// `None` means on if there is an observer.
    pub(in crate::proxy) served_by: Option<bool>,
    pub(in crate::proxy) hides_nodes: Option<bool>,
    pub(in crate::proxy) single_flight: bool,
}

/// Marks a [`ProxyBuilder`] of a Kylin-aware proxy: see [`Proxy::builder`].
#[derive(Debug)]
pub enum KylinAware {}

/// Marks a [`ProxyBuilder`] of a proxy for any HTTP service: see [`Proxy::plain`].
#[derive(Debug)]
pub enum Plain {}

/// Collects the settings of a [`Proxy`]. `K` is [`KylinAware`], which adds settings, or [`Plain`].
///
/// | setting | default |
/// |---|---|
/// | [`affinity`](Self::affinity) | learned sessions in memory; none for a plain proxy |
/// | [`rules`](Self::rules) | [`KylinRules::default`] |
/// | [`queue`](Self::queue) | [`QueueRules::default`]; none for a plain proxy |
/// | [`retry`](Self::retry) | [`RetryPolicy::default`] |
/// | [`replay_limit`](Self::replay_limit) | 1 MiB |
/// | [`max_body`](Self::max_body) | no limit |
/// | [`body_timeout`](Self::body_timeout) | 60 s |
/// | [`body_min_rate`](Self::body_min_rate) | 1 KiB/s |
/// | [`buffers`](Self::buffers) | the budget of the process |
/// | [`streamed_bodies`](Self::streamed_bodies) | 16 to a node |
/// | [`max_requests_per_client`](Self::max_requests_per_client) | 256 |
/// | [`response_buffer`](Self::response_buffer) | 1 MiB |
/// | [`trusted_proxies`](Self::trusted_proxies) | none |
/// | [`forwarded_headers`](Self::forwarded_headers) | on |
/// | [`secure`](Self::secure) | off |
/// | [`unavailable_status`](Self::unavailable_status) | 503 |
/// | [`observer`](Self::observer) | none |
/// | [`served_by`](Self::served_by) | off, on with an observer |
/// | [`hide_nodes`](Self::hide_nodes) | on; off for a plain proxy |
/// | [`single_flight`](Self::single_flight) | on; none for a plain proxy |
/// | `cache` (feature `cache`) | none |
#[must_use]
pub struct ProxyBuilder<B, K = KylinAware> {
    cluster: Cluster<B>,
    settings: ProxySettings,
    /// `None` in a plain proxy.
    rules: Option<KylinRules>,
    queue: Option<QueueRules>,
    #[cfg(feature = "cache")]
    cache: Option<crate::admission::CacheRules>,
    affinity_is_set: bool,
    kind: PhantomData<fn() -> K>,
}

/// The error for a proxy that cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyBuildError {
    /// The default affinity needs a secret, and the operating system returned no random bytes.
    #[error("no random bytes for the secret of the sessions")]
    Randomness(#[source] InvalidSecret),
    /// The status for requests that no endpoint can serve is not an error status.
    #[error("{0} is not an error status")]
    UnavailableStatus(StatusCode),
    /// The timeout for request bodies is too short.
    #[error(transparent)]
    Timeout(#[from] InvalidDuration),
    /// A setting of the retries or of the rules is out of its range.
    #[error(transparent)]
    Setting(#[from] InvalidSetting),
    /// A result cache has no login, without which it cannot follow builds.
    #[cfg(feature = "cache")]
    #[error("the result cache needs a login to follow builds")]
    CacheWithoutLogin,
}

impl<B> ProxyBuilder<B, Plain> {
    pub(in crate::proxy) fn plain(cluster: Cluster<B>) -> Self {
        Self::new(cluster, None).affinity(None)
    }
}

impl<B, K> ProxyBuilder<B, K> {
    fn new(cluster: Cluster<B>, rules: Option<KylinRules>) -> Self {
        let settings = ProxySettings {
            trusted: TrustedProxies::none(),
            forwarded_headers: true,
            secure: false,
            retry: RetryPolicy::default(),
            replay_limit: 1 << 20,
            max_body: None,
            body_timeout: Duration::from_secs(60),
            body_min_rate: NonZeroU32::new(1024),
            buffers: BufferBudget::process(),
            streams: StreamLimit::new(Some(DEFAULT_STREAMS)),
            max_requests_per_client: NonZeroU32::new(256),
            response_buffer: NonZeroUsize::new(1 << 20),
            unavailable: StatusCode::SERVICE_UNAVAILABLE,
            clock: Arc::new(SystemClock),
            affinity: None,
            observers: Arc::default(),
            served_by: None,
            hides_nodes: None,
            single_flight: true,
        };
        let queue = rules.is_some().then(QueueRules::new);
        ProxyBuilder {
            cluster,
            settings,
            rules,
            queue,
            #[cfg(feature = "cache")]
            cache: None,
            affinity_is_set: false,
            kind: PhantomData,
        }
    }

    /// Sets which proxies in front may name the client. Default: none; the client is the peer.
    pub fn trusted_proxies(mut self, trusted: TrustedProxies) -> Self {
        self.settings.trusted = trusted;
        self
    }

    /// Sets whether requests to nodes get `X-Forwarded-For`, `-Proto` and `-Host`. Default: on.
    ///
    /// If a [trusted proxy](Self::trusted_proxies) sent the request, the proxy appends to
    /// `X-Forwarded-For` and keeps the other two. Otherwise it replaces all three.
    pub fn forwarded_headers(mut self, on: bool) -> Self {
        self.settings.forwarded_headers = on;
        self
    }

    /// Sets whether clients use TLS, so that `X-Forwarded-Proto` is `https`. Default: off.
    pub fn secure(mut self, secure: bool) -> Self {
        self.settings.secure = secure;
        self
    }

    /// Sets when a request is retried on another endpoint. Default: [`RetryPolicy::default`].
    pub fn retry(mut self, retry: RetryPolicy) -> Self {
        self.settings.retry = retry;
        self
    }

    /// Sets how many bytes of a request body are read first, so that it can be resent. Default: 1
    /// MiB.
    ///
    /// A longer body streams. It can be sent again only if no part of it has reached a node. The
    /// bytes count against the [budget](Self::buffers).
    pub fn replay_limit(mut self, bytes: usize) -> Self {
        self.settings.replay_limit = bytes;
        self
    }

    /// Sets the maximum length of a request body in bytes; `None` is no limit. Default: `None`.
    ///
    /// The proxy responds to a longer body with 413 (nginx: `client_max_body_size`). Bodies stream,
    /// and Kylin has limits of its own, so no limit is a safe default.
    pub fn max_body(mut self, bytes: Option<u64>) -> Self {
        self.settings.max_body = bytes;
        self
    }

    /// Sets how long a client may pause within a request body (nginx: `client_body_timeout`), at
    /// least 1 ms. Default: 60 s.
    ///
    /// After a longer pause the proxy responds with 408.
    pub fn body_timeout(mut self, timeout: Duration) -> Self {
        self.settings.body_timeout = timeout;
        self
    }

    /// Sets the minimum average rate of a request body, in bytes a second; `None` is no limit.
    /// Default: 1024.
    ///
    /// All waits for a body together may take the [`body_timeout`](Self::body_timeout) plus the
    /// time that the received bytes take at this rate (Apache httpd: `MinRate` of
    /// `RequestReadTimeout`). Time in which the proxy does not read does not count. After that the
    /// proxy responds with 408. Without this limit, a client that sends a byte from time to time
    /// could hold the memory of its body indefinitely.
    pub fn body_min_rate(mut self, bytes_per_second: Option<NonZeroU32>) -> Self {
        self.settings.body_min_rate = bytes_per_second;
        self
    }

    /// Sets the budget of buffered bytes. Default: [`BufferBudget::process`].
    pub fn buffers(mut self, budget: BufferBudget) -> Self {
        self.settings.buffers = budget;
        self
    }

    /// Sets how many request bodies may stream to a node at once; `None` is no limit. Default: 16.
    ///
    /// A body streams if it is longer than the [`replay_limit`](Self::replay_limit), or if the
    /// [budget](Self::buffers) has no bytes left for it. It occupies a thread of the node until it
    /// has arrived. One client may have half of these bodies. A request beyond the limit goes to
    /// another node; if there is none, the response is a 503.
    pub fn streamed_bodies(mut self, per_node: Option<NonZeroUsize>) -> Self {
        self.settings.streams = StreamLimit::new(per_node);
        self
    }

    /// Sets how many requests (over HTTP/2, streams) a client may have in flight; `None` is no
    /// limit. Default: 256.
    ///
    /// The proxy responds to further requests with 429 and `Retry-After`. A request is in flight
    /// from its head until the end of its response. A client is an IPv4 address or an IPv6 /64
    /// network. If many users share an address, for example behind another proxy, name that proxy
    /// with [`trusted_proxies`](Self::trusted_proxies). Its requests then count for the clients
    /// behind it, and the proxy's own requests have no limit. Requests from a unix socket have no
    /// limit either. A warning in the log names a client that reaches the limit.
    pub fn max_requests_per_client(mut self, requests: Option<NonZeroU32>) -> Self {
        self.settings.max_requests_per_client = requests;
        self
    }

    /// Sets how many bytes of a response the crate's [server](crate::server) takes from its node
    /// ahead of a client that reads slowly (nginx: `proxy_buffers`). With 0, the node waits for the
    /// client (nginx: `proxy_buffering off`). Default: 1 MiB.
    ///
    /// A slow client then occupies no connection and no thread of the node. The request stops being
    /// in flight when the node has sent the end of the response, even if the client reads it later.
    /// So policies see the real load of the node. The bytes count against the [budget of the
    /// server](crate::server::ServerBuilder::buffers). If that has none left, the node waits for
    /// the client. The client still gets each byte as soon as it accepts it, and a response that is
    /// read as fast as it arrives is not copied. As with nginx, a node turns buffering off for one
    /// response with the header `X-Accel-Buffering: no`.
    pub fn response_buffer(mut self, bytes: usize) -> Self {
        self.settings.response_buffer = NonZeroUsize::new(bytes);
        self
    }

    /// Sets the status of the response when no endpoint is eligible. Default: 503.
    ///
    /// Kylin's ODBC driver shows the message of a 500 only. A query that had to [wait](Self::queue)
    /// and is refused always gets a 503 with `Retry-After`.
    pub fn unavailable_status(mut self, status: StatusCode) -> Self {
        self.settings.unavailable = status;
        self
    }

    /// Sets the clock of retries and of Kylin's rules. Default: the system clock.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.settings.clock = Arc::new(clock);
        self
    }

    /// Sets how sessions are bound to endpoints; `None` leaves every request to the policy.
    ///
    /// Default: [`Affinity::learn`] in memory; `None` for a [plain](Proxy::plain) proxy.
    pub fn affinity(mut self, affinity: impl Into<Option<Affinity>>) -> Self {
        self.settings.affinity = affinity.into();
        self.affinity_is_set = true;
        self
    }

    /// Adds an observer, which gets the events of every request. Observers get them in the order in
    /// which they were added. Default: none.
    pub fn observer(mut self, observer: impl Observer) -> Self {
        Arc::make_mut(&mut self.settings.observers).add(observer);
        self
    }

    /// Sets whether a response carries a [`ServedBy`](crate::observe::ServedBy) in its extensions:
    /// the endpoint that served it, and why that endpoint was picked. This costs three allocations
    /// per request. Default: on with an observer, otherwise off.
    pub fn served_by(mut self, on: bool) -> Self {
        self.settings.served_by = Some(on);
        self
    }

    /// Sets whether a redirect to the address of its node becomes relative, because clients may be
    /// unable to reach the node. Turn this off if the application rewrites `Location` itself and
    /// looks for that address. A redirect is always rewritten if the client named no host. Default:
    /// on; off in a plain proxy.
    pub fn hide_nodes(mut self, on: bool) -> Self {
        self.settings.hides_nodes = Some(on);
        self
    }

    /// Builds the proxy.
    ///
    /// # Errors
    /// [`ProxyBuildError`] if a setting is out of range, or no secret can be made for the affinity.
    pub fn build(self) -> Result<Proxy<B>, ProxyBuildError>
    where
        B: 'static,
    {
        let ProxyBuilder { cluster, mut settings, rules, queue, affinity_is_set, .. } = self;
        if !(settings.unavailable.is_client_error() || settings.unavailable.is_server_error()) {
            return Err(ProxyBuildError::UnavailableStatus(settings.unavailable));
        }
        at_least(Duration::from_millis(1), settings.body_timeout, "body_timeout")?;
        settings.retry.validate()?;
        rules.as_ref().map_or(Ok(()), KylinRules::validate)?;
        if !affinity_is_set {
            let sessions = Sessions::in_memory().map_err(ProxyBuildError::Randomness)?;
            settings.affinity = Some(Affinity::learn(sessions));
        }
        // All proxies of the cluster share the flights, because a write may pass another proxy.
        let flights = rules.is_some().then(|| ProxyCore::flights(&cluster, &settings.clock));
        #[cfg(feature = "cache")]
        let cache = match self.cache.zip(flights.clone()) {
            Some((rules, flights)) => {
                let login = rules.authorization.clone().ok_or(ProxyBuildError::CacheWithoutLogin)?;
                let (cluster, buffers) = (cluster.clone(), settings.buffers.clone());
                let cache = ResultCache::new(&rules, login, cluster, flights, buffers, &settings.clock);
                Some(cache.map_err(ProxyBuildError::Randomness)?)
            }
            None => None,
        };
        let rules = rules.map(|rules| RuleState::new(rules, &settings.buffers, &settings.clock));
        let budget = settings.retry.budget.map(|budget| RetryAccount::new(budget, Arc::clone(&settings.clock)));
        let searches =
            settings.retry.budget.map(|budget| RetryAccount::for_searches(budget, Arc::clone(&settings.clock)));
        let client_limit = settings.max_requests_per_client.map(|max| ClientLimit::new(max, warn_of_requests));
        let untrusted_proxy = AtomicBool::new(false);
        let queues = queue.map(|rules| Queues::of(&cluster, rules, &settings.clock));
        let recent_queries = rules.is_some().then(RecentQueries::new);
        let inner = ProxyCore {
            cluster,
            settings,
            client_limit,
            budget,
            searches,
            queues,
            rules,
            flights,
            #[cfg(feature = "cache")]
            cache,
            recent_queries,
            untrusted_proxy,
        };
        Ok(Proxy { inner: Arc::new(inner) })
    }
}

fn warn_of_requests(client: ClientKey, max: NonZeroU32) {
    tracing::warn!(
        %client, max,
        "a client has its maximum of requests in flight, and further ones get 429. If it is a proxy in front of many clients, name it in \
         ProxyBuilder::trusted_proxies (kylin_front: --trust), or raise ProxyBuilder::max_requests_per_client (--client-requests)"
    );
}

impl<B, K> fmt::Debug for ProxyBuilder<B, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyBuilder")
            .field("settings", &self.settings)
            .field("rules", &self.rules)
            .finish_non_exhaustive()
    }
}
