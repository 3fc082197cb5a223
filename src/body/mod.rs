//! The body type of both requests and responses.
//!
//! A body is empty, a single buffer, or a stream. The body of hyper has its own variant, so the
//! common path from a node's socket to a client's socket neither boxes nor copies. When a body
//! ends, fails or is dropped, it runs its actions, each exactly once. Examples are that a
//! connection returns to its pool, and that the request is no longer in flight.

mod boxed;
mod collect;
mod connect_timer;
mod error;
mod joined;
mod peek;
mod read;
#[cfg(feature = "server")]
mod spool;
mod stall;

use std::any::Any;
use std::fmt;
use std::mem::take;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body::Body as HttpBody;

pub use self::error::{BodyError, BoxError};

use self::boxed::Boxed;
pub(crate) use self::collect::CollectError;
pub(crate) use self::connect_timer::ConnectTimer;
pub(crate) use self::joined::Joined;
pub(crate) use self::peek::peek;
#[cfg(feature = "server")]
pub(crate) use self::spool::Spool;
use self::stall::Stall;
use crate::client_key::ClientKey;
use crate::drop_guard::DropGuard;
use crate::endpoint::Lease;

/// The body of a request or a response: empty, one buffer, or a stream. It is `Send` and `Sync`.
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
    /// Guards of a response: the session is in use, and the request counts for its client. Guard of
    /// a request: its body streams to the node.
    guards: [Option<DropGuard>; 2],
    /// The value of [`hold_until_end`](Self::hold_until_end).
    held: Option<Box<dyn Any + Send + Sync>>,
    tap: Option<Box<dyn BodyTap>>,
    /// The timer of an observed request.
    connect_timer: Option<ConnectTimer>,
    /// Whether a response is read ahead of its client.
    ahead_limit: Option<ReadAhead>,
    stall: Stall,
    /// The number of bytes that may still come; more is an error.
    allowance: u64,
    /// Whether fewer bytes than the allowance are an error too.
    is_exact: bool,
    drop_trailers: bool,
    /// Bytes that were read from the source but not yet taken by the reader.
    ahead: Bytes,
}

enum Kind {
    Empty,
    Full(Bytes),
    /// The body has failed, and its reader does not know yet.
    Failed(BodyError),
    #[cfg(any(feature = "client", feature = "server", feature = "test-util"))]
    Incoming(hyper::body::Incoming),
    Boxed(Boxed),
}

impl Kind {
    fn of(bytes: Bytes) -> Self {
        if bytes.is_empty() { Kind::Empty } else { Kind::Full(bytes) }
    }
}

const _: fn() = || {
    fn is_send_and_sync<T: Send + Sync>() {}
    is_send_and_sync::<Body>();
};

/// The limit up to which a response may be read ahead of its client.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(feature = "server"), allow(dead_code, reason = "only the server reads responses ahead"))]
pub(crate) struct ReadAhead {
    /// In bytes.
    pub(crate) max: NonZeroUsize,
    /// The client whose share of the budget the bytes count against.
    pub(crate) client: Option<ClientKey>,
}

/// A hook that is called once, at the end of a body.
pub(crate) trait OnEnd: Send + Sync {
    /// Called at the end. `whole` is false if the body failed or was dropped before its last byte.
    fn on_end(self: Arc<Self>, whole: bool);
}

/// Observes the bytes that a reader takes from a body, and the end of the body.
pub(crate) trait BodyTap: Send + Sync {
    /// Called when the reader has taken these bytes.
    fn data(&mut self, bytes: &[u8]);

    /// Called once, when the body has ended.
    fn end(&mut self, end: BodyEnd<'_>);
}

/// The end of a body.
pub(crate) enum BodyEnd<'a> {
    /// The reader took the last byte.
    Complete,
    /// The source failed.
    Failed(&'a BodyError),
    /// The reader dropped the body.
    Dropped,
}

impl Body {
    /// Returns a body of no bytes.
    pub const fn empty() -> Self {
        Body::of(Kind::Empty)
    }

    const fn of(kind: Kind) -> Self {
        Body {
            kind,
            on_end: None,
            lease: None,
            guards: [const { None }; 2],
            held: None,
            tap: None,
            connect_timer: None,
            ahead_limit: None,
            stall: Stall::NEVER,
            allowance: u64::MAX,
            is_exact: false,
            drop_trailers: false,
            ahead: Bytes::new(),
        }
    }

