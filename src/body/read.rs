//! Reads a body: polls its source, applies its limits, and runs the actions at its end.

use std::mem::{replace, take};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};

use super::{Body, BodyEnd, BodyError, Joined, Kind};

/// The number of bytes that [`Body::read_ahead`] reads before it stops: about one write.
const MAX_AHEAD: usize = 4096;

impl Body {
    /// Reads the available part of a stream, up to `MAX_AHEAD`, without waiting for more. The
    /// reader still gets it.
    ///
    /// # Errors
    /// The error of a body that has already failed. The reader then gets no byte of it.
    pub(crate) fn read_ahead(&mut self, cx: &mut Context<'_>) -> Result<(), BodyError> {
        let mut ahead = Joined::default();
        ahead.push(take(&mut self.ahead));
        while !self.is_whole() && ahead.len() < MAX_AHEAD {
            let Poll::Ready(frame) = self.poll_checked(cx) else { break };
            let is_end = frame.is_none() || self.source_is_end();
            if let Some(Ok(data)) = frame.transpose()?.map(Frame::into_data) {
                ahead.push(data);
            }
            if is_end {
                self.kind = Kind::Full(take(&mut ahead).into_bytes());
                (self.allowance, self.is_exact) = (u64::MAX, false);
            }
        }
        self.ahead = ahead.into_bytes();
        Ok(())
    }

    /// Puts bytes back that were read from the body. Its reader gets them first.
    pub(crate) fn put_back(mut self, read: Bytes) -> Self {
        self.ahead = read;
        self
    }

    /// Returns whether the body is not a stream.
    fn is_whole(&self) -> bool {
        matches!(self.kind, Kind::Empty | Kind::Full(_))
    }

