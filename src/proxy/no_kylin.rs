//! What stands in for the room `kylin` where its feature is off: types without values, so that the journey reads the same.

use bytes::Bytes;
use http::{Request, Response};

use super::affinity::Session;
use super::answer::Refusal;
use crate::backend::{Backend, Phase};
use crate::body::Body;
use crate::cluster::{Cluster, Picked};
use crate::endpoint::{EndpointId, Outcome, Role};
use crate::request::{ClientAddr, QueryKeys};

#[derive(Debug)]
pub(super) enum Rules {}

pub(super) struct Visit<'p>(&'p Rules);

pub(super) enum Merge {}

pub(super) enum Watch {}

#[derive(PartialEq)]
#[allow(dead_code, reason = "the journey compares with these")]
pub(super) enum Next {
    Deliver,
    Elsewhere,
    SessionOwner,
}

pub(super) struct Judged {
    pub(super) outcome: Outcome,
    pub(super) next: Next,
    pub(super) costs: bool,
}

impl<'p> Visit<'p> {
    pub(super) fn enter(rules: &'p Rules, _client: ClientAddr, _request: &mut Request<Body>) -> Result<Self, Refusal> {
        match *rules {}
    }

    pub(super) fn read_sql(&mut self, _request: &Request<Body>) {
        match *self.0 {}
    }

    pub(super) fn role(&self) -> (Option<Role>, bool) {
        match *self.0 {}
    }

    pub(super) fn keys(&self) -> Option<QueryKeys> {
        match *self.0 {}
    }

    pub(super) fn pinned(&self) -> Option<EndpointId> {
        match *self.0 {}
    }

    pub(super) fn merge(&self) -> Option<Merge> {
        match *self.0 {}
    }

    pub(super) fn wants_copy(&self) -> bool {
        match *self.0 {}
    }

    pub(super) fn goes_on_after(&self, _phase: Phase, _is_out: bool) -> bool {
        match *self.0 {}
    }

    pub(super) fn must_see(&self, _answer: &Response<Body>) -> Option<usize> {
        match *self.0 {}
    }

    pub(super) fn judge(&self, _answer: &Response<Body>, _seen: Option<Bytes>) -> Judged {
        match *self.0 {}
    }

    pub(super) fn draw(&self) -> bool {
        match *self.0 {}
    }

    pub(super) fn settle(&self, _endpoint: &EndpointId, _answer: &Response<Body>) {
        match *self.0 {}
    }

    pub(super) fn watch<B: Backend>(&self, _picked: &Picked<B>, _request: &mut Request<Body>) -> Option<Watch> {
        match *self.0 {}
    }
}

impl Watch {
    pub(super) fn disarm(self) {
        match self {}
    }
}

pub(super) async fn fan_out<B>(
    _cluster: &Cluster<B>,
    _client: ClientAddr,
    _session: &mut Session<'_>,
    merge: Merge,
    _request: Request<Body>,
) -> Result<Response<Body>, Refusal> {
    match merge {}
}

pub(super) async fn peek(answer: Response<Body>, _most: usize) -> (Bytes, Response<Body>) {
    (Bytes::new(), answer)
}
