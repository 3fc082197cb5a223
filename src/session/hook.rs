//! The interface between the proxy and a session strategy: which parts of a request a strategy
//! sees, and what it returns.
//!
//! # Hooks
//!
//! | when | hook | what a strategy may do |
//! |---|---|---|
//! | The head is checked and the body is read. | `begin` | Looks the session up, in a cache at once or in a store later. Removes cookies that no node may see. |
//! | Before each pick. | [`SessionContext::hint`] | Names the endpoint of the session. The cluster follows the hint if that endpoint is eligible. |
//! | Before each attempt, after an endpoint was picked. | `prepare` | Rewrites the request for this endpoint, and may first send requests of its own to it. May change the hint for the next pick. |
//! | The head of the final response has arrived. | `settle` | Learns from the response, writes to the store, changes cookies, or requests that the request is sent to the same endpoint again. |
//! | Until the body of the response has ended or is dropped. | [`SessionContext::in_use`] | Keeps the session alive. |
//!
//! # Rules
//!
//! - A step that needs no waiting is [`MaybeReady::Ready`], and allocates nothing for an ordinary
//!   request. A step that waits is boxed and has its own deadline.
//! - No failure of a store may fail a request.
//! - The proxy's own error responses are never passed to `settle`.
//! - `prepare` gets a request as `begin` left it, or as it was prepared for an endpoint that did
//!   not process it. So a strategy replaces its earlier preparation, and does not add to it.
//! - Strategies do not depend on each other, nor on the dispatcher in
//!   [`affinity`](super::affinity).

use crate::backend::SendError;
use crate::backend::node_client::NodeClient;
use crate::drop_guard::DropGuard;
pub(crate) use crate::endpoint::EndpointHint;
use crate::endpoint::EndpointId;
pub(crate) use crate::maybe_ready::{BoxFuture, MaybeReady};
use crate::request::RequestContext;

/// The session of one request, as its strategy knows it. `begin` makes it; every later hook of the
/// request gets its `state`.
#[derive(Default)]
pub(crate) struct SessionContext<S> {
    /// The endpoint to which every attempt of the request should go.
    pub(crate) hint: EndpointHint,
    /// Whether no other endpoint may serve the request, if the endpoint that the hint names exists.
    pub(crate) is_required: bool,
    /// The state that the strategy keeps between its hooks.
    pub(crate) state: S,
    /// Marks the session as in use until the body of the response has ended.
    pub(crate) in_use: Option<DropGuard>,
}

impl<S> SessionContext<S> {
    pub(crate) fn new(hint: EndpointHint, state: S) -> Self {
        SessionContext { hint, is_required: false, state, in_use: None }
    }

    /// Replaces the state.
    pub(crate) fn with<T>(self, f: impl FnOnce(S) -> T) -> SessionContext<T> {
        SessionContext { hint: self.hint, is_required: self.is_required, state: f(self.state), in_use: self.in_use }
    }
}

/// The outcome of preparing a request for an endpoint.
#[cfg_attr(not(feature = "login-relay"), allow(dead_code, reason = "only the login relay talks to nodes"))]
pub(crate) enum PrepareOutcome {
    /// Send the request.
    Send,
    /// The endpoint could not be prepared, so this attempt failed. The client's request was not
    /// sent. Another endpoint is attempted if the [kind](crate::backend::SendErrorKind::is_unsent)
    /// of the error allows it.
    Failed(SendError),
}

/// The error for a request that was not sent, because its session must log in at the node and
/// logins currently fail.
#[cfg_attr(not(feature = "login-relay"), allow(dead_code, reason = "only the login relay logs in at nodes"))]
#[derive(Debug, thiserror::Error)]
#[error("logins of the session fail at present")]
pub(crate) struct LoginUnavailable;

/// What the proxy does with a response after the hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AfterResponse {
    /// Return it to the client.
    Return,
    /// Return it to the client. The response has bound the session to the endpoint that sent it.
    Bound,
    /// Drop it, and send the request to the same endpoint again, prepared anew. If no copy of the
    /// request was kept, the client gets the response.
    SendAgain,
}

/// The facts about a response: the endpoint that sent it, and its request.
pub(crate) struct ResponseContext<'a> {
    pub(crate) request: &'a RequestContext,
    pub(crate) endpoint: &'a EndpointId,
    /// The hint of the request.
    pub(crate) hint: &'a EndpointHint,
    pub(crate) move_reasons: MoveReasons,
    /// For the strategy's own requests.
    #[cfg_attr(not(feature = "login-relay"), allow(dead_code, reason = "only the login relay talks to nodes"))]
    pub(crate) nodes: &'a dyn Nodes,
}

/// Reasons why the session may move to the endpoint that responded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MoveReasons {
    /// Whether the endpoint that the hint names failed at this request, is ejected, in maintenance
    /// or removed, or is outside the resource group of the project. False if that endpoint was full
    /// or lacks the role, because the login there remains useful.
    pub(crate) bound_unavailable: bool,
    /// Whether the endpoint that the hint names is outside the resource group. The session then
    /// moves even if the new node does not know it, so that the next login goes to the group.
    pub(crate) leaves_group: bool,
}

/// The nodes of a cluster, by the ids of their endpoints.
#[cfg_attr(not(feature = "login-relay"), allow(dead_code, reason = "only the login relay talks to nodes"))]
pub(crate) trait Nodes: Send + Sync {
    /// Returns a client for the node of an endpoint; `None` if the endpoint was removed.
    fn find(&self, endpoint: &EndpointId) -> Option<NodeClient>;
}
