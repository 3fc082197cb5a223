//! The rule that ties a session to an endpoint. It goes before the policy and is asked by the proxy alone.
//!
//! # The hooks in the life of a request
//!
//! | when | hook | what a way may do there |
//! |---|---|---|
//! | the head is checked, the client known, the body read | [`Affinity::begin`] | find out whose session it is, from a cache at once or from a store later; take cookies out that no node may see; make the [`Tie`] |
//! | before each pick | [`Tie::hint`] | say where the request is to go; the cluster follows where it can |
//! | picked, before it is sent, for each try | [`Affinity::prepare`] | rewrite the request for this endpoint, even talk to it first |
//! | the head of the answer is here, and it is the one to be passed on | [`Affinity::settle`] | learn from it, write to the store, change its cookies; have the request sent once more to the same endpoint |
//! | until the answer's body has ended or is dropped | [`Tie::take_in_use`] | keep the session alive while it is in use |
//!
//! Rules of the hooks: what can be done at once is done at once ([`Step::Now`]) and allocates nothing on the way of an
//! ordinary request; what has to wait is boxed ([`Step::Later`]) and has a deadline of its own. No failure of a store may fail
//! a request. The proxy's own answers (no endpoint, 502) never come to `settle`.

mod hint;

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use http::{Request, Response};

pub(crate) use self::hint::Hint;
use crate::backend::{Backend, SendError};
use crate::body::Body;
use crate::endpoint::EndpointId;
use crate::session::nodes_share::{Grace, Graced, NodesShare};
#[cfg(feature = "shared-sessions")]
use crate::session::shared::{SharedSessions, Sharing, Visit};
#[cfg(feature = "shared-sessions")]
use crate::session::{Secret, SessionStore};

/// How sessions find their endpoint: see [`ProxyBuilder::affinity`](crate::proxy::ProxyBuilder::affinity). Clones are handles
/// to the same sessions.
#[derive(Clone)]
#[must_use]
pub struct Affinity {
    way: Arc<Way>,
}

/// The ways there are. A new one is a variant here, with its part of the [`Tie`] in [`State`] and an arm in each hook.
enum Way {
    Loose,
    NodesShare(Grace),
    #[cfg(feature = "shared-sessions")]
    Shared(Arc<Sharing>),
}

/// What the tries of one request know of its session. Made by `begin`, handed to every later hook of that request.
#[derive(Default)]
pub(crate) struct Tie {
    hint: Hint,
    state: State,
    in_use: Option<InUse>,
}

/// What a way remembers of a request between its hooks.
#[derive(Default)]
enum State {
    #[default]
    Loose,
    NodesShare(Graced),
    #[cfg(feature = "shared-sessions")]
    Shared(Box<Visit>),
}

/// Keeps a session alive while it lives. Rides inside the answer's body.
pub(crate) struct InUse {}

/// A thing that is done, or has to be waited for. What is waited for has its own deadline.
pub(crate) enum Step<'a, T> {
    Now(T),
    Later(Later<'a, T>),
}

pub(crate) type Later<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What is to be done with a request that was prepared for an endpoint.
pub(crate) enum Prepared {
    /// Send it.
    Send,
    /// The endpoint could not be made ready for it: this counts as the failure of this try, and since the client's request has
    /// not been sent, another endpoint is tried where the phase says so ([`Phase::is_unsent`](crate::backend::Phase::is_unsent)).
    Failed(SendError),
    /// It needs no sending: this is the answer. `settle` is not called.
    Answer(Box<Response<Body>>),
}

/// What is to be done with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// Pass it on.
    Pass,
    /// Drop it and send the request once more to the same endpoint, prepared anew. Only where [`Affinity::wants_copy`] said yes;
    /// otherwise, or when the request is too large to be kept, the answer is passed on.
    Again,
}

/// Who answered.
pub(crate) struct Served<'a> {
    pub(crate) endpoint: &'a EndpointId,
    /// The endpoint that the hint named failed at this request, is ejected, in maintenance or gone, so that the session may
    /// move. False when it was just full or lacks the role: the login there is worth keeping.
    pub(crate) bound_is_out: bool,
    /// For requests of the way's own.
    pub(crate) nodes: &'a dyn Nodes,
}

/// A backend whose type does not matter: for a way that has to talk to an endpoint itself.
pub(crate) trait Node: Send + Sync {
    fn ask(&self, request: Request<Body>) -> Later<'_, Result<Response<Body>, SendError>>;
}

/// The backends of a cluster, to be found by the ids of their endpoints.
pub(crate) trait Nodes: Send + Sync {
    fn find(&self, endpoint: &EndpointId) -> Option<Arc<dyn Node>>;
}

impl<B: Backend> Node for B {
    fn ask(&self, request: Request<Body>) -> Later<'_, Result<Response<Body>, SendError>> {
        Box::pin(self.send(request))
    }
}