    /// Returns a body that fails with `error`.
    pub(crate) fn failed(error: BodyError) -> Self {
        Body::of(Kind::Failed(error))
    }

    /// Wraps any body. A [`Body`] or hyper's `Incoming` is used as it is; any other body is boxed.
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
        Body::of(Kind::Boxed(Boxed::new(body)))
    }

    /// Returns whether the whole body is known and empty.
    pub(crate) fn is_empty(&self) -> bool {
        self.is_end_stream()
    }

    /// Returns all bytes of the body, if it is not a stream.
    pub(crate) fn whole(&self) -> Option<&Bytes> {
        static NO_BYTES: Bytes = Bytes::new();
        match &self.kind {
            Kind::Empty => Some(&NO_BYTES),
            Kind::Full(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// Takes all bytes of the body and ends it, if it is not a stream.
    #[cfg_attr(
        not(any(feature = "client", feature = "server")),
        allow(dead_code, reason = "only transports end bodies")
    )]
    pub(crate) fn take_whole(&mut self) -> Option<Bytes> {
        match &mut self.kind {
            Kind::Empty => Some(Bytes::new()),
            Kind::Full(bytes) => {
                let bytes = take(bytes);
                if let Some(tap) = &mut self.tap {
                    tap.data(&bytes);
                }
                self.finish(true);
                Some(bytes)
            }
            _ => None,
        }
    }

    /// Returns a second body with the same bytes, if this one is not a stream.
    pub(crate) fn replay(&self) -> Option<Body> {
        Some(self.whole()?.clone().into())
    }

    /// Replaces the bytes of the body, and keeps everything else.
    pub(crate) fn set_whole(&mut self, bytes: Bytes) {
        self.kind = Kind::of(bytes);
    }

    /// Sets the hook for the end of this body. A body has one hook, which its transport sets before
    /// any other code has the body.
    #[cfg_attr(not(feature = "server"), allow(dead_code, reason = "only transports hook into a body's end"))]
    pub(crate) fn on_end(mut self, hook: Arc<dyn OnEnd>) -> Self {
        self.on_end = Some(hook);
        if self.is_end_stream() {
            self.finish(true);
        }
        self
    }

    /// Holds `lease` and `guards` until the node has sent the end of this response body. A failure
    /// of the body counts against the endpoint. Trailers are dropped.
    pub(crate) fn hold(&mut self, lease: Lease, guards: [Option<DropGuard>; 2], ahead: Option<ReadAhead>) {
        if !self.is_end_stream() {
            (self.lease, self.guards, self.drop_trailers) = (Some(lease), guards, true);
            self.ahead_limit = ahead;
        }
    }

    /// Sets the observer of this response body's bytes and end.
    pub(crate) fn set_tap(&mut self, mut tap: Box<dyn BodyTap>) {
        if self.is_end_stream() {
            tap.end(BodyEnd::Complete);
        } else {
            self.tap = Some(tap);
        }
    }

    /// Sets the timer of this request body's connections, even if the body is empty.
    pub(crate) fn set_connect_timer(&mut self, timer: Option<ConnectTimer>) {
        self.connect_timer = timer;
    }

    /// Returns the timer of this request body's connections.
    pub(crate) fn connect_timer(&self) -> Option<&ConnectTimer> {
        self.connect_timer.as_ref()
    }

    /// Returns whether, and for which client, the body may be read ahead.
    #[cfg(feature = "server")]
    pub(crate) fn ahead_limit(&self) -> Option<ReadAhead> {
        self.ahead_limit
    }

    /// Fails the body if its source keeps the reader waiting for a frame for longer than `limit`.
    /// The reader's own time does not count.
    pub(crate) fn stall_after(mut self, limit: Duration) -> Self {
        self.stall = Stall::after(limit);
        self
    }

    /// Fails the body like [`stall_after`](Self::stall_after), and also limits all waits together.
    /// They may take `limit`, plus the time of the received bytes at `min_rate` bytes a second.
    pub(crate) fn paced(mut self, limit: Duration, min_rate: NonZeroU32) -> Self {
        self.stall = Stall::paced(limit, min_rate);
        self
    }

    /// Holds `guard` until the end of this request body.
    pub(crate) fn hold_guard(&mut self, guard: DropGuard) {
        self.guards[0] = Some(guard);
    }

    /// Holds a value, such as a permit, until the body was read to its end, fails or is dropped.
    pub fn hold_until_end(&mut self, value: impl Send + Sync + 'static) {
        if !self.is_end_stream() {
            let value: Box<dyn Any + Send + Sync> = Box::new(value);
            self.held = Some(match self.held.take() {
                Some(held) => Box::new((held, value)),
                None => value,
            });
        }
    }

    /// Drops the guard of this request body.
    pub(crate) fn release_guard(&mut self) {
        self.guards[0] = None;
    }

    /// Fails the body if it exceeds `bytes`.
    pub(crate) fn at_most(mut self, bytes: u64) -> Self {
        self.allowance = bytes;
        self
    }

    /// Fails a body of unknown length if more or fewer than `bytes` come. If more come, the data
    /// that would make the body look complete is withheld.
    pub(crate) fn exactly(&mut self, bytes: u64) {
        if self.is_exact || self.size_hint().exact().is_some() {
            return;
        }
        match bytes.checked_sub(self.ahead.len() as u64) {
            Some(rest) if rest > self.allowance => {}
            Some(rest) => (self.allowance, self.is_exact) = (rest, true),
            None => (self.ahead, self.kind) = (Bytes::new(), Kind::Failed(BodyError::longer_than_declared())),
        }
    }

    /// Ends the body before its trailers, which a proxy must not merge into a head (as in nginx).
    pub(crate) fn without_trailers(mut self) -> Self {
        self.drop_trailers = true;
        self
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

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Body::of(Kind::of(bytes))
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
        if incoming.is_end_stream() { Body::empty() } else { Body::of(Kind::Incoming(incoming)) }
    }
}

impl fmt::Debug for Body {
    /// Shows the kind and size, but never the content, which may contain SQL or a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.kind {
            Kind::Empty => "empty",
            Kind::Full(_) => "full",
            Kind::Failed(_) => "failed",
            #[cfg(any(feature = "client", feature = "server", feature = "test-util"))]
            Kind::Incoming(_) => "incoming",
            Kind::Boxed(_) => "streamed",
        };
        f.debug_struct("Body").field("kind", &kind).field("size", &self.size_hint()).finish()
    }
}

