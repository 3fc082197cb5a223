//! The session of one request, across its attempts.

use std::time::Duration;

use http::{HeaderMap, Request, Response, header};

use crate::backend::Backend;
use crate::backend::node_client::NodeClient;
use crate::balance::Attempted;
use crate::body::Body;
use crate::cluster::{Cluster, PickError, Picked};
use crate::drop_guard::DropGuard;
use crate::endpoint::EndpointId;
use crate::kylin::response::Credentials;
use crate::request::{RequestContext, RequestView};
use crate::session::affinity::{Affinity, RequestSession};
use crate::session::hook::{AfterResponse, MoveReasons, Nodes, PrepareOutcome};

/// The timeout of a strategy's own requests, unless the strategy sets another.
const NODE_TIMEOUT: Duration = Duration::from_secs(10);

/// The session of one request, if the proxy keeps sessions.
pub(super) struct Session<'p> {
    affinity: Option<&'p Affinity>,
    context: RequestSession<'p>,
    /// The first attempt went to the endpoint that the session is bound to.
    began_at_bound: bool,
}

impl<'p> Session<'p> {
    pub(super) fn new(affinity: Option<&'p Affinity>) -> Self {
        Session { affinity, context: RequestSession::default(), began_at_bound: false }
    }

    /// Looks the session up.
    pub(super) async fn begin(&mut self, context: &RequestContext, request: &mut Request<Body>) {
        if let Some(affinity) = self.affinity {
            self.context = affinity.begin(context, request).await;
        }
    }

    pub(super) fn pick<B>(
        &mut self,
        cluster: &Cluster<B>,
        request: &RequestView<'_>,
        attempted: &Attempted,
    ) -> Result<Picked<B>, PickError> {
        if self.affinity.is_none() {
            return cluster.pick(request, attempted);
        }
        let hint = &self.context.hint;
        let picked = match self.context.is_required {
            true => cluster.pick_required(request, attempted, hint)?,
            false => cluster.pick_hinted(request, attempted, hint, self.primaries_first())?,
        };
        if attempted.is_empty() {
            self.began_at_bound = self.is_bound_to(&picked);
        }
        Ok(picked)
    }

    /// Picks the endpoint that the session is bound to, regardless of its health and its limit.
    /// Returns `None` if the endpoint may get no requests.
    pub(super) fn pick_regardless<B>(&mut self, cluster: &Cluster<B>, request: &RequestView<'_>) -> Option<Picked<B>> {
        let picked = cluster.pick_regardless(request, &self.context.hint)?;
        self.began_at_bound = true;
        Some(picked)
    }

    /// Returns whether the proxy keeps sessions.
    pub(super) fn is_kept(&self) -> bool {
        self.affinity.is_some()
    }

    /// Returns whether the request names a session of the nodes, in a cookie or in its path.
    pub(super) fn is_named(&self, request: &RequestContext) -> bool {
        self.context.is_named(request)
    }

    /// Returns which credentials the request carries.
    pub(super) fn credentials(&self, request: &RequestContext) -> Credentials {
        request.credentials(|| self.is_named(request))
    }

    /// Returns whether the session is bound to an endpoint.
    pub(super) fn is_bound(&self) -> bool {
        self.context.hint.is_binding()
    }

    /// Returns whether the session is bound to the endpoint that was picked.
    pub(super) fn is_bound_to<B>(&self, picked: &Picked<B>) -> bool {
        picked.lease.is_named_by(&self.context.hint)
    }

    /// Returns whether a session that is bound to a backup moves to a primary endpoint.
    fn primaries_first(&self) -> bool {
        self.affinity.is_some_and(Affinity::has_primaries_first)
    }

    /// Returns whether the session may request that the request is sent again after a response.
    pub(super) fn may_send_again(&self) -> bool {
        self.context.may_send_again()
    }

    /// Returns whether the request names a session that has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.context.has_ended()
    }

    /// Returns whether the client gets a cookie with a response of a node that has these headers.
    /// The affinity may add a cookie of its own, which no copy of the response has.
    pub(super) fn gives_cookie(&self, headers: &HeaderMap) -> bool {
        #[cfg(feature = "login-relay")]
        if let Some((relay, relayed)) = self.context.relay() {
            return relay.gives_cookie(relayed, headers);
        }
        headers.contains_key(header::SET_COOKIE)
    }

    /// Removes the cookies that the client does not get from the headers of a response.
    pub(super) fn hide_cookies(&self, headers: &mut HeaderMap) {
        #[cfg(feature = "login-relay")]
        if let Some((relay, _)) = self.context.relay() {
            relay.hide_cookies(headers);
        }
        #[cfg(not(feature = "login-relay"))]
        let _ = headers;
    }

    /// Returns whether only one node has the session, and it is unknown which.
    pub(super) fn is_at_unknown_node(&self) -> bool {
        self.context.is_at_unknown_node()
    }

    /// Returns whether only the endpoint that the session is bound to has the session.
    pub(super) fn is_at_bound_node(&self) -> bool {
        self.context.is_at_bound_node()
    }

    /// Returns whether [`prepare`](Self::prepare) may change the request.
    pub(super) fn changes_requests(&self) -> bool {
        self.context.changes_requests()
    }

    /// Prepares the request if that needs no waiting. Otherwise does nothing and returns false.
    pub(super) fn prepare_at_once<B: Backend>(
        &mut self,
        cluster: &Cluster<B>,
        picked: &Picked<B>,
        request: &mut Request<Body>,
    ) -> bool {
        // A step that would wait is dropped before its first poll, so it has not begun.
        self.context.prepare(picked.lease.endpoint(), cluster, request).is_none()
    }

    pub(super) async fn prepare<B: Backend>(
        &mut self,
        cluster: &Cluster<B>,
        picked: &Picked<B>,
        request: &mut Request<Body>,
    ) -> PrepareOutcome {
        match self.context.prepare(picked.lease.endpoint(), cluster, request) {
            Some(prepared) => prepared.await,
            None => PrepareOutcome::Send,
        }
    }

    pub(super) async fn settle<B: Backend>(
        &mut self,
        request: &RequestContext,
        cluster: &Cluster<B>,
        picked: &Picked<B>,
        attempted: &Attempted,
        response: &mut Response<Body>,
    ) -> AfterResponse {
        let endpoint = picked.lease.endpoint();
        let hint = &self.context.hint;
        let is_elsewhere = hint.is_binding() && !self.is_bound_to(picked);
        let left_backup = || self.primaries_first() && !picked.lease.is_backup() && cluster.is_backup(hint);
        let leaves_group = is_elsewhere && cluster.is_outside_group(hint, attempted);
        let bound_unavailable =
            leaves_group || is_elsewhere && (self.began_at_bound || cluster.is_out(hint) || left_backup());
        let move_reasons = MoveReasons { bound_unavailable, leaves_group };
        self.context.settle(request, endpoint, move_reasons, cluster, response).await
    }

    /// Takes the guard that marks the session as in use.
    pub(super) fn take_in_use(&mut self) -> Option<DropGuard> {
        self.context.take_in_use()
    }
}

impl<B: Backend> Nodes for Cluster<B> {
    fn find(&self, endpoint: &EndpointId) -> Option<NodeClient> {
        self.backend(endpoint).map(|backend| NodeClient::new(backend, endpoint.as_str(), NODE_TIMEOUT))
    }
}
