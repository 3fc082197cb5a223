//! The request for an attempt after this one.

use std::sync::Arc;

use http::Request;

use super::Attempts;
use crate::admission::flight::FlightKey;
use crate::backend::Backend;
use crate::body::Body;
use crate::proxy::replay;

/// A copy of a request: its own, or that of its [flight](super::flight).
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

    /// Returns the request, to send it.
    pub(super) fn into_request(self) -> Option<Box<Request<Body>>> {
        match self {
            KeptRequest::Own(request) => Some(request),
            KeptRequest::OfFlight(key) => replay::copy(key.request()).map(Box::new),
        }
    }
}

impl<B: Backend> Attempts<'_, B> {
    /// Keeps the request if it may have to be sent again although a node receives it now.
    pub(super) fn keep_copy(&self, request: &Request<Body>) -> Option<KeptRequest> {
        let retry = &self.proxy.settings.retry;
        let is_repeatable = match self.kylin() {
            Some((rules, class)) => rules.wants_copy(class),
            None => retry.is_repeatable(request.method()),
        };
        if !((is_repeatable && !retry.is_none()) || self.session.wants_copy()) {
            return None;
        }
        match &self.flight {
            Some(key) => Some(KeptRequest::OfFlight(Arc::clone(key))),
            None => replay::copy(request).map(Box::new).map(KeptRequest::Own),
        }
    }

    /// Takes the kept request, to send it again.
    pub(super) fn take_copy(&mut self) -> Option<Box<Request<Body>>> {
        self.copy.take().and_then(KeptRequest::into_request)
    }
}
