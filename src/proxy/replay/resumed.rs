use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};

use crate::body::{Body, BodyError};

/// A body whose beginning was read: yields those bytes, then the error if reading on failed, then the rest.
pub(super) struct Resumed {
    read: Bytes,
    error: Option<BodyError>,
    rest: Body,
}

impl Resumed {
    pub(super) fn new(read: Bytes, error: Option<BodyError>, rest: Body) -> Self {
        Resumed { read, error, rest }
    }
}

impl From<Resumed> for Body {
    fn from(resumed: Resumed) -> Self {
        Body::new(resumed)
    }
}

impl HttpBody for Resumed {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match std::mem::take(&mut self.read) {
            read if !read.is_empty() => Poll::Ready(Some(Ok(Frame::data(read)))),
            _ => match self.error.take() {
                Some(error) => Poll::Ready(Some(Err(error))),
                None => Pin::new(&mut self.rest).poll_frame(cx),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.read.is_empty() && self.error.is_none() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let read = self.read.len() as u64;
        let rest = self.rest.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(read + rest.lower());
        if let Some(upper) = rest.upper() {
            hint.set_upper(read + upper);
        }
        hint
    }
}
