//! Where the proxy asks an [`Affinity`]: its hooks, tied to the tries of one request.

use std::sync::Arc;

use http::{Request, Response};

use crate::backend::Backend;
use crate::balance::Attempted;
use crate::body::Body;
use crate::cluster::{Cluster, PickError, Picked};
use crate::drop_guard::DropGuard;
use crate::endpoint::EndpointId;
use crate::request::RequestView;
use crate::session::affinity::{Affinity, Node, Nodes, Prepared, Served, Step, Then, Tie};

/// The session of one request, if the proxy keeps sessions at all.
pub(super) struct Session<'p> {
    affinity: Option<&'p Affinity>,
    tie: Tie,
    /// The first try went to the endpoint that the session is bound to.
    began_at_home: bool,
}

impl<'p> Session<'p> {
    pub(super) fn new(affinity: Option<&'p Affinity>) -> Self {
        Session { affinity, tie: Tie::default(), began_at_home: false }
    }

    /// Finds out whose session it is.
    pub(super) async fn begin(&mut self, request: &mut Request<Body>) {
        if let Some(affinity) = self.affinity {
            self.tie = match affinity.begin(request) {
                Step::Now(tie) => tie,
                Step::Later(tie) => tie.await,
            };
        }
    }

    pub(super) fn pick<B>(
        &mut self,
        cluster: &Cluster<B>,
        request: &RequestView<'_>,
        tried: &Attempted,
    ) -> Result<Picked<B>, PickError> {
        if self.affinity.is_none() {
            return cluster.pick(request, tried);
        }
        let picked = cluster.pick_hinted(request, tried, self.tie.hint())?;
        if tried.is_empty() {
            self.began_at_home = self.tie.hint().names(picked.lease.endpoint());
        }
        Ok(picked)
    }

    /// Is the session bound to an endpoint?
    pub(super) fn is_bound(&self) -> bool {
        self.tie.hint().is_binding()
    }

    /// Did the request go where its session is bound to?
    pub(super) fn is_home<B>(&self, picked: &Picked<B>) -> bool {
        self.tie.hint().names(picked.lease.endpoint())
    }

    /// May the request have to be sent again although it was answered?
    pub(super) fn wants_copy(&self) -> bool {
        self.affinity.is_some_and(|affinity| affinity.wants_copy(&self.tie))
    }

    pub(super) async fn prepare<B: Backend>(
        &mut self,
        cluster: &Cluster<B>,
        picked: &Picked<B>,
        request: &mut Request<Body>,
    ) -> Prepared {
        let Some(affinity) = self.affinity else { return Prepared::Send };
        match affinity.prepare(&mut self.tie, picked.lease.endpoint(), cluster, request) {
            Some(prepared) => prepared.await,
            None => Prepared::Send,
        }
    }

    pub(super) async fn settle<B: Backend>(
        &mut self,
        cluster: &Cluster<B>,
        picked: &Picked<B>,
        answer: &mut Response<Body>,
    ) -> Then {
        let Some(affinity) = self.affinity else { return Then::Pass };
        let endpoint = picked.lease.endpoint();
        let hint = self.tie.hint();
        let elsewhere = hint.is_binding() && !hint.names(endpoint);
        let bound_is_out = elsewhere && (self.began_at_home || cluster.is_out(hint));
        let served = Served { endpoint, bound_is_out, nodes: cluster };
        match affinity.settle(&mut self.tie, served, answer) {
            Step::Now(then) => then,
            Step::Later(then) => then.await,
        }
    }

    /// What has the session count as in use while it lives.
    pub(super) fn take_in_use(&mut self) -> Option<DropGuard> {
        self.tie.take_in_use()
    }
}

impl<B: Backend> Nodes for Cluster<B> {
    fn find(&self, endpoint: &EndpointId) -> Option<Arc<dyn Node>> {
        self.backend(endpoint).map(|backend| backend as Arc<dyn Node>)
    }
}
