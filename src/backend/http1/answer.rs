//! The body of an answer, read from its connection, which goes back to the pool at its end.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};

use super::connection::Connection;
use super::pool::Pool;
use crate::body::{Body, BodyError};
use crate::http1::chunks::Piece;
use crate::http1::framing::Framing;

/// The body that `connection` is about to bring. What is not read to its end takes the connection with it.
pub(super) fn body(mut connection: Box<Connection>, framing: Framing, keeps: bool, pool: &Arc<Pool>) -> Body {
    if let Some(whole) = framing.whole(&mut connection.read) {
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
            match self.framing.next(&mut connection.read).map_err(source)? {
                Piece::Data(data) => return Poll::Ready(Ok(Some(data))),
                Piece::End => return Poll::Ready(Ok(None)),
                Piece::Wanting => {}
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
            Framing::UntilClose => self.connection.is_none(),
            framing => framing.is_over(),
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
        self.framing.rest().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
