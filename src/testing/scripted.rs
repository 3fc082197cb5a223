//! A backend whose answers are written down beforehand, for tests of what stands above a backend.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{Request, Response, StatusCode};
use parking_lot::Mutex;

use crate::backend::{Backend, SendError, SendErrorKind};
use crate::body::Body;

type Answer = Result<Response<Body>, SendError>;
type AnswerFuture = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// A [`Backend`] that answers by script and counts its calls. Clones share script and count.
///
/// ```
/// use http::{Request, StatusCode};
/// use kylin_lb::backend::{Backend, SendErrorKind};
/// use kylin_lb::testing::{Scripted, Step};
/// use kylin_lb::Body;
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let backend = Scripted::steps([Step::Fail(SendErrorKind::Broken), Step::Answer(StatusCode::OK, "hello")]);
/// assert_eq!(backend.send(Request::default()).await.unwrap_err().kind(), SendErrorKind::Broken);
/// assert_eq!(backend.send(Request::default()).await.unwrap().status(), StatusCode::OK);
/// assert_eq!(backend.calls(), 2);
/// # });
/// ```
#[derive(Clone)]
pub struct Scripted {
    script: Arc<dyn Fn(Request<Body>) -> AnswerFuture + Send + Sync>,
    calls: Arc<AtomicUsize>,
}

/// One line of a script.
#[derive(Debug, Clone, Copy)]
pub enum Step {
    /// This status and body.
    Answer(StatusCode, &'static str),
    /// No answer. The request comes back inside the error where the phase says that nothing was sent.
    Fail(SendErrorKind),
}

impl Scripted {
    /// Answers each request with what `answer` makes of it.
    pub fn new<F, A>(answer: F) -> Self
    where
        F: Fn(Request<Body>) -> A + Send + Sync + 'static,
        A: Future<Output = Answer> + Send + 'static,
    {
        Scripted { script: Arc::new(move |request| Box::pin(answer(request))), calls: Arc::default() }
    }

    /// Answers with each of `steps` in turn, then with the last one for ever; with 200 and no body when there are none.
    pub fn steps(steps: impl IntoIterator<Item = Step>) -> Self {
        let steps = Mutex::new(steps.into_iter().collect::<VecDeque<_>>());
        Scripted::new(move |request| {
            let mut steps = steps.lock();
            let step = if steps.len() > 1 { steps.pop_front() } else { steps.front().copied() };
            std::future::ready(step.unwrap_or(Step::Answer(StatusCode::OK, "")).play(request))
        })
    }

    /// Always answers with `status` and `body`.
    pub fn answering(status: StatusCode, body: &'static str) -> Self {
        Scripted::steps([Step::Answer(status, body)])
    }

    /// Always fails in `phase`.
    pub fn failing(phase: SendErrorKind) -> Self {
        Scripted::steps([Step::Fail(phase)])
    }

    /// How many requests were sent here, answered or not.
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

impl Step {
    fn play(self, request: Request<Body>) -> Answer {
        match self {
            Step::Answer(status, body) => {
                let mut response = Response::new(Body::from(body));
                *response.status_mut() = status;
                Ok(response)
            }
            Step::Fail(phase) if phase.is_unsent() => Err(SendError::new(phase, "scripted").with_request(request)),
            Step::Fail(phase) => Err(SendError::new(phase, "scripted")),
        }
    }
}

impl Backend for Scripted {
    fn send(&self, request: Request<Body>) -> impl Future<Output = Answer> + Send {
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
    async fn steps_are_played_in_order_and_the_last_one_stays() {
        let backend = Scripted::steps([Step::Fail(SendErrorKind::Connect), Step::Answer(StatusCode::ACCEPTED, "x")]);
        let mut refused = backend.send(Request::new(Body::from("kept"))).await.unwrap_err();
        assert_eq!(refused.kind(), SendErrorKind::Connect);
        assert!(refused.take_request().is_some(), "what was not sent comes back");
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
