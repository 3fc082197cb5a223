use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use sync_wrapper::SyncWrapper;

use super::{BodyError, BoxError};

/// Any body, boxed. It is `Sync` although the body need not be, because it is accessed only
/// exclusively. For that reason its end and size are read after each frame.
pub(super) struct Boxed {
    body: SyncWrapper<UnsyncBoxBody<Bytes, BodyError>>,
    is_end_stream: bool,
    size_hint: SizeHint,
}

impl Boxed {
    pub(super) fn new<B>(body: B) -> Self
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let body = body.map_err(|error| BodyError::from_source(error.into())).boxed_unsync();
        Boxed { is_end_stream: body.is_end_stream(), size_hint: body.size_hint(), body: SyncWrapper::new(body) }
    }

    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let body = self.body.get_mut();
        let frame = Pin::new(&mut *body).poll_frame(cx);
        (self.is_end_stream, self.size_hint) = (body.is_end_stream(), body.size_hint());
        frame
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.is_end_stream
    }

    #[allow(clippy::clone_on_copy, reason = "`Copy` since http-body 1.1 only")]
    pub(super) fn size_hint(&self) -> SizeHint {
        self.size_hint.clone()
    }
}