impl Affinity {
    /// Finds out whose session `request` belongs to, and takes out of it what is meant for the front end.
    pub(crate) fn begin<'a>(&'a self, request: &'a mut Request<Body>) -> Step<'a, Tie> {
        match &*self.way {
            Way::Loose => Step::Now(Tie::default()),
            Way::NodesShare(grace) => match grace.begin(request) {
                Step::Now(graced) => Step::Now(Tie::graced(graced)),
                Step::Later(graced) => Step::Later(Box::pin(async { Tie::graced(graced.await) })),
            },
            #[cfg(feature = "shared-sessions")]
            Way::Shared(sharing) => match sharing.begin(request) {
                Step::Now(visit) => Step::Now(Tie::shared(visit)),
                Step::Later(visit) => Step::Later(Box::pin(async { Tie::shared(visit.await) })),
            },
        }
    }

    /// Must a copy of the request be kept until its answer is settled, because it may have to be sent again? Asked before
    /// each try; a copy of a request with a body is cheap while the body is one buffer, and impossible otherwise.
    pub(crate) fn wants_copy(&self, tie: &Tie) -> bool {
        match (&*self.way, &tie.state) {
            (Way::NodesShare(grace), State::NodesShare(graced)) => grace.wants_copy(graced),
            #[cfg(feature = "shared-sessions")]
            (Way::Shared(_), State::Shared(visit)) => visit.wants_copy(),
            _ => false,
        }
    }

    /// Makes `request` ready for `endpoint`; none when there is nothing to do. The request is as `begin` left it, or as it was
    /// prepared for another endpoint which it never reached: what is prepared is to be replaced, not added to.
    pub(crate) fn prepare<'a>(
        &'a self,
        tie: &'a mut Tie,
        endpoint: &'a EndpointId,
        nodes: &'a dyn Nodes,
        request: &'a mut Request<Body>,
    ) -> Option<Later<'a, Prepared>> {
        let _ = (&endpoint, &nodes, &request);
        match (&*self.way, &mut tie.state) {
            (Way::NodesShare(grace), State::NodesShare(graced)) => {
                grace.prepare(graced, request);
                None
            }
            #[cfg(feature = "shared-sessions")]
            (Way::Shared(sharing), State::Shared(visit)) => sharing.prepare(visit, endpoint, nodes, request),
            _ => None,
        }
    }

    /// Learns from the head of the answer that is to be passed on, and may change its fields.
    pub(crate) fn settle<'a>(
        &'a self,
        tie: &'a mut Tie,
        served: Served<'a>,
        answer: &'a mut Response<Body>,
    ) -> Step<'a, Then> {
        let _ = (&served.endpoint, served.bound_is_out, &served.nodes, &answer);
        match (&*self.way, &mut tie.state) {
            (Way::NodesShare(grace), State::NodesShare(graced)) => grace.settle(graced, &served, answer),
            #[cfg(feature = "shared-sessions")]
            (Way::Shared(sharing), State::Shared(visit)) => sharing.settle(visit, served, answer),
            _ => Step::Now(Then::Pass),
        }
    }
}

impl Affinity {
    /// For nodes that share their sessions themselves, by a session manager over Redis for one: any of them serves any request of a
    /// session, except that a session which has just begun stays where it began for a moment, until the others can find it.
    /// See [`NodesShare`] for how long, and for what else it does.
    pub fn nodes_share() -> NodesShare {
        NodesShare::new()
    }

    pub(super) fn gracing(grace: Grace) -> Self {
        Affinity { way: Arc::new(Way::NodesShare(grace)) }
    }
}

#[cfg(feature = "shared-sessions")]
impl Affinity {
    /// Sessions that the front end shares among nodes which share nothing: any node serves any request of a session, so that every
    /// policy balances freely and a node that is gone takes no login along. See [`SharedSessions`] for what is kept, how it is
    /// protected, and what clients see.
    ///
    /// All front ends of one address need the same `store` and the same `secret`.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use kylin_lb::session::{Affinity, MemoryStore, Secret};
    ///
    /// # fn run() -> Result<(), Box<dyn std::error::Error>> {
    /// let secret = Secret::parse("q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA=")?;
    /// let affinity = Affinity::shared(Arc::new(MemoryStore::new()), secret).secure(true).build()?;
    /// # let _ = affinity;
    /// # Ok(())
    /// # }
    /// # run().unwrap();
    /// ```
    pub fn shared(store: Arc<dyn SessionStore>, secret: Secret) -> SharedSessions {
        SharedSessions::new(store, secret)
    }

    pub(crate) fn sharing(sharing: Sharing) -> Self {
        Affinity { way: Arc::new(Way::Shared(Arc::new(sharing))) }
    }
}

impl Tie {
    fn graced(mut graced: Graced) -> Self {
        Tie { hint: std::mem::take(&mut graced.hint), state: State::NodesShare(graced), in_use: None }
    }

    #[cfg(feature = "shared-sessions")]
    fn shared(visit: Box<Visit>) -> Self {
        Tie { state: State::Shared(visit), ..Tie::default() }
    }

    /// Where the request is to go, at every try.
    pub(crate) fn hint(&self) -> &Hint {
        &self.hint
    }

    /// What must live until the answer's body has ended.
    pub(crate) fn take_in_use(&mut self) -> Option<InUse> {
        self.in_use.take()
    }
}

impl fmt::Debug for Affinity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &*self.way {
            Way::Loose => "Affinity::loose",
            Way::NodesShare(_) => "Affinity::nodes_share",
            #[cfg(feature = "shared-sessions")]
            Way::Shared(_) => "Affinity::shared",
        })
    }
}
