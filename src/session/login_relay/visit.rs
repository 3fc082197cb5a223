//! The hooks of one request in a session that the front end shares among nodes.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body::Body as _;

use super::Sharing;
use super::cookie::{self, Given};
use super::enter::Errand;
use super::keep::{Found, Lookup};
use super::login::{Outcome, origin};
use super::paths::{Kind, login_of_form};
use super::record::{Login, NodeCookie};
use crate::backend::{SendError, SendErrorKind};
use crate::body::Body;
use crate::drop_guard::DropGuard;
use crate::endpoint::EndpointId;
use crate::session::hook::{AfterResponse, BoxFuture, MaybeReady, Nodes, Prepared, ResponseContext};

/// What the tries of one request know.
pub(crate) struct Visit {
    pub(super) kind: Kind,
    /// The client's own cookies, without the front end's and any node's.
    cookies: Option<HeaderValue>,
    /// The client's `Authorization`, where it is the node that checks it.
    credentials: Option<HeaderValue>,
    pub(super) origin: HeaderMap,
    /// The client keeps cookies: it has sent ours.
    pub(super) presented: bool,
    /// Credentials that are not those of a session: a login, or a client that sends them with every request.
    pub(super) offered: Option<Login>,
    pub(super) known: Option<Box<Lookup>>,
    /// The client's cookie is worth nothing any more.
    pub(super) ended: bool,
    /// Keeps the session alive until the answer is over.
    pub(crate) in_use: Option<DropGuard>,
    sent: Sent,
    /// Where the request was sent once more.
    again_at: Option<EndpointId>,
    /// Where the session could not be logged in.
    unready: Option<(EndpointId, SendErrorKind)>,
}

/// What the node was sent to know the session by.
enum Sent {
    Nothing,
    Cookie(NodeCookie),
    Credentials,
}

/// What is to become of an answer by which a node does not know a session.
enum Lost {
    Again,
    Ended,
}

impl Sharing {
    /// Finds out whose session it is.
    pub(crate) fn begin<'a>(self: &'a Arc<Self>, request: &'a mut Request<Body>) -> MaybeReady<'a, Box<Visit>> {
        let kind = Kind::of(request.method(), request.uri().path());
        let taken = self.cookies.take(request.headers_mut());
        let headers = request.headers();
        let credentials = headers.get(header::AUTHORIZATION).cloned();
        let offered = match kind {
            Kind::Form => whole(request.body()).and_then(|body| login_of_form(headers, &body)),
            _ => credentials.as_ref().and_then(|value| Login::from_authorization(value.as_bytes())),
        };
        // With a scheme that is not ours to know, the request goes its own way.
        let stranger = credentials.is_some() && offered.is_none() && kind != Kind::Form;
        let mut visit = Box::new(Visit {
            kind,
            cookies: headers.get(header::COOKIE).cloned(),
            credentials,
            origin: origin(headers),
            presented: taken.presented,
            offered,
            known: None,
            in_use: None,
            ended: taken.presented && taken.id.is_none(),
            sent: Sent::Nothing,
            again_at: None,
            unready: None,
        });
        let Some(id) = taken.id.filter(|_| !stranger) else { return MaybeReady::Ready(visit) };
        match self.keep.find(id) {
            MaybeReady::Ready(found) => {
                self.found(&mut visit, found);
                MaybeReady::Ready(visit)
            }
            MaybeReady::Boxed(found) => MaybeReady::Boxed(Box::pin(async move {
                self.found(&mut visit, found.await);
                visit
            })),
        }
    }

    fn found(&self, visit: &mut Visit, found: Found) {
        match found {
            Found::Session(known) => {
                visit.in_use = Some(self.keep.hold(&known));
                visit.belongs_to(known);
            }
            Found::Absent => visit.ended = true,
            // Who knows: the store may be back soon, and with it the session.
            Found::Unsure => {}
        }
    }

