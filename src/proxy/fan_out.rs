//! One request to every node that answers queries, and one answer made of theirs.

use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use tokio::time::timeout;

use super::error_response::ErrorResponse;
use super::session::Session;
use crate::backend::{Backend, SendErrorKind};
use crate::balance::Attempted;
use crate::body::Body;
use crate::cluster::{Cluster, Picked};
use crate::endpoint::{AdminState, EndpointId, Outcome, Role};
use crate::kylin::fan_out::{Merge, best, concat};
use crate::proxy::upload;
use crate::request::{ClientAddr, RequestView};
use crate::session::hook::Prepared;

/// How long a node may take: it has nothing to compute.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest answer that is merged; a list of running queries with their SQL.
const LONGEST: usize = 4 << 20;
const UNKEPT: ErrorResponse =
    ErrorResponse::new(StatusCode::PAYLOAD_TOO_LARGE, "the body of the request is too large to be sent to all nodes");
const NOBODY: ErrorResponse =
    ErrorResponse::new(StatusCode::BAD_GATEWAY, "no node that answers queries could be reached");

/// Asks every node of `cluster` that has the role of answering queries, all at once.
pub(super) async fn fan_out<B: Backend>(
    cluster: &Cluster<B>,
    client: ClientAddr,
    session: &mut Session<'_>,
    merge: Merge,
    mut request: Request<Body>,
) -> Result<Response<Body>, ErrorResponse> {
    // Compressed answers could not be joined.
    request.headers_mut().remove(header::ACCEPT_ENCODING);
    let ids = nodes(cluster);
    let mut asked: Vec<Pin<Box<dyn Future<Output = Option<Whole>> + Send>>> = Vec::with_capacity(ids.len());
    for id in &ids {
        let mut request = upload::copy(&request).ok_or(UNKEPT)?;
        let Some(picked) = pick(cluster, client, id, &request) else { continue };
        match session.prepare(cluster, &picked, &mut request).await {
            Prepared::Send => asked.push(Box::pin(ask(picked, request))),
            // It does not let the session in: so it is one that does not answer.
            Prepared::Failed(_) => {}
        }
    }
    let answers: Vec<Whole> = all(asked).await.into_iter().flatten().collect();
    if answers.len() < ids.len() {
        let (heard, total) = (answers.len(), ids.len());
        tracing::warn!(heard, total, "not every node has answered a request that goes to all");
    }
    merged(merge, answers).ok_or(NOBODY)
}

type Whole = Response<Bytes>;

/// One answer made of several; none when there is none.
fn merged(merge: Merge, mut answers: Vec<Whole>) -> Option<Response<Body>> {
    // Where none is a list (an envelope, a page), one of them is better than a list of nothing.
    let is_list = |answer: &Whole| answer.status().is_success() && answer.body().trim_ascii_start().starts_with(b"[");
    let list = match merge {
        Merge::Concat if answers.iter().any(is_list) => {
            answers.retain(is_list);
            let (list, strangers) = concat(answers.iter().map(|answer| &answer.body()[..]));
            (strangers < answers.len()).then_some(list)
        }
        _ => None,
    };
    let place = best(answers.iter().map(|answer| answer.status()))?;
    let mut answer = answers.into_iter().nth(place)?;
    if let Some(list) = list {
        *answer.body_mut() = list.into();
    }
    let length = HeaderValue::from(answer.body().len());
    let headers = answer.headers_mut();
    // They describe one node's answer; a session that only this one has begun is no use to the client.
    for name in [header::ETAG, header::CONTENT_ENCODING, header::TRANSFER_ENCODING, header::SET_COOKIE] {
        headers.remove(name);
    }
    headers.insert(header::CONTENT_LENGTH, length);
    Some(answer.map(Body::from))
}

fn nodes<B>(cluster: &Cluster<B>) -> Vec<EndpointId> {
    let endpoints = cluster.status().endpoints.into_iter();
    endpoints
        .filter(|endpoint| endpoint.roles.has(Role::Query) && endpoint.admin_state != AdminState::Maintenance)
        .map(|endpoint| endpoint.id)
        .collect()
}

