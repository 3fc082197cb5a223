//! How a session gets into a node that does not know it.

use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Uri};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Sharing;
use super::cookie;
use super::keep::{Found, Lookup};
use super::login::{Outcome, log_in};
use super::record::NodeCookie;
use crate::backend::SendErrorKind;
use crate::body::Body;
use crate::endpoint::EndpointId;
use crate::session::hook::{Node, Nodes};

/// What a login needs to know, besides the session.
pub(super) struct Errand<'a> {
    pub(super) endpoint: &'a EndpointId,
    pub(super) nodes: &'a dyn Nodes,
    pub(super) origin: &'a HeaderMap,
    /// The cookie that the node has just refused.
    pub(super) failed: Option<NodeCookie>,
}

impl Sharing {
    /// Logs the session in at a node, or waits for whoever is about to. `known` then has the cookie.
    pub(super) async fn enter(self: &Arc<Self>, known: &mut Lookup, errand: Errand<'_>) -> Outcome {
        let Errand { endpoint, nodes, origin, failed } = errand;
        let Some(node) = nodes.find(endpoint) else { return Outcome::UNREACHABLE };
        let login = || {
            let (sharing, session, endpoint, origin) =
                (Arc::clone(self), known.clone(), endpoint.clone(), origin.clone());
            async move { sharing.log_in_once(session, &endpoint, &*node, origin, failed).await }
        };
        let outcome = self.flights.once(known.key, endpoint, login).await;
        if let Outcome::In(cookie) = &outcome {
            known.session.set(endpoint, Some(cookie.clone()));
        }
        outcome
    }

    /// The one login for all who wait.
    async fn log_in_once(
        &self,
        mut known: Lookup,
        endpoint: &EndpointId,
        node: &dyn Node,
        origin: HeaderMap,
        failed: Option<NodeCookie>,
    ) -> Outcome {
        let fingerprint = self.keep.fingerprint(known.session.login());
        let gate = self.flights.gate(fingerprint);
        let Ok(_turn) = timeout(self.login_timeout, gate.lock()).await else {
            return Outcome::Unready(SendErrorKind::HeadTimeout);
        };
        // What the near cache has may be old: another front end may have logged in, or the user out.
        match self.keep.find_again(&known).await {
            Found::Session(found) => known = *found,
            Found::Absent => return Outcome::Gone,
            Found::Unsure => {}
        }
        if let Some(cookie) = known.session.cookie(endpoint).filter(|cookie| failed.as_ref() != Some(*cookie)) {
            return Outcome::In(cookie.clone());
        }
        if self.flights.is_refused(&fingerprint) || self.keep.is_refused(&fingerprint).await {
            self.keep.remove(&known.key).await;
            return Outcome::Refused;
        }
        let login = known.session.login().clone();
        let outcome = log_in(node, &login, origin.clone(), &self.cookies, self.login_timeout).await;
        match outcome {
            Outcome::In(own) => self.announce(known, endpoint, node, origin, failed, own).await,
            Outcome::Refused => {
                tracing::info!(%endpoint, "a node refused a session's login, which is not tried again");
                self.refuse(&known).await;
                Outcome::Refused
            }
            outcome => outcome,
        }
    }

    /// Tells the other front ends of the node's cookie. The first one that they hear of counts.
    async fn announce(
        &self,
        mut known: Lookup,
        endpoint: &EndpointId,
        node: &dyn Node,
        origin: HeaderMap,
        failed: Option<NodeCookie>,
        own: NodeCookie,
    ) -> Outcome {
        let mut first = None;
        let changed = self.keep.change(&mut known, |session| {
            first = session.cookie(endpoint).filter(|cookie| failed.as_ref() != Some(*cookie)).cloned();
            session.set(endpoint, Some(own.clone()));
            first.is_none()
        });
        let outcome = match changed.await {
            true => Outcome::In(first.clone().unwrap_or_else(|| own.clone())),
            false => Outcome::Gone,
        };
        tracing::debug!(%endpoint, "logged a session in at a node");
        // A session at the node that nobody will use.
        if first.is_some() || matches!(outcome, Outcome::Gone) {
            let _ = timeout(self.logout_timeout, node.send_boxed(logout(None, &origin, &own))).await;
        }
        outcome
    }

    /// The login of a session was refused: it ends, and its credentials are not tried again.
    pub(super) async fn refuse(&self, known: &Lookup) {
        let fingerprint = self.keep.fingerprint(known.session.login());
        self.flights.refuse(fingerprint);
        self.keep.refuse(&fingerprint).await;
        self.keep.remove(&known.key).await;
    }

    /// Ends a session that is removed already at all nodes but `except`: as well as it goes, within a deadline. `like` is how the
    /// client has asked for it, which its generation of Kylin understands.
    pub(super) async fn log_out(
        &self,
        known: &Lookup,
        except: Option<&EndpointId>,
        nodes: &dyn Nodes,
        origin: &HeaderMap,
        like: Option<(&Method, &Uri)>,
    ) {
        let mut logouts = JoinSet::new();
        for (endpoint, cookie) in known.session.nodes().filter(|(endpoint, _)| Some(*endpoint) != except) {
            if let Some(node) = nodes.find(endpoint) {
                let request = logout(like, origin, cookie);
                logouts.spawn(async move { drop(node.send_boxed(request).await) });
            }
        }
        let all = async { while logouts.join_next().await.is_some() {} };
        if timeout(self.logout_timeout, all).await.is_err() {
            tracing::debug!("not every node has confirmed a logout in time");
        }
    }
}

fn logout(like: Option<(&Method, &Uri)>, origin: &HeaderMap, cookie: &NodeCookie) -> Request<Body> {
    let mut request = Request::new(Body::empty());
    match like {
        Some((method, uri)) => {
            *request.method_mut() = method.clone();
            *request.uri_mut() = uri.clone();
        }
        // Kylin 5 has everything below /api.
        None if cookie.is_jsessionid() => *request.uri_mut() = Uri::from_static("/kylin/j_spring_security_logout"),
        None => *request.uri_mut() = Uri::from_static("/kylin/api/j_spring_security_logout"),
    }
    *request.headers_mut() = origin.clone();
    request.headers_mut().entry(header::HOST).or_insert(HeaderValue::from_static(""));
    cookie::put(request.headers_mut(), None, Some(cookie));
    request
}
