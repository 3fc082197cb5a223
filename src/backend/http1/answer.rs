//! The body of an answer, read from its connection, which goes back to the pool at its end.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};

use super::chunks::Piece;
use super::connection::Connection;
use super::parse::Framing;
use super::pool::Pool;
use crate::body::{Body, BodyError};

/// The body that `connection` is about to bring. What is not read to its end takes the connection with it.
pub(super) fn body(mut connection: Box<Connection>, framing: Framing, keeps: bool, pool: &Arc<Pool>) -> Body {
    if let Framing::Length(length) = framing
        && let Ok(length) = usize::try_from(length)
        && length <= connection.read.len()
    {
        // All of it came with the head, as small answers do.
        let whole = connection.read.split_to(length).freeze();
        if keeps && connection.has_sent() {
            pool.put(connection);
        }
        return Body::from(whole);
    }
    Body::new(Answer { connection: Some(connection), framing, keeps, pool: Arc::clone(pool) })
}

struct Answer {
    connection: Option<Box<Connection>>,
    framing: Framing,
    keeps: bool,
    pool: Arc<Pool>,
}

impl Answer {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, BodyError>> {
        let Some(connection) = &mut self.connection else { return Poll::Ready(Ok(None)) };
        // The node answers before it has the whole request: the rest goes on meanwhile. When it cannot, the answer still can.
        if !connection.has_sent()
            && let Poll::Ready(Err(error)) = connection.poll_send(cx)
        {
            tracing::debug!(source = std::error::Error::source(&error), "the rest of an answered request is lost");
            connection.give_up_sending();
        }
        loop {
            let read = &mut connection.read;
            match &mut self.framing {
                Framing::Length(0) => return Poll::Ready(Ok(None)),
                Framing::Length(rest) if !read.is_empty() => {
                    let length = usize::try_from(*rest).unwrap_or(usize::MAX).min(read.len());
                    *rest -= length as u64;
                    return Poll::Ready(Ok(Some(read.split_to(length).freeze())));
                }
                Framing::UntilClose if !read.is_empty() => return Poll::Ready(Ok(Some(read.split().freeze()))),
                Framing::Length(_) | Framing::UntilClose => {}
                Framing::Chunked(chunks) => match chunks.next(read).map_err(source)? {
                    Piece::Data(data) => return Poll::Ready(Ok(Some(data))),
                    Piece::End => return Poll::Ready(Ok(None)),
                    Piece::Wanting => {}
                },
            }
            if ready!(connection.poll_read(cx)).map_err(source)? == 0 {
                return Poll::Ready(match self.framing {
                    Framing::UntilClose => Ok(None),
                    _ => Err(source(std::io::Error::from(std::io::ErrorKind::UnexpectedEof))),
                });
            }
        }
    }

    fn is_over(&self) -> bool {
        match &self.framing {
            Framing::Length(rest) => *rest == 0,
            Framing::Chunked(chunks) => chunks.is_over(),
            Framing::UntilClose => self.connection.is_none(),
        }
    }
}

fn source(error: impl std::error::Error + Send + Sync + 'static) -> BodyError {
    BodyError::Source(error.into())
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let piece = ready!(self.poll_piece(cx));
        if !matches!(piece, Ok(Some(_))) || self.is_over() {
            let connection = self.connection.take();
            if let Some(connection) =
                connection.filter(|connection| piece.is_ok() && self.keeps && connection.has_sent())
            {
                self.pool.put(connection);
            }
        }
        Poll::Ready(piece.map(|data| data.map(Frame::data)).transpose())
    }

    fn is_end_stream(&self) -> bool {
        self.is_over()
    }

    fn size_hint(&self) -> SizeHint {
        match self.framing {
            Framing::Length(rest) => SizeHint::with_exact(rest),
            _ => SizeHint::default(),
        }
    }
}
