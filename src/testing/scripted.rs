//! A backend with scripted responses, for tests of the code above a backend.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{Request, Response, StatusCode};
use parking_lot::Mutex;

use crate::backend::{Backend, SendError, SendErrorKind};
use crate::body::Body;

type ScriptedResult = Result<Response<Body>, SendError>;
type ScriptedFuture = Pin<Box<dyn Future<Output = ScriptedResult> + Send>>;

/// A [`Backend`] that follows a script and counts its calls. Clones share the script and the count.
///
/// ```
/// use http::{Request, StatusCode};
/// use kylin_lb::backend::{Backend, SendErrorKind};
/// use kylin_lb::testing::{Scripted, Step};
/// use kylin_lb::Body;
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let backend = Scripted::steps([Step::Fail(SendErrorKind::Broken), Step::Respond(StatusCode::OK, "hello")]);
/// assert_eq!(backend.send(Request::default()).await.unwrap_err().kind(), SendErrorKind::Broken);
/// assert_eq!(backend.send(Request::default()).await.unwrap().status(), StatusCode::OK);
/// assert_eq!(backend.calls(), 2);
/// # });
/// ```
#[derive(Clone)]
pub struct Scripted {
    script: Arc<dyn Fn(Request<Body>) -> ScriptedFuture + Send + Sync>,
    calls: Arc<AtomicUsize>,
}

/// One step of a script.
#[derive(Debug, Clone, Copy)]
pub enum Step {
    /// Responds with this status and body.
    Respond(StatusCode, &'static str),
    /// Fails. The error contains the request if its kind means that nothing was sent.
    Fail(SendErrorKind),
}

impl Scripted {
    /// Responds to each request with the result of `respond`.
    pub fn new<F, R>(respond: F) -> Self
    where
        F: Fn(Request<Body>) -> R + Send + Sync + 'static,
        R: Future<Output = ScriptedResult> + Send + 'static,
    {
        Scripted { script: Arc::new(move |request| Box::pin(respond(request))), calls: Arc::default() }
    }

    /// Follows `steps` in order, then repeats the last one. Without steps, it responds with 200 and
    /// no body.
    pub fn steps(steps: impl IntoIterator<Item = Step>) -> Self {
        let steps = Mutex::new(steps.into_iter().collect::<VecDeque<_>>());
        Scripted::new(move |request| {
            let mut steps = steps.lock();
            let step = if steps.len() > 1 { steps.pop_front() } else { steps.front().copied() };
            std::future::ready(step.unwrap_or(Step::Respond(StatusCode::OK, "")).play(request))
        })
    }

    /// Always responds with `status` and `body`.
    pub fn responding(status: StatusCode, body: &'static str) -> Self {
        Scripted::steps([Step::Respond(status, body)])
    }

    /// Always fails with this `kind`.
    pub fn failing(kind: SendErrorKind) -> Self {
        Scripted::steps([Step::Fail(kind)])
    }

    /// Returns the number of requests that were sent to this backend.
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

impl Step {
    fn play(self, request: Request<Body>) -> ScriptedResult {
        match self {
            Step::Respond(status, body) => {
                let mut response = Response::new(Body::from(body));
                *response.status_mut() = status;
                Ok(response)
            }
            Step::Fail(kind) if kind.is_unsent() => Err(SendError::new(kind, "scripted").with_request(request)),
            Step::Fail(kind) => Err(SendError::new(kind, "scripted")),
        }
    }
}

impl Backend for Scripted {
    fn send(&self, request: Request<Body>) -> impl Future<Output = ScriptedResult> + Send {
        self.calls.fetch_add(1, Ordering::SeqCst);
        (self.script)(request)
    }
}

impl fmt::Debug for Scripted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scripted").field("calls", &self.calls()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn steps_are_followed_in_order_and_the_last_one_repeats() {
        let backend = Scripted::steps([Step::Fail(SendErrorKind::Connect), Step::Respond(StatusCode::ACCEPTED, "x")]);
        let mut refused = backend.send(Request::new(Body::from("kept"))).await.unwrap_err();
        assert_eq!(refused.kind(), SendErrorKind::Connect);
        assert!(refused.take_request().is_some(), "an unsent request comes back");
        for _ in 0..2 {
            assert_eq!(backend.send(Request::default()).await.unwrap().status(), StatusCode::ACCEPTED);
        }
        assert_eq!(backend.clone().calls(), 3);
    }

    #[tokio::test]
    async fn a_closure_sees_the_request() {
        let backend = Scripted::new(|request: Request<Body>| async move {
            Ok(Response::new(Body::from(request.uri().path().to_owned())))
        });
        let response = backend.send(Request::builder().uri("/here").body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(http_body::Body::size_hint(response.body()).exact(), Some(5));
    }
}