    /// Makes the request one that the node called `endpoint` knows.
    pub(crate) fn prepare<'a>(
        self: &'a Arc<Self>,
        visit: &'a mut Visit,
        endpoint: &'a EndpointId,
        nodes: &'a dyn Nodes,
        request: &'a mut Request<Body>,
    ) -> Option<BoxFuture<'a, Prepared>> {
        if visit.offered.is_some() {
            let reused = visit.offered.as_ref().filter(|_| visit.is_cookieless());
            let reused = reused.and_then(|login| self.reuse.find(self.keep.fingerprint(login), endpoint));
            visit.send(request, reused, false);
            return None;
        }
        let Some(known) = &visit.known else {
            visit.send(request, None, false);
            return None;
        };
        if visit.kind == Kind::Logout {
            return Some(Box::pin(async move {
                if !visit.ended {
                    visit.ended = true;
                    if let Some(known) = &visit.known {
                        self.keep.remove(&known.key).await;
                        let like = Some((request.method(), request.uri()));
                        self.log_out(known, Some(endpoint), nodes, &visit.origin, like).await;
                    }
                }
                let cookie = visit.known.as_ref().and_then(|known| known.session.cookie(endpoint)).cloned();
                visit.send(request, cookie, false);
                Prepared::Send
            }));
        }
        if let Some(cookie) = known.session.cookie(endpoint) {
            let cookie = cookie.clone();
            // Where an answer of 401 would come too late to send the request again, or does not come at all, the node gets
            // the credentials as well. It looks at them only if it does not know the cookie.
            let unsure = visit.kind == Kind::WhoAmI || request.body().replay().is_none();
            visit.send(request, Some(cookie), unsure);
            return None;
        }
        Some(Box::pin(async move {
            if let Some((_, phase)) = visit.unready.take_if(|(at, _)| at == endpoint) {
                return Prepared::Failed(SendError::new(phase, Unready));
            }
            match self.enter_for(visit, endpoint, nodes, None).await {
                Outcome::In(cookie) => {
                    let unsure = visit.kind == Kind::WhoAmI || request.body().replay().is_none();
                    visit.send(request, Some(cookie), unsure);
                }
                Outcome::NoCookie => visit.send(request, None, true),
                Outcome::Refused | Outcome::Gone => {
                    visit.end();
                    visit.send(request, None, false);
                }
                Outcome::Unready(phase) => return Prepared::Failed(SendError::new(unsent(phase), Unready)),
            }
            Prepared::Send
        }))
    }

    /// Learns from the answer, and hides from the client what is between the front end and the nodes.
    pub(crate) fn settle<'a>(
        self: &'a Arc<Self>,
        visit: &'a mut Visit,
        served: ResponseContext<'a>,
        answer: &'a mut Response<Body>,
    ) -> MaybeReady<'a, AfterResponse> {
        let given = self.cookies.take_from_answer(answer.headers_mut());
        cookie::clean_location(answer.headers_mut());
        let nothing_new = given.cookie.is_none() && !given.deleted && answer.status() != StatusCode::UNAUTHORIZED;
        let is_sealed_well = visit.known.as_ref().is_none_or(|known| known.current);
        if nothing_new && is_sealed_well && visit.offered.is_none() && visit.kind != Kind::Logout {
            self.finish(visit, answer);
            return MaybeReady::Ready(AfterResponse::Return);
        }
        MaybeReady::Boxed(Box::pin(async move {
            if visit.offered.is_some() {
                self.after_offer(visit, &served, &given, answer).await;
            } else if answer.status() == StatusCode::UNAUTHORIZED && visit.known.is_some() {
                if let Lost::Again = self.after_loss(visit, &served).await {
                    return AfterResponse::SendAgain;
                }
            } else if visit.kind != Kind::Logout {
                self.learn(visit, &served, given).await;
            }
            self.finish(visit, answer);
            AfterResponse::Return
        }))
    }

    async fn enter_for(
        self: &Arc<Self>,
        visit: &mut Visit,
        endpoint: &EndpointId,
        nodes: &dyn Nodes,
        failed: Option<NodeCookie>,
    ) -> Outcome {
        let Visit { known: Some(known), origin, .. } = visit else { return Outcome::Gone };
        self.enter(known, Errand { endpoint, nodes, origin, failed }).await
    }

    /// A node said 401 to a session.
    async fn after_loss(self: &Arc<Self>, visit: &mut Visit, served: &ResponseContext<'_>) -> Lost {
        match std::mem::replace(&mut visit.sent, Sent::Nothing) {
            Sent::Cookie(cookie) if visit.again_at.as_ref() != Some(served.endpoint) => {
                visit.again_at = Some(served.endpoint.clone());
                match self.enter_for(visit, served.endpoint, served.nodes, Some(cookie)).await {
                    Outcome::In(_) => return Lost::Again,
                    Outcome::NoCookie => {
                        if let Some(known) = &mut visit.known {
                            known.session.set(served.endpoint, None);
                        }
                        return Lost::Again;
                    }
                    Outcome::Unready(phase) => {
                        if let Some(known) = &mut visit.known {
                            known.session.set(served.endpoint, None);
                        }
                        visit.unready = Some((served.endpoint.clone(), unsent(phase)));
                        return Lost::Again;
                    }
                    Outcome::Refused | Outcome::Gone => visit.end(),
                }
            }
            // The node has looked at the credentials.
            Sent::Credentials => {
                if let Some(known) = &visit.known {
                    self.refuse(known).await;
                }
                visit.end();
            }
            // A login of a moment ago is not known there: no further one would change that.
            Sent::Cookie(_) | Sent::Nothing => {}
        }
        Lost::Ended
    }

    /// A node may have changed its cookie; and what was sealed with a previous secret is sealed anew.
    async fn learn(&self, visit: &mut Visit, served: &ResponseContext<'_>, given: Given) {
        let Some(known) = &mut visit.known else { return };
        let old_seal = !known.current;
        let news = given.cookie.is_some() || given.deleted;
        let change = self.keep.change(known, |session| {
            let changes = news && session.cookie(served.endpoint) != given.cookie.as_ref();
            if changes {
                session.set(served.endpoint, given.cookie.clone());
            }
            changes || old_seal
        });
        change.await;
    }

    /// Gives the client what it has to know.
    fn finish(&self, visit: &Visit, answer: &mut Response<Body>) {
        if visit.ended
            && let Some(field) = self.cookies.take_back()
        {
            answer.headers_mut().append(header::SET_COOKIE, field);
        }
    }
}