/// Returns `value` as a `T` if that is its type.
fn downcast<T: 'static, U: 'static>(value: U) -> Result<T, U> {
    let mut value = Some(value);
    let slot: &mut dyn Any = &mut value;
    match slot.downcast_mut::<Option<T>>().and_then(Option::take) {
        Some(same) => Ok(same),
        None => Err(value.expect("taken only when it is a T")),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use http_body::Frame;
    use http_body_util::{BodyExt, Full};

    use super::*;

    /// A body that is `Send` and not `Sync`.
    struct NotSync(RefCell<Vec<&'static str>>);

    impl HttpBody for NotSync {
        type Data = Bytes;
        type Error = BoxError;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
            Poll::Ready(self.0.borrow_mut().pop().map(|piece| Ok(Frame::data(Bytes::from_static(piece.as_bytes())))))
        }
    }

    #[tokio::test]
    async fn a_boxed_body_reports_its_end_and_size_after_each_frame() {
        let mut body = Body::new(Full::from("abc"));
        assert_eq!((body.is_end_stream(), body.size_hint().exact()), (false, Some(3)));
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "abc");
        assert_eq!((body.is_end_stream(), body.size_hint().exact()), (true, Some(0)));
    }

    #[tokio::test]
    async fn values_are_held_until_the_end_however_a_body_ends() {
        let value = Arc::new(());
        let held = |mut body: Body| {
            body.hold_until_end(Arc::clone(&value));
            body.hold_until_end(Arc::clone(&value));
            (body, Arc::strong_count(&value) - 1)
        };
        let (mut body, count) = held(Body::from("abc"));
        assert_eq!(count, 2);
        body.frame().await.unwrap().unwrap();
        assert_eq!(Arc::strong_count(&value), 1, "the last byte was read");
        drop(held(Body::from("abc")));
        assert_eq!(Arc::strong_count(&value), 1, "the body was dropped");
        assert_eq!(held(Body::empty()).1, 0, "no byte is to come");
    }

    #[tokio::test]
    async fn a_body_that_is_not_sync_is_wrapped() {
        let body = || Body::new(NotSync(vec!["c", "ab"].into()));
        assert_eq!(body().collect_up_to(3).await.unwrap(), "abc");
        assert!(matches!(body().collect_up_to(2).await, Err(BodyError::TooLarge)));
    }
}
