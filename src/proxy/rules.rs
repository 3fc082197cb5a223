use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::cancel::Stopping;
use super::recent_writes::RecentWrites;
use crate::clock::Clock;
use crate::kylin::Guard;
use crate::kylin::KylinVersion;

/// What a proxy does that knows Kylin: see [`ProxyBuilder::rules`](crate::proxy::ProxyBuilder::rules). Every part can be set apart.
///
/// | part | default | reason |
/// |---|---|---|
/// | [`guard`](Self::guard) | closes the calls between nodes to everybody | most of them ask for no login |
/// | [`roles`](Self::roles) | on | a node in mode `job` refuses queries |
/// | [`retry_rejected`](Self::retry_rejected) | on | a refused request was not carried out |
/// | [`retry_unauthorized`](Self::retry_unauthorized) | on | a login that another node knows is not lost |
/// | [`fan_out`](Self::fan_out) | on | running queries are known to their own node only |
/// | [`read_your_writes`](Self::read_your_writes) | 8 s | other nodes learn of a write seconds later |
/// | [`cancel_on_disconnect`](Self::cancel_on_disconnect) | off | it changes requests or needs an administrator's login |
///
/// What a request is for and what its answer means take the place of the methods and statuses that [`RetryPolicy`](crate::proxy::RetryPolicy)
/// has; its kinds of failure, and its limits of tries and of time, hold as they do without.
#[derive(Debug, Clone)]
#[must_use]
pub struct KylinRules {
    pub(super) version: Option<KylinVersion>,
    pub(super) guard: Option<Guard>,
    pub(super) roles: bool,
    pub(super) retry_rejected: bool,
    pub(super) retry_unauthorized: bool,
    pub(super) fan_out: bool,
    pub(super) read_your_writes: Option<Duration>,
    pub(super) cancel_on_disconnect: Option<CancelOnDisconnect>,
}

impl Default for KylinRules {
    fn default() -> Self {
        KylinRules {
            version: None,
            guard: Some(Guard::new()),
            roles: true,
            retry_rejected: true,
            retry_unauthorized: true,
            fan_out: true,
            read_your_writes: Some(Duration::from_secs(8)),
            cancel_on_disconnect: None,
        }
    }
}

impl KylinRules {
    /// Which generation of Kylin the nodes are. Default: not known, and where the two differ the stricter rule applies.
    pub fn version(mut self, version: KylinVersion) -> Self {
        self.version = Some(version);
        self
    }

    /// What clients may not reach; none lets everything through. Default: [`Guard::new`].
    pub fn guard(mut self, guard: Option<Guard>) -> Self {
        self.guard = guard;
        self
    }

    /// Whether queries go only to nodes that answer queries, and builds to nodes that run jobs as long as there is one (see
    /// [`Endpoint::roles`](crate::Endpoint::roles)). Default: yes.
    pub fn roles(mut self, on: bool) -> Self {
        self.roles = on;
        self
    }

    /// Whether a request goes to another node after an answer that says it was refused and not carried out: `not allowed in
    /// 'job' mode`, `Too many concurrent query requests.`, and Kylin 5's codes for the same. Errors that are compressed by gzip are
    /// understood as well; in other encodings, which Tomcat does not know, they are passed on. Default: yes.
    pub fn retry_rejected(mut self, on: bool) -> Self {
        self.retry_rejected = on;
        self
    }

    /// Whether a request with a session's cookie and without `Authorization`, to which a node says 401, is tried on other
    /// nodes: the session may live there. Counts against the budget. Default: yes.
    pub fn retry_unauthorized(mut self, on: bool) -> Self {
        self.retry_unauthorized = on;
        self
    }

    /// Whether `PUT /query/{id}/stop` and `GET /query/runningQueries` of Kylin 2.x-4.x go to every node that answers queries,
    /// and the answers become one. A node that knows neither the credentials nor the session of the request does nothing: with a
    /// cookie alone that is every node but one, unless the sessions are shared. Default: yes.
    pub fn fan_out(mut self, on: bool) -> Self {
        self.fan_out = on;
        self
    }

    /// For how long a session, or a user without one, stays with the node that took its last write. Default: 8 s, a little over
    /// the 5 s after which Kylin 5's nodes catch up. None: not at all.
    pub fn read_your_writes(mut self, window: Option<Duration>) -> Self {
        self.read_your_writes = window;
        self
    }

    /// Whether a query is stopped on its node when its client has gone or its time is over. Kylin by itself goes on to the end of
    /// it. At most 64 are being stopped at once, each for 5 s at most; what is beyond that goes on. Default: no.
    pub fn cancel_on_disconnect(mut self, stop: Option<CancelOnDisconnect>) -> Self {
        self.cancel_on_disconnect = stop;
        self
    }
}

/// How a query is stopped of which nobody waits for the answer.
#[derive(Clone)]
#[non_exhaustive]
pub enum CancelOnDisconnect {
    /// Kylin 5: by `DELETE /kylin/api/query/{stopId}` with the credentials of the query. A query without a `stopId` gets one, so
    /// its body is changed.
    ByStopId,
    /// Kylin 2.x-4.x: looked up in `GET /kylin/api/query/runningQueries` of its node by user and SQL, and stopped by `PUT
    /// /kylin/api/query/{id}/stop`. Both ask for an administrator; that the list names user and SQL is read in
    /// QueryContext.java and was not seen. When a node refuses the login, it is not tried again as long as the proxy lives.
    AsAdmin {
        /// The value of `Authorization`: `Basic` and the credentials in base64.
        authorization: http::HeaderValue,
    },
}

impl fmt::Debug for CancelOnDisconnect {
    /// Leaves the credentials out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CancelOnDisconnect::ByStopId => "ByStopId",
            CancelOnDisconnect::AsAdmin { .. } => "AsAdmin",
        })
    }
}

/// The rules of a proxy with what they remember.
#[derive(Debug)]
pub(super) struct RuleState {
    pub(super) settings: KylinRules,
    pub(super) writes: Option<RecentWrites>,
    pub(super) stopping: Arc<Stopping>,
}

impl RuleState {
    pub(super) fn new(settings: KylinRules, clock: &Arc<dyn Clock>) -> Self {
        let writes = settings.read_your_writes.map(|window| RecentWrites::new(window, Arc::clone(clock)));
        RuleState { writes, stopping: Arc::default(), settings }
    }
}