    /// Polls for the next frame. Unlike [`poll_frame`](HttpBody::poll_frame), returns an error at
    /// once. Meant for readers that write the bytes that preceded the error.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = match take(&mut self.ahead) {
            data if data.is_empty() => ready!(self.poll_checked(cx)),
            data => Some(Ok(Frame::data(data))),
        };
        match &frame {
            None => self.finish(true),
            Some(Err(error)) => {
                if let Some(lease) = &mut self.lease {
                    lease.set_outcome(error.outcome());
                }
                self.finish_with(BodyEnd::Failed(error));
            }
            Some(Ok(frame)) => {
                if let Some(tap) = &mut self.tap {
                    tap.data(frame.data_ref().map_or(&[], |bytes| bytes));
                }
                if self.is_end_stream() {
                    self.finish(true);
                }
            }
        }
        Poll::Ready(frame)
    }

    /// Polls the source and applies the limits.
    fn poll_checked(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = match self.poll_source(cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => Some(Err(ready!(self.stall.poll(cx)))),
        };
        self.stall.progress(match &frame {
            Some(Ok(frame)) => frame.data_ref().map_or(0, Bytes::len),
            _ => 0,
        });
        let frame = self.limit(frame);
        let is_last = self.is_exact && self.allowance == 0 && matches!(frame, Some(Ok(_)));
        Poll::Ready(match self.check_end(is_last, cx) {
            Ok(()) => frame,
            Err(error) => Some(Err(error)),
        })
    }

    /// Fails if the source has more data after the last byte of a declared length, as far as that
    /// is known without waiting.
    fn check_end(&mut self, is_last: bool, cx: &mut Context<'_>) -> Result<(), BodyError> {
        while is_last && !self.source_is_end() {
            match self.poll_source(cx) {
                Poll::Pending => break,
                Poll::Ready(None) => self.kind = Kind::Empty,
                Poll::Ready(Some(frame)) => {
                    if frame?.into_data().is_ok_and(|data| !data.is_empty()) {
                        return Err(BodyError::longer_than_declared());
                    }
                }
            }
        }
        Ok(())
    }

    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.kind {
            Kind::Empty => Poll::Ready(None),
            Kind::Failed(_) => match replace(&mut self.kind, Kind::Empty) {
                Kind::Failed(error) => Poll::Ready(Some(Err(error))),
                _ => Poll::Ready(None),
            },
            Kind::Full(bytes) => match take(bytes) {
                bytes if bytes.is_empty() => Poll::Ready(None),
                bytes => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            },
            #[cfg(any(feature = "client", feature = "server", feature = "test-util"))]
            Kind::Incoming(incoming) => Pin::new(incoming)
                .poll_frame(cx)
                .map(|frame| frame.map(|frame| frame.map_err(|error| BodyError::Source(error.into())))),
            Kind::Boxed(body) => body.poll_frame(cx),
        }
    }

    /// Applies the limits to a frame.
    fn limit(&mut self, frame: Option<Result<Frame<Bytes>, BodyError>>) -> Option<Result<Frame<Bytes>, BodyError>> {
        match &frame {
            Some(Ok(frame)) if self.drop_trailers && frame.is_trailers() => return None,
            Some(Ok(frame)) if self.allowance != u64::MAX => {
                let length = frame.data_ref().map_or(0, Bytes::len) as u64;
                match self.allowance.checked_sub(length) {
                    Some(rest) => self.allowance = rest,
                    None if self.is_exact => {
                        return Some(Err(BodyError::longer_than_declared()));
                    }
                    None => return Some(Err(BodyError::TooLarge)),
                }
            }
            None if self.is_exact && self.allowance > 0 => {
                return Some(Err(BodyError::shorter_than_declared()));
            }
            _ => {}
        }
        frame
    }

    fn source_is_end(&self) -> bool {
        if self.is_exact && self.allowance > 0 {
            return false;
        }
        match &self.kind {
            Kind::Empty => true,
            Kind::Full(bytes) => bytes.is_empty(),
            Kind::Failed(_) => false,
            #[cfg(any(feature = "client", feature = "server", feature = "test-util"))]
            Kind::Incoming(incoming) => incoming.is_end_stream(),
            Kind::Boxed(body) => body.is_end_stream(),
        }
    }

    pub(super) fn finish(&mut self, whole: bool) {
        self.finish_with(if whole { BodyEnd::Complete } else { BodyEnd::Dropped });
    }

    fn finish_with(&mut self, end: BodyEnd<'_>) {
        // Most bodies are empty and have nothing to do at their end.
        if self.on_end.is_none()
            && self.lease.is_none()
            && self.tap.is_none()
            && self.guards.iter().all(Option::is_none)
            && self.held.is_none()
        {
            return;
        }
        if let Some(hook) = self.on_end.take() {
            hook.on_end(matches!(end, BodyEnd::Complete));
        }
        self.lease = None;
        self.guards = [const { None }; 2];
        self.held = None;
        // Comes last, so that an observer sees the request as no longer in flight.
        if let Some(mut tap) = self.tap.take() {
            tap.end(end);
        }
    }
}

/// Adds bytes that precede a body to its size.
fn add(source: SizeHint, before: u64) -> SizeHint {
    let mut hint = SizeHint::new();
    hint.set_lower(before + source.lower());
    if let Some(upper) = source.upper() {
        hint.set_upper(before + upper);
    }
    hint
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    /// Polls for the next frame. Before an error, it is pending once. Servers such as hyper's drop
    /// unwritten bytes when a body fails, and a client whose connection closes without a byte
    /// repeats its request.
    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let was_told = matches!(self.kind, Kind::Failed(_));
        match ready!(self.poll_next(cx)) {
            Some(Err(error)) if !was_told => {
                self.kind = Kind::Failed(error);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            frame => Poll::Ready(frame),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ahead.is_empty() && self.source_is_end()
    }

    fn size_hint(&self) -> SizeHint {
        let source = match &self.kind {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Failed(_) => SizeHint::new(),
            #[cfg(any(feature = "client", feature = "server", feature = "test-util"))]
            Kind::Incoming(incoming) => incoming.size_hint(),
            Kind::Boxed(body) => body.size_hint(),
        };
        match self.ahead.len() as u64 {
            0 => source,
            ahead => add(source, ahead),
        }
    }
}
