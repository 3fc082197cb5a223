//! The rules of Kylin that a proxy applies: their settings, and their state.

mod cancel;
mod fan_out;
mod frequent;
mod groups;
mod merge;
mod recent_writes;
mod reload;
mod running;
mod state;
mod unread;

use std::time::Duration;

pub use self::cancel::CancelOnDisconnect;
pub(super) use self::cancel::{QueryWatch, is_query_id};
pub(super) use self::fan_out::{FanOut, NODE_TIMEOUT, fan_out, role_of};
pub(super) use self::groups::within_group;
pub(super) use self::recent_writes::Writer;
pub use self::reload::ReloadAccess;
pub(super) use self::reload::{ReloadCall, may_count, names_administrator};
pub(super) use self::state::{CLOSED_PATH, Classified, RuleState};
use crate::kylin::{Guard, KylinVersion, ResourceGroups};
use crate::setting::InvalidSetting;

/// The rules of Kylin that a proxy applies: see
/// [`ProxyBuilder::rules`](crate::proxy::ProxyBuilder::rules). Each rule can be set separately.
///
/// | rule | default | reason |
/// |---|---|---|
/// | [`guard`](Self::guard) | responds with 403 to the calls that only nodes make to each other | most of them need no login |
/// | [`reload`](Self::reload) | open to administrators | two buttons of Kylin's web interface need two of those calls |
/// | [`roles`](Self::roles) | on | a node in mode `job` rejects queries |
/// | [`retry_rejected`](Self::retry_rejected) | on | a rejected request was not executed |
/// | [`retry_unauthorized`](Self::retry_unauthorized) | on | another node may know the session |
/// | [`fan_out`](Self::fan_out) | on | a running query is known to its own node only |
/// | [`read_your_writes`](Self::read_your_writes) | 8 s | other nodes learn of a write seconds later |
/// | [`cancel_on_disconnect`](Self::cancel_on_disconnect) | off | it changes requests or needs an administrator's login |
/// | [`resource_groups`](Self::resource_groups) | none | only nodes of its group should serve a project of Kylin 5 |
/// | [`other_paths`](Self::other_paths) | on | everything that a Kylin node serves is below `/kylin` |
#[derive(Debug, Clone)]
#[must_use]
pub struct KylinRules {
    version: Option<KylinVersion>,
    guard: Option<Guard>,
    roles: bool,
    retry_rejected: bool,
    retry_unauthorized: bool,
    fan_out: bool,
    read_your_writes: Option<Duration>,
    cancel_on_disconnect: Option<CancelOnDisconnect>,
    other_paths: bool,
    reload: ReloadAccess,
    resource_groups: Option<ResourceGroups>,
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
            other_paths: true,
            reload: ReloadAccess::default(),
            resource_groups: None,
        }
    }
}

impl KylinRules {
    /// Sets the generation of Kylin that the nodes run. Default: unknown; the stricter rule then
    /// applies where the generations differ.
    pub fn version(mut self, version: KylinVersion) -> Self {
        self.version = Some(version);
        self
    }

    /// Sets which paths are closed to clients; `None` closes none. Default: [`Guard::new`].
    pub fn guard(mut self, guard: impl Into<Option<Guard>>) -> Self {
        self.guard = guard.into();
        self
    }

    /// Sets which clients may make the two calls behind "Reload Metadata" and "Reload Config" of
    /// Kylin's web interface. Default: [`ReloadAccess::Administrators`].
    ///
    /// The [guard](Self::guard) closes these calls otherwise:
    /// `PUT /kylin/api/cache/announce/{entity}/{key}/{event}` and
    /// `POST /kylin/api/cache/announce/config`, written exactly so.
    ///
    /// Kylin serves both calls without a login. So the proxy asks a node for
    /// `GET /kylin/api/user/authentication` with the client's own credentials or session. The
    /// client must have the authority `ROLE_ADMIN`, as Kylin 2.x to 4.x write it. Kylin 5 writes it
    /// differently, so its administrators are refused too, unless the calls are open to
    /// [`Everyone`](ReloadAccess::Everyone). If the client is a browser, its `Origin` or `Referer`
    /// must be the front end's own. Other clients get 403. Clients that the guard trusts are not
    /// checked, and without a guard no client is.
    ///
    /// A configuration is reloaded at all nodes except those in
    /// [maintenance](crate::endpoint::AdminState::Maintenance). If any of them does not respond,
    /// the client gets a 502 that says how many did not.
    pub fn reload(mut self, access: ReloadAccess) -> Self {
        self.reload = access;
        self
    }

    /// Sets whether queries go only to nodes that serve queries, and builds to nodes that run jobs
    /// while there is one (see [`Endpoint::roles`](crate::Endpoint::roles)). Default: on.
    pub fn roles(mut self, on: bool) -> Self {
        self.roles = on;
        self
    }

