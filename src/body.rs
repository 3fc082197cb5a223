//! The one body type of requests and answers.
//!
//! A body is empty, a single buffer, or a stream. hyper's own body is a variant of its own, so that the common path from
//! a node's socket to a client's socket neither boxes nor copies. What must happen when a body is over (a connection goes
//! back to its pool, an endpoint's count in flight goes down) rides inside the body and happens exactly once: at its end,
//! at its failure, or when it is dropped.

use std::any::Any;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use tokio::time::Sleep;

use crate::drop_guard::DropGuard;
use crate::endpoint::{Lease, Outcome};

/// Any error, boxed: what a streamed body may fail with.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A request's or an answer's body: empty, one buffer, or a stream.
///
/// ```
/// use kylin_lb::Body;
///
/// let body = Body::from("{\"sql\":\"select 1\"}");
/// assert_eq!(http_body::Body::size_hint(&body).exact(), Some(18));
/// ```
#[must_use]
pub struct Body {
    kind: Kind,
    on_end: Option<Arc<dyn OnEnd>>,
    lease: Option<Lease>,
    seat: Option<DropGuard>,
    stall: Stall,
    /// How many bytes may still come; more is an error.
    allowance: u64,
    drop_trailers: bool,
}

enum Kind {
    Empty,
    Full(Bytes),
    #[cfg(any(feature = "client", feature = "server", feature = "test-util"))]
    Incoming(hyper::body::Incoming),
    Boxed(UnsyncBoxBody<Bytes, BodyError>),
}

/// Why a body ended before its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BodyError {
    /// Its source kept silent for too long.
    #[error("no byte came for {0:?}")]
    Stalled(Duration),
    /// It is longer than it may be.
    #[error("the body is too large")]
    TooLarge,
    /// Its source failed.
    #[error("the source of the body failed")]
    Source(#[source] BoxError),
}

impl BodyError {
    /// Keeps an error that is one of ours already as it is.
    fn of(error: BoxError) -> Self {
        error.downcast().map_or_else(BodyError::Source, |error| *error)
    }
}

/// What is told, once, that a body is over.
pub(crate) trait OnEnd: Send + Sync {
    /// `whole` is true when the last byte was read, false when the body failed or was dropped before that.
    fn on_end(self: Arc<Self>, whole: bool);
}

impl Body {
    /// A body of no bytes.
    pub const fn empty() -> Self {
        Body::of(Kind::Empty)
    }

    const fn of(kind: Kind) -> Self {
        Body {
            kind,
            on_end: None,
            lease: None,
            seat: None,
            stall: Stall::NEVER,
            allowance: u64::MAX,
            drop_trailers: false,
        }
    }

