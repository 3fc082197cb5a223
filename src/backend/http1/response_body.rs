//! The body of a response, read from its connection. At the end of the body the connection returns
//! to the pool.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};

use super::connection::Connection;
use super::pool::Pool;
use crate::body::{Body, BodyError};
use crate::http1::body_decoder::{BodyDecoder, Decoded};

/// Returns the body that `decoder` reads from `connection`. Dropping it before its end closes the
/// connection.
pub(super) fn new(mut connection: Box<Connection>, decoder: BodyDecoder, keep_alive: bool, pool: &Arc<Pool>) -> Body {
    if let Some(whole) = decoder.take_whole(&mut connection.read) {
        if keep_alive && connection.has_sent() {
            pool.put(connection);
        }
        return Body::from(whole);
    }
    Body::new(ResponseBody { connection: Some(connection), decoder, keep_alive, pool: Arc::clone(pool) })
}

struct ResponseBody {
    connection: Option<Box<Connection>>,
    decoder: BodyDecoder,
    keep_alive: bool,
    pool: Arc<Pool>,
}

impl ResponseBody {
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, BodyError>> {
        let Some(connection) = &mut self.connection else { return Poll::Ready(Ok(None)) };
        // A node may respond before it has received the whole request. The rest is sent meanwhile;
        // if that fails, the response continues.
        if !connection.has_sent()
            && let Poll::Ready(Err(error)) = connection.poll_send(cx)
        {
            tracing::debug!(source = std::error::Error::source(&error), "rest of request dropped after early response");
            connection.close_write();
        }
        ready!(self.decoder.poll_turn(cx));
        loop {
            match self.decoder.next(&mut connection.read).map_err(source_error)? {
                Decoded::Data(data) => return Poll::Ready(Ok(Some(data))),
                Decoded::End => return Poll::Ready(Ok(None)),
                Decoded::NeedMore => {}
            }
            if ready!(connection.poll_read(cx)).map_err(source_error)? == 0 {
                return Poll::Ready(match self.decoder {
                    BodyDecoder::UntilClose => Ok(None),
                    BodyDecoder::Length(_) | BodyDecoder::Chunked(_) => {
                        Err(source_error(std::io::Error::from(std::io::ErrorKind::UnexpectedEof)))
                    }
                });
            }
        }
    }

    fn is_end(&self) -> bool {
        match &self.decoder {
            BodyDecoder::UntilClose => self.connection.is_none(),
            decoder => decoder.is_end(),
        }
    }
}

fn source_error(error: impl std::error::Error + Send + Sync + 'static) -> BodyError {
    BodyError::Source(error.into())
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let data = ready!(self.poll_data(cx));
        if (!matches!(data, Ok(Some(_))) || self.is_end())
            && let Some(connection) = self.connection.take()
            && data.is_ok()
            && self.keep_alive
            && connection.has_sent()
        {
            self.pool.put(connection);
        }
        Poll::Ready(data.map(|data| data.map(Frame::data)).transpose())
    }

    fn is_end_stream(&self) -> bool {
        self.is_end()
    }

    fn size_hint(&self) -> SizeHint {
        self.decoder.remaining().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
