//! Writes and logouts: a query that follows one must not share a response from before it.
//!
//! A client without a login can send both. So neither ends the flights of other clients unless a
//! node may have executed it.

use http::{HeaderValue, Request};

use super::Attempts;
use super::flight::{QueryContents, QueryFlights};
#[cfg(feature = "cache")]
use crate::admission::cache::{Credentials, ResultCache};
use crate::admission::flight::ProjectSlot;
use crate::backend::Backend;
use crate::body::Body;
use crate::cookie;
use crate::kylin::class::RequestClass;
use crate::proxy::ProxyCore;
use crate::request::RequestContext;

/// The maximum number of sessions that a logout ends. A client has one.
const MAX_SESSIONS: usize = 8;

/// The change that a request makes.
#[derive(Clone, Copy)]
pub(super) enum Change {
    /// A write to the data of a project, or of all projects if `None`.
    Write(Option<ProjectSlot>),
    /// A session ends, and must get no more results.
    Logout,
}

/// A write or a logout in flight. It takes effect when it is dropped, before its client gets the
/// response.
pub(super) struct PassingChange<'p, B> {
    flights: &'p QueryFlights<B>,
    change: Change,
    authorization: Option<HeaderValue>,
    cookies: Option<HeaderValue>,
    /// The session id in the path, if there is one.
    path_session: Option<Box<[u8]>>,
    /// Whether a node may have executed the request in the last attempt. If so, a write is not sent
    /// again.
    may_be_executed: bool,
    /// Whether the request has ended with a response to its client.
    has_ended: bool,
    /// The result cache, with the credentials of the client.
    #[cfg(feature = "cache")]
    cached: Option<(&'p ResultCache<B>, Credentials)>,
}

impl<'p, B> PassingChange<'p, B> {
    fn begin(proxy: &'p ProxyCore<B>, flights: &'p QueryFlights<B>, change: Change, context: &RequestContext) -> Self {
        #[cfg(not(feature = "cache"))]
        let _ = proxy;
        PassingChange {
            flights,
            change,
            authorization: context.authorization().cloned(),
            cookies: context.cookie_header().cloned(),
            path_session: context.path_session_id().map(Box::from),
            may_be_executed: false,
            has_ended: false,
            #[cfg(feature = "cache")]
            cached: proxy.cache.as_deref().map(|cache| (cache, cache.credentials(context))),
        }
    }

    /// Returns the ids of the client's sessions at nodes.
    fn sessions(&self) -> Vec<Box<[u8]>> {
        let ids = self.cookies.iter().flat_map(cookie::kylin_sessions).chain(self.path_session.as_deref());
        ids.take(MAX_SESSIONS).map(Box::from).collect()
    }

    /// Ends the change before its client gets a response.
    pub(super) fn end(mut self, has_panicked: bool) {
        self.has_ended = true;
        self.may_be_executed |= has_panicked;
    }
}

impl<B> Drop for PassingChange<'_, B> {
    fn drop(&mut self) {
        match self.change {
            Change::Write(project) if self.has_ended => {
                if self.may_be_executed {
                    self.flights.epochs.raise(project);
                }
            }
            // A write whose client has left may be executed later, or never. No other client waits
            // for its effect.
            Change::Write(_) | Change::Logout => {
                let (authorization, cookies) = (self.authorization.as_ref(), self.cookies.as_ref());
                let sessions = self.sessions();
                self.flights.close(|key| key.is_of(authorization, cookies) || key.has_session(&sessions));
                #[cfg(feature = "cache")]
                if let Some((cache, credentials)) = &self.cached {
                    cache.reject(credentials);
                }
            }
        }
    }
}

impl<B: Backend> Attempts<'_, B> {
    /// Records a write or a logout, and stops queries if the request asks for that. `query`: the
    /// query in its body, if there is one.
    pub(super) fn before_flight(
        &mut self,
        class: RequestClass,
        query: Option<&QueryContents>,
        request: &mut Request<Body>,
    ) {
        let Some(flights) = &self.proxy.flights else { return };
        match class {
            class if class.is_write() => {
                let change = Change::Write(query.and_then(|query| query.project));
                self.change = Some(Box::new(PassingChange::begin(self.proxy, flights, change, &self.context)));
            }
            RequestClass::Logout => {
                self.change = Some(Box::new(PassingChange::begin(self.proxy, flights, Change::Logout, &self.context)));
            }
            RequestClass::Stop | RequestClass::Cancel => {
                if let Some(target) = self.stop_queries(flights, class) {
                    *request.uri_mut() = target;
                }
            }
            _ => {}
        }
    }

    /// Records after an attempt whether a node may have executed the request.
    pub(super) fn note_outcome(&mut self, may_be_executed: bool) {
        if let Some(change) = &mut self.change {
            change.may_be_executed = may_be_executed;
        }
    }
}