/// The endpoint called `id`; none when it cannot serve. Another that is picked in its stead is asked anyway.
fn pick<B: Backend>(
    cluster: &Cluster<B>,
    client: ClientAddr,
    id: &EndpointId,
    request: &Request<Body>,
) -> Option<Picked<B>> {
    let picked = cluster.pick_bound(&RequestView::of(request, client), &Attempted::none(), id.as_str()).ok()?;
    (picked.lease.endpoint() == id).then_some(picked)
}

/// The whole answer of a node; none when it gives none in time.
async fn ask<B: Backend>(mut picked: Picked<B>, request: Request<Body>) -> Option<Whole> {
    let Ok(asked) = timeout(PATIENCE, whole_answer(&**picked.backend(), request)).await else {
        picked.lease.set_outcome(Outcome::Slow);
        return None;
    };
    let (outcome, answer) = match asked {
        Ok(answer) => (Outcome::Success, answer),
        Err(outcome) => (outcome, None),
    };
    picked.lease.set_outcome(outcome);
    answer
}

/// The answer, none when it is too long; or what its failure says of the node.
async fn whole_answer<B: Backend>(backend: &B, request: Request<Body>) -> Result<Option<Whole>, Outcome> {
    let answer = backend.send(request).await.map_err(|error| match error.kind() {
        SendErrorKind::HeadTimeout => Outcome::Slow,
        phase if phase.blames_node() => Outcome::Failure,
        _ => Outcome::Unknown,
    })?;
    let (head, mut body) = answer.into_parts();
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(|_| Outcome::Failure)?.into_data() {
            whole.extend_from_slice(&data);
        }
        if whole.len() > LONGEST {
            return Ok(None);
        }
    }
    Ok(Some(Response::from_parts(head, whole.freeze())))
}

/// Waits for all of `futures`. They are few: one a node.
async fn all<T>(mut futures: Vec<Pin<Box<dyn Future<Output = T> + Send>>>) -> Vec<T> {
    let mut done: Vec<Option<T>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(|cx| {
        for (future, done) in futures.iter_mut().zip(&mut done).filter(|(_, done)| done.is_none()) {
            if let Poll::Ready(value) = future.as_mut().poll(cx) {
                *done = Some(value);
            }
        }
        if done.iter().all(Option::is_some) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    done.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &'static str) -> Whole {
        let mut answer = Response::new(Bytes::from(body));
        *answer.status_mut() = StatusCode::from_u16(status).unwrap();
        answer.headers_mut().insert(header::SET_COOKIE, "JSESSIONID=x".parse().unwrap());
        answer
    }

    #[test]
    fn lists_are_joined_and_where_there_is_none_an_answer_is_passed_on() {
        let merged = |merge, answers: &[(u16, &'static str)]| {
            let answer = merged(merge, answers.iter().map(|(status, body)| answer(*status, body)).collect())?;
            assert!(!answer.headers().contains_key(header::SET_COOKIE));
            let body = answer.body().whole().unwrap().clone();
            assert_eq!(answer.headers()["content-length"], body.len().to_string());
            Some((answer.status().as_u16(), String::from_utf8(body.to_vec()).unwrap()))
        };
        let is = |status, body: &str| Some((status, body.to_owned()));
        let (list, one) = (Merge::Concat, Merge::Best);
        assert_eq!(merged(list, &[(200, "[1]"), (500, "[2]"), (200, " [3,4]")]), is(200, "[1,3,4]"));
        assert_eq!(merged(list, &[(200, "<html>"), (200, "[]"), (200, "[1]")]), is(200, "[1]"));
        assert_eq!(merged(list, &[(502, "x"), (200, "{\"data\":[1]}"), (200, "{}")]), is(200, "{\"data\":[1]}"));
        assert_eq!(merged(list, &[(200, "[oh]"), (200, "[dear]")]), is(200, "[oh]"));
        assert_eq!(merged(list, &[(403, "no"), (502, "x")]), is(403, "no"));
        assert_eq!(merged(one, &[(502, "x"), (200, "[1]"), (200, "[2]")]), is(200, "[1]"));
        assert_eq!(merged(one, &[]), None);
        assert_eq!(merged(list, &[]), None);
    }
}
