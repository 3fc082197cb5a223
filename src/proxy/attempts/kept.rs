//! A request that is kept for the next attempt.

use std::mem::take;
use std::sync::Arc;

use http::Request;

use super::Attempts;
use crate::admission::flight::FlightKey;
use crate::backend::{self, Backend};
use crate::body::Body;
use crate::endpoint::Lease;

/// A request that is kept: by itself, or in the key of its [flight](super::flight).
pub(super) enum KeptRequest {
    Own(Box<Request<Body>>),
    OfFlight(Arc<FlightKey>),
}

impl KeptRequest {
    pub(super) fn get(&self) -> &Request<Body> {
        match self {
            KeptRequest::Own(request) => request,
            KeptRequest::OfFlight(key) => key.request(),
        }
    }

    /// Returns the request for sending.
    pub(super) fn into_request(self) -> Box<Request<Body>> {
        match self {
            KeptRequest::Own(request) => request,
            KeptRequest::OfFlight(key) => Box::new(backend::copy(key.request())),
        }
    }

    /// Ends the request and recycles its memory.
    pub(super) fn recycle(self) {
        if let KeptRequest::Own(mut request) = self {
            backend::recycle(&mut request);
        }
    }
}

impl<B: Backend> Attempts<'_, B> {
    /// Returns whether the request is changed for each node that gets it.
    pub(super) fn is_changed_for_nodes(&self) -> bool {
        self.names_no_host
            || self.session.changes_requests()
            || self.kylin().is_some_and(|(rules, class)| rules.changes_for_stop(class))
    }

    /// Keeps the request if it may have to be sent again after a node has received it. If the
    /// request is not changed for nodes, the kept one is sent and `request` is left empty. Copying
    /// a request would cost as much as parsing its head.
    pub(super) fn keep(&mut self, request: &mut Request<Body>, lease: &Lease) {
        if self.sends_kept {
            return;
        }
        self.kept_request = None;
        let retry = &self.proxy.settings.retry;
        let (is_repeatable, may_stop) = match self.kylin() {
            Some((rules, class)) => (rules.may_repeat(class), false),
            // The node's response may show that it did not execute the request.
            None => (retry.is_repeatable(request.method()), retry.covers_stopping() && lease.is_probed()),
        };
        let is_wanted = (is_repeatable && !retry.is_none()) || may_stop || self.session.may_send_again();
        if !is_wanted || request.body().whole().is_none() {
            return;
        }
        self.kept_request = Some(match &self.flight {
            Some(key) => KeptRequest::OfFlight(Arc::clone(key)),
            None if self.is_changed_for_nodes() => KeptRequest::Own(Box::new(backend::copy(request))),
            None => {
                self.sends_kept = true;
                KeptRequest::Own(Box::new(take(request)))
            }
        });
    }

    /// Returns the request that is sent: the kept one, or `request`.
    pub(super) fn sent<'a>(&'a self, request: &'a Request<Body>) -> &'a Request<Body> {
        self.kept_request.as_ref().filter(|_| self.sends_kept).map_or(request, KeptRequest::get)
    }

    /// Takes the kept request, to send it again.
    pub(super) fn take_kept(&mut self) -> Option<Box<Request<Body>>> {
        self.sends_kept = false;
        self.kept_request.take().map(KeptRequest::into_request)
    }
}