    /// Wraps any body. A [`Body`] or hyper's `Incoming` passes as it is; anything else is boxed.
    pub fn new<B>(body: B) -> Self
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let body = match downcast::<Body, B>(body) {
            Ok(body) => return body,
            Err(body) => body,
        };
        #[cfg(any(feature = "client", feature = "server", feature = "test-util"))]
        let body = match downcast::<hyper::body::Incoming, B>(body) {
            Ok(incoming) => return incoming.into(),
            Err(body) => body,
        };
        if body.is_end_stream() {
            return Body::empty();
        }
        Kind::Boxed(body.map_err(|error| BodyError::of(error.into())).boxed_unsync()).into()
    }

    /// True when the whole body is known and empty.
    pub(crate) fn is_empty(&self) -> bool {
        match &self.kind {
            Kind::Empty => true,
            Kind::Full(bytes) => bytes.is_empty(),
            _ => self.is_end_stream(),
        }
    }

    /// All bytes of the body, when they are here.
    pub(crate) fn whole(&self) -> Option<&Bytes> {
        static NOTHING: Bytes = Bytes::new();
        match &self.kind {
            Kind::Empty => Some(&NOTHING),
            Kind::Full(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// All bytes of the body, when they are here, and the body is over.
    #[cfg_attr(
        not(any(feature = "client", feature = "server")),
        allow(dead_code, reason = "only transports end bodies")
    )]
    pub(crate) fn take_whole(&mut self) -> Option<Bytes> {
        match &mut self.kind {
            Kind::Empty => Some(Bytes::new()),
            Kind::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                self.finish(true);
                Some(bytes)
            }
            _ => None,
        }
    }

    /// A second body with the same bytes, when the bytes are all here.
    pub(crate) fn replay(&self) -> Option<Body> {
        match &self.kind {
            Kind::Empty => Some(Body::empty()),
            Kind::Full(bytes) => Some(bytes.clone().into()),
            _ => None,
        }
    }

    /// Has `hook` told when this body is over. A body has one hook: its transport sets it, before anybody else sees the body.
    #[cfg_attr(not(feature = "server"), allow(dead_code, reason = "only transports hook into a body's end"))]
    pub(crate) fn on_end(mut self, hook: Arc<dyn OnEnd>) -> Self {
        self.on_end = Some(hook);
        if self.is_end_stream() {
            self.finish(true);
        }
        self
    }

    /// Keeps `lease` and a session's `seat` until this body, an answer's, is over. A body that fails before its end counts
    /// against the endpoint. Trailers are dropped.
    pub(crate) fn pass(&mut self, lease: Lease, seat: Option<DropGuard>) {
        if !self.is_end_stream() {
            (self.lease, self.seat, self.drop_trailers) = (Some(lease), seat, true);
        }
    }

    /// Fails the body when its source keeps the reader waiting for longer than `limit` at a stretch. Time that the reader
    /// itself takes does not count.
    pub(crate) fn stall_after(mut self, limit: Duration) -> Self {
        self.stall.limit = Some(limit);
        self
    }

    /// Fails the body when more than `bytes` come.
    pub(crate) fn at_most(mut self, bytes: u64) -> Self {
        self.allowance = bytes;
        self
    }

    /// Reads the whole body. A longer one than `max` bytes fails with [`BodyError::TooLarge`].
    pub(crate) async fn collect_up_to(self, max: u64) -> Result<Bytes, BodyError> {
        Ok(self.at_most(max).collect().await?.to_bytes())
    }

    /// Ends the body before its trailers. A proxy must not merge them into a head, and nginx and Envoy drop them too.
    pub(crate) fn without_trailers(mut self) -> Self {
        self.drop_trailers = true;
        self
    }

    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.kind {
            Kind::Empty => Poll::Ready(None),
            Kind::Full(bytes) => match std::mem::take(bytes) {
                bytes if bytes.is_empty() => Poll::Ready(None),
                bytes => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            },
            #[cfg(any(feature = "client", feature = "server", feature = "test-util"))]
            Kind::Incoming(incoming) => Pin::new(incoming)
                .poll_frame(cx)
                .map(|frame| frame.map(|frame| frame.map_err(|error| BodyError::Source(error.into())))),
            Kind::Boxed(body) => Pin::new(body).poll_frame(cx),
        }
    }

    /// Applies the limits to what came.
    fn admit(&mut self, frame: Option<Result<Frame<Bytes>, BodyError>>) -> Option<Result<Frame<Bytes>, BodyError>> {
        match &frame {
            Some(Ok(frame)) if self.drop_trailers && frame.is_trailers() => return None,
            Some(Ok(frame)) if self.allowance != u64::MAX => {
                let length = frame.data_ref().map_or(0, Bytes::len) as u64;
                match self.allowance.checked_sub(length) {
                    Some(rest) => self.allowance = rest,
                    None => return Some(Err(BodyError::TooLarge)),
                }
            }
            _ => {}
        }
        frame
    }

    fn finish(&mut self, whole: bool) {
        if let Some(hook) = self.on_end.take() {
            hook.on_end(whole);
        }
        self.lease = None;
        self.seat = None;
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let source = this.poll_source(cx);
        let frame = match source {
            Poll::Ready(frame) => frame,
            Poll::Pending => Some(Err(ready!(this.stall.poll(cx)))),
        };
        this.stall.progress();
        let frame = this.admit(frame);
        match &frame {
            None => this.finish(true),
            Some(Err(_)) => {
                if let Some(lease) = &mut this.lease {
                    lease.set_outcome(Outcome::Failure);
                }
                this.finish(false);
            }
            Some(Ok(_)) if this.is_end_stream() => this.finish(true),
            Some(Ok(_)) => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Empty => true,
            Kind::Full(bytes) => bytes.is_empty(),
            #[cfg(any(feature = "client", feature = "server", feature = "test-util"))]
            Kind::Incoming(incoming) => incoming.is_end_stream(),
            Kind::Boxed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            #[cfg(any(feature = "client", feature = "server", feature = "test-util"))]
            Kind::Incoming(incoming) => incoming.size_hint(),
            Kind::Boxed(body) => body.size_hint(),
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.finish(false);
    }
}

impl Default for Body {
    fn default() -> Self {
        Body::empty()
    }
}

impl From<Kind> for Body {
    fn from(kind: Kind) -> Self {
        Body::of(kind)
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        if bytes.is_empty() { Body::empty() } else { Kind::Full(bytes).into() }
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Bytes::from_static(text.as_bytes()).into()
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Bytes::from(text).into()
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

#[cfg(any(feature = "client", feature = "server", feature = "test-util"))]
impl From<hyper::body::Incoming> for Body {
    fn from(incoming: hyper::body::Incoming) -> Self {
        if incoming.is_end_stream() { Body::empty() } else { Kind::Incoming(incoming).into() }
    }
}

impl fmt::Debug for Body {
    /// Shows the kind and size, never the content: a body may hold SQL or a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.kind {
            Kind::Empty => "empty",
            Kind::Full(_) => "full",
            #[cfg(any(feature = "client", feature = "server", feature = "test-util"))]
            Kind::Incoming(_) => "incoming",
            Kind::Boxed(_) => "streamed",
        };
        f.debug_struct("Body").field("kind", &kind).field("size", &self.size_hint()).finish()
    }
}

/// Watches for a source that has gone silent. Makes its timer only when a reader has to wait.
struct Stall {
    limit: Option<Duration>,
    timer: Option<Pin<Box<Sleep>>>,
    waiting: bool,
}

impl Stall {
    const NEVER: Stall = Stall { limit: None, timer: None, waiting: false };

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<BodyError> {
        let Some(limit) = self.limit else { return Poll::Pending };
        let timer = match &mut self.timer {
            Some(timer) => {
                if !self.waiting {
                    timer.set(tokio::time::sleep(limit));
                }
                timer
            }
            none => none.insert(Box::pin(tokio::time::sleep(limit))),
        };
        self.waiting = true;
        timer.as_mut().poll(cx).map(|()| BodyError::Stalled(limit))
    }

    fn progress(&mut self) {
        self.waiting = false;
    }
}

/// `value` as a `T` when that is what it is.
fn downcast<T: 'static, U: 'static>(value: U) -> Result<T, U> {
    let mut value = Some(value);
    let slot: &mut dyn Any = &mut value;
    match slot.downcast_mut::<Option<T>>().and_then(Option::take) {
        Some(same) => Ok(same),
        None => Err(value.expect("taken only when it is a T")),
    }
}
