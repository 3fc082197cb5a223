//! Takes the body of one message out of the bytes that were read from its connection.

use std::pin::pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use tokio::task::yield_now;

pub(crate) use super::chunked::Decoded;
use super::chunked::{ChunkedDecoder, InvalidChunk};

/// Decodes a body by the framing that its head declares.
#[derive(Debug)]
pub(crate) enum BodyDecoder {
    /// This many bytes are still to come.
    Length(u64),
    Chunked(ChunkedDecoder),
    /// The end of the connection ends the body.
    UntilClose,
}

impl Default for BodyDecoder {
    fn default() -> Self {
        BodyDecoder::Length(0)
    }
}

impl BodyDecoder {
    pub(crate) fn chunked() -> Self {
        BodyDecoder::Chunked(ChunkedDecoder::default())
    }

    /// Takes the next piece of the body out of `read`.
    pub(crate) fn next(&mut self, read: &mut BytesMut) -> Result<Decoded, InvalidChunk> {
        match self {
            BodyDecoder::Length(0) => Ok(Decoded::End),
            BodyDecoder::Chunked(chunked) => chunked.next(read),
            _ if read.is_empty() => Ok(Decoded::NeedMore),
            BodyDecoder::Length(remaining) => {
                let length = usize::try_from(*remaining).unwrap_or(usize::MAX).min(read.len());
                *remaining -= length as u64;
                Ok(Decoded::Data(read.split_to(length).freeze()))
            }
            BodyDecoder::UntilClose => Ok(Decoded::Data(read.split().freeze())),
        }
    }

    /// Polls until the next piece may be decoded. If the last piece took long, other tasks run
    /// first, and the runtime checks its sockets.
    pub(crate) fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let BodyDecoder::Chunked(chunked) = self
            && chunked.take_has_joined_many()
        {
            // This makes the runtime wake this task later than a task that wakes itself.
            return pin!(yield_now()).poll(cx);
        }
        Poll::Ready(())
    }

    /// Returns true if the last byte was taken, as far as the framing shows.
    pub(crate) fn is_end(&self) -> bool {
        match self {
            BodyDecoder::Length(remaining) => *remaining == 0,
            BodyDecoder::Chunked(chunked) => chunked.is_end(),
            BodyDecoder::UntilClose => false,
        }
    }

    /// Returns how many bytes are still to come, if the framing says so.
    pub(crate) fn remaining(&self) -> Option<u64> {
        match self {
            BodyDecoder::Length(remaining) => Some(*remaining),
            _ => None,
        }
    }

    /// Takes the whole body if its length is known and all of it was read together with the head,
    /// as with small messages.
    pub(crate) fn take_whole(&self, read: &mut BytesMut) -> Option<Bytes> {
        let length = usize::try_from(self.remaining()?).ok().filter(|length| *length <= read.len())?;
        Some(read.split_to(length).freeze())
    }
}