impl Visit {
    pub(crate) fn has_session(&self) -> bool {
        self.known.is_some()
    }

    /// May the request have to be sent again when its answer is here?
    pub(crate) fn wants_copy(&self) -> bool {
        self.known.is_some() && self.offered.is_none() && self.kind != Kind::Logout
    }

    /// The request is one of the session `known`.
    fn belongs_to(&mut self, known: Box<Lookup>) {
        let is_login = matches!(self.kind, Kind::Login | Kind::Form);
        if self.kind == Kind::Logout || (!is_login && self.offered.as_ref() == Some(known.session.login())) {
            // A client that sends them with each request, JDBC for one. The session knows them.
            self.offered = None;
            self.credentials = None;
        }
        self.known = Some(known);
    }

    /// Sends its credentials with every request, as far as one can know.
    pub(super) fn is_cookieless(&self) -> bool {
        !self.presented && !matches!(self.kind, Kind::Login | Kind::Form)
    }

    /// The session is over: what follows is a request without one.
    pub(super) fn end(&mut self) {
        self.known = None;
        self.ended = true;
    }

    /// Puts into the request what this node is to know the session by, in place of what was there for another.
    fn send(&mut self, request: &mut Request<Body>, cookie: Option<NodeCookie>, with_login: bool) {
        let headers = request.headers_mut();
        cookie::put(headers, self.cookies.as_ref(), cookie.as_ref());
        let login = self.known.as_ref().filter(|_| with_login);
        let login = login.and_then(|known| HeaderValue::from_bytes(known.session.login().as_bytes()).ok());
        let sent_login = login.is_some();
        match login.or_else(|| self.credentials.clone()) {
            Some(mut value) => {
                value.set_sensitive(true);
                headers.insert(header::AUTHORIZATION, value);
            }
            None => _ = headers.remove(header::AUTHORIZATION),
        }
        self.sent = match cookie {
            _ if sent_login => Sent::Credentials,
            Some(cookie) => Sent::Cookie(cookie),
            None => Sent::Nothing,
        };
    }
}

/// The bytes of a body that is here already.
fn whole(body: &Body) -> Option<Bytes> {
    let mut copy = body.replay()?;
    match Pin::new(&mut copy).poll_frame(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Some(Ok(frame))) => frame.into_data().ok(),
        _ => None,
    }
}

/// The client's own request was not sent, whatever became of the login.
fn unsent(phase: SendErrorKind) -> SendErrorKind {
    match phase {
        SendErrorKind::ConnectTimeout | SendErrorKind::HeadTimeout => SendErrorKind::ConnectTimeout,
        SendErrorKind::Limit => SendErrorKind::Limit,
        _ => SendErrorKind::Connect,
    }
}

/// Why a request was not sent to a node.
#[derive(Debug, thiserror::Error)]
#[error("the session could not be logged in at the node")]
struct Unready;
