//! One request to every node that answers queries, and one answer made of theirs.

use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use tokio::time::timeout;

use crate::backend::Backend;
use crate::balance::Tried;
use crate::body::Body;
use crate::cluster::Cluster;
use crate::endpoint::{EndpointId, Intent, Outcome, Role};
use crate::kylin::fan_out::{Merge, best, concat};
use crate::proxy::answer::Refusal;
use crate::proxy::upload;
use crate::request::{ClientAddr, RequestView};

/// How long a node may take: it has nothing to compute.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest answer that is merged; a list of running queries with their SQL.
const LONGEST: usize = 4 << 20;
const UNKEPT: Refusal =
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "the body of the request is too large to be sent to all nodes");
const NOBODY: &str = "no node that answers queries could be reached";

/// Asks every node of `cluster` that has the role of answering queries, all at once.
pub(in crate::proxy) async fn fan_out<B: Backend>(
    cluster: &Cluster<B>,
    client: ClientAddr,
    merge: Merge,
    mut request: Request<Body>,
) -> Result<Response<Body>, Refusal> {
    // Compressed answers could not be joined.
    request.headers_mut().remove(header::ACCEPT_ENCODING);
    let mut asked: Vec<Pin<Box<dyn Future<Output = Option<Whole>> + Send + '_>>> = Vec::new();
    for id in nodes(cluster) {
        let request = upload::copy(&request).ok_or(UNKEPT)?;
        asked.push(Box::pin(async move { timeout(PATIENCE, ask(cluster, client, &id, request)).await.ok()? }));
    }
    let total = asked.len();
    let answers: Vec<Whole> = all(asked).await.into_iter().flatten().collect();
    let heard = answers.len();
    if heard < total {
        tracing::warn!(heard, total, "not every node has answered a request that goes to all");
    }
    let place =
        best(answers.iter().map(|answer| answer.status())).ok_or(Refusal::new(StatusCode::BAD_GATEWAY, NOBODY))?;
    let good = || answers.iter().filter(|answer| answer.status().is_success());
    let merged = match merge {
        Merge::Concat if good().next().is_some() => Some(concat(good().map(|answer| &answer.body()[..])).0),
        _ => None,
    };
    let mut answer = answers.into_iter().nth(place).ok_or(Refusal::new(StatusCode::BAD_GATEWAY, NOBODY))?;
    if let Some(merged) = merged {
        *answer.body_mut() = merged.into();
        let headers = answer.headers_mut();
        // They describe one node's answer.
        headers.remove(header::ETAG);
        headers.remove(header::CONTENT_ENCODING);
    }
    let length = HeaderValue::from(answer.body().len());
    answer.headers_mut().insert(header::CONTENT_LENGTH, length);
    Ok(answer.map(Body::from))
}

type Whole = Response<Bytes>;

fn nodes<B>(cluster: &Cluster<B>) -> Vec<EndpointId> {
    let endpoints = cluster.status().endpoints.into_iter();
    endpoints
        .filter(|endpoint| endpoint.roles.has(Role::Query) && endpoint.intent != Intent::Maintain)
        .map(|endpoint| endpoint.id)
        .collect()
}

/// The answer of the node called `id`; none when it gives none.
async fn ask<B: Backend>(
    cluster: &Cluster<B>,
    client: ClientAddr,
    id: &EndpointId,
    request: Request<Body>,
) -> Option<Whole> {
    let mut picked = cluster.pick_bound(&RequestView::of(&request, client), &Tried::none(), id.as_str()).ok()?;
    if picked.lease.endpoint() != id {
        // It cannot serve, and another was picked that is asked anyway.
        return None;
    }
    let answer = match picked.backend.send(request).await {
        Ok(answer) => answer,
        Err(error) => {
            let outcome = if error.phase().blames_node() { Outcome::Failure } else { Outcome::Unknown };
            picked.lease.set_outcome(outcome);
            return None;
        }
    };
    picked.lease.set_outcome(Outcome::Success);
    let (head, mut body) = answer.into_parts();
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.ok()?.into_data() {
            whole.extend_from_slice(&data);
        }
        if whole.len() > LONGEST {
            return None;
        }
    }
    Some(Response::from_parts(head, whole.freeze()))
}

/// Waits for all of `futures`. They are few: one a node.
async fn all<T>(mut futures: Vec<Pin<Box<dyn Future<Output = T> + Send + '_>>>) -> Vec<T> {
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