    /// Sets whether a request is retried after a node has rejected it without executing it.
    /// Default: on.
    ///
    /// Such responses are `not allowed in 'job' mode`, `Too many concurrent query requests.`, and
    /// Kylin 5's codes for them. A 404 for a path that all versions serve is one too, if Kylin did
    /// not write it and does not run at the node. A stopping Tomcat responds in this way. The proxy
    /// checks that with a request to the node. The request is then sent to each other node as after
    /// a refused connection. If Kylin runs at none of them, the client gets a 503. The proxy also
    /// reads errors that are compressed with gzip, Tomcat's only coding. Errors in other codings
    /// are returned to the client.
    pub fn retry_rejected(mut self, on: bool) -> Self {
        self.retry_rejected = on;
        self
    }

    /// Sets whether a request with a session cookie and without `Authorization` is retried after a
    /// 401, because the session may be on another node. A request that asks who is logged in is
    /// retried too, if the response names no user. Such retries have a
    /// [budget](crate::proxy::RetryBudget) of their own. Default: on.
    pub fn retry_unauthorized(mut self, on: bool) -> Self {
        self.retry_unauthorized = on;
        self
    }

    /// Sets whether `PUT /query/{id}/stop` and `GET /query/runningQueries` of Kylin 2.x-4.x go to
    /// every node that serves queries, with the responses merged into one. A
    /// [logout](crate::docs::logins#what-a-logout-does) goes to all nodes if no node is known to
    /// have the session, as after a restart of the front end. Default: on.
    ///
    /// No node is left out because it is ejected, drains or is full. Only a node in maintenance is
    /// left out. A node that does not know the query or the session responds with success too. So
    /// if a node that may know it did not confirm the stop or the logout, the client gets a 502.
    ///
    /// A list may have 4 MiB. If one is longer, or there is no memory for it, the client gets a 502
    /// or a 503, not an incomplete result.
    ///
    /// A node acts only if the request has Basic credentials or a session that the node knows. Only
    /// one node knows a session cookie, unless logins are relayed or sessions replicated. So
    /// clients should send credentials with these calls. A stop with only a cookie gets a
    /// [502](crate::docs::logins#which-logins-a-stop-needs), because the other nodes ask for a
    /// login.
    pub fn fan_out(mut self, on: bool) -> Self {
        self.fan_out = on;
        self
    }

    /// Sets how long a session, or a user without one, stays with the node that took its last
    /// write. The time must be over 0; `None` turns this off. Default: 8 s, a little more than the
    /// 5 s after which the nodes of Kylin 5 catch up.
    pub fn read_your_writes(mut self, window: Option<Duration>) -> Self {
        self.read_your_writes = window;
        self
    }

    /// Sets whether the rules also apply to requests whose path is not below `/kylin`. Default: on.
    /// If it is off, such requests are proxied as by a [plain proxy](crate::Proxy::plain), and
    /// retried by method and status. This suits nodes that serve more than Kylin. The path is
    /// interpreted as by Tomcat.
    pub fn other_paths(mut self, on: bool) -> Self {
        self.other_paths = on;
        self
    }

    /// Sets the resource groups of Kylin 5. Queries and builds of a project that has a group go
    /// only to the nodes of that group, by the policy and the affinity. If no node of the group is
    /// eligible, the client gets a 503. A node is in a group by its id or its address
    /// ([`Endpoint::placement`](crate::Endpoint::placement)). Default: `None`; the proxy then reads
    /// no project from a request.
    ///
    /// A session that is bound to a node outside the group moves into it, which costs one login,
    /// unless logins are relayed or sessions replicated. A project without a group goes to any
    /// node, which responds with KE-010021005. The project of a query is in its body. Other
    /// requests have it in their JSON body, or in the parameter `project` or `projectName`.
    /// Requests of other kinds go to any node: Kylin passes them to the nodes of the project
    /// itself.
    pub fn resource_groups(mut self, groups: impl Into<Option<ResourceGroups>>) -> Self {
        self.resource_groups = groups.into();
        self
    }

    /// Sets how a query is stopped on its node when its client disconnects or its time is over;
    /// `None` lets it run to its end, as Kylin does. Default: `None`.
    ///
    /// The proxy stops at most 64 queries at once, each within 5 s. Further ones run to their end.
    pub fn cancel_on_disconnect(mut self, cancel: impl Into<Option<CancelOnDisconnect>>) -> Self {
        self.cancel_on_disconnect = cancel.into();
        self
    }

    /// Checks the values of the setters.
    pub(super) fn validate(&self) -> Result<(), InvalidSetting> {
        let is_some_time = self.read_your_writes != Some(Duration::ZERO);
        InvalidSetting::unless(is_some_time, "read_your_writes", "over 0, or None to turn it off")
    }
}
