use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use super::rules::{KylinRules, Rules};
use super::{Inner, Proxy, RetryPolicy, TrustedProxies};
use crate::clock::{Clock, SystemClock};
use crate::cluster::Cluster;
use crate::session::Affinity;

/// What a proxy goes by, apart from its cluster.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) trusted: TrustedProxies,
    pub(super) forwarded_headers: bool,
    pub(super) secure: bool,
    pub(super) retry: RetryPolicy,
    pub(super) replay_limit: usize,
    pub(super) max_body: Option<u64>,
    pub(super) body_timeout: Duration,
    pub(super) unavailable: StatusCode,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) affinity: Option<Affinity>,
}

/// Collects what a [`Proxy`] goes by. Every default is safe.
#[must_use]
pub struct ProxyBuilder<B> {
    cluster: Cluster<B>,
    settings: Settings,
    kylin: Option<KylinRules>,
}

impl<B> ProxyBuilder<B> {
    pub(super) fn new(cluster: Cluster<B>) -> Self {
        let settings = Settings {
            trusted: TrustedProxies::none(),
            forwarded_headers: true,
            secure: false,
            retry: RetryPolicy::default(),
            replay_limit: 1 << 20,
            max_body: None,
            body_timeout: Duration::from_secs(60),
            unavailable: StatusCode::SERVICE_UNAVAILABLE,
            clock: Arc::new(SystemClock),
            affinity: None,
        };
        ProxyBuilder { cluster, settings, kylin: None }
    }

    /// Whom to believe about a client's address. Default: nobody; the peer of the connection is the client.
    pub fn trusted_proxies(mut self, trusted: TrustedProxies) -> Self {
        self.settings.trusted = trusted;
        self
    }

    /// Whether nodes are told of the client in `X-Forwarded-For`, `-Proto` and `-Host`. What a trusted proxy sent in
    /// these fields is continued; what anybody else sent is replaced. Default: yes.
    pub fn forwarded_headers(mut self, on: bool) -> Self {
        self.settings.forwarded_headers = on;
        self
    }

    /// Whether clients reach the host over TLS, which is what `X-Forwarded-Proto` tells. Default: no.
    pub fn secure(mut self, secure: bool) -> Self {
        self.settings.secure = secure;
        self
    }

    /// When to try another endpoint. Default: [`RetryPolicy::default`].
    pub fn retry(mut self, retry: RetryPolicy) -> Self {
        self.settings.retry = retry;
        self
    }

    /// How many bytes of a request's body are read before it is sent, so that it can be sent again. A longer body streams,
    /// and can be sent again only while no byte of it has gone to a node. Default 1 MiB.
    pub fn replay_limit(mut self, bytes: usize) -> Self {
        self.settings.replay_limit = bytes;
        self
    }

    /// The longest body of a request; longer ones are answered with 413 (nginx: `client_max_body_size`). Default: no
    /// limit, because bodies stream and Kylin has limits of its own.
    pub fn max_body(mut self, bytes: Option<u64>) -> Self {
        self.settings.max_body = bytes;
        self
    }

    /// For how long a client may keep silent within a body (nginx: `client_body_timeout`). Default 60 s.
    pub fn body_timeout(mut self, timeout: Duration) -> Self {
        self.settings.body_timeout = timeout;
        self
    }

    /// The status when no endpoint can serve. Default 503; Kylin's ODBC driver shows a message only for 500.
    pub fn unavailable_status(mut self, status: StatusCode) -> Self {
        self.settings.unavailable = status;
        self
    }

    /// Sets where time comes from, for the time limit of retries.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.settings.clock = Arc::new(clock);
        self
    }

    /// How sessions find their endpoint, before the policy is asked. Default: not at all; the policy chooses for each request.
    pub fn affinity(mut self, affinity: Affinity) -> Self {
        self.settings.affinity = Some(affinity);
        self
    }

    /// Has the proxy know Kylin: what a request is for decides whether it is repeated, an answer is judged by what it means,
    /// and more: see [`KylinRules`], of which these are the defaults.
    pub fn kylin(self) -> Self {
        self.kylin_rules(KylinRules::default())
    }

    /// The same by these rules.
    pub fn kylin_rules(mut self, rules: KylinRules) -> Self {
        self.kylin = Some(rules);
        self
    }

    /// Builds the proxy.
    pub fn build(self) -> Proxy<B> {
        let kylin = self.kylin.map(|rules| Rules::new(rules, &self.settings.clock));
        Proxy { inner: Arc::new(Inner { cluster: self.cluster, settings: self.settings, kylin }) }
    }
}

impl<B> fmt::Debug for ProxyBuilder<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyBuilder").field("settings", &self.settings).finish_non_exhaustive()
    }
}
