//! Where the body of a message ends, and reading as far as that.

use bytes::{Bytes, BytesMut};

use super::chunks::{Chunks, InvalidChunk, Piece};

/// How the end of a body that is received is told.
#[derive(Debug)]
pub(crate) enum Framing {
    /// By its length; so many bytes are still to come.
    Length(u64),
    Chunked(Chunks),
    /// By the end of the connection.
    #[cfg_attr(not(feature = "client"), allow(dead_code, reason = "only answers end so"))]
    UntilClose,
}

impl Default for Framing {
    fn default() -> Self {
        Framing::Length(0)
    }
}

impl Framing {
    /// Takes the next piece of the body out of `read`.
    pub(crate) fn next(&mut self, read: &mut BytesMut) -> Result<Piece, InvalidChunk> {
        match self {
            Framing::Length(0) => Ok(Piece::End),
            Framing::Chunked(chunks) => chunks.next(read),
            _ if read.is_empty() => Ok(Piece::Wanting),
            Framing::Length(rest) => {
                let length = usize::try_from(*rest).unwrap_or(usize::MAX).min(read.len());
                *rest -= length as u64;
                Ok(Piece::Data(read.split_to(length).freeze()))
            }
            Framing::UntilClose => Ok(Piece::Data(read.split().freeze())),
        }
    }

    /// The last byte has been taken, as far as that can be known.
    pub(crate) fn is_over(&self) -> bool {
        match self {
            Framing::Length(rest) => *rest == 0,
            Framing::Chunked(chunks) => chunks.is_over(),
            Framing::UntilClose => false,
        }
    }

    /// How many bytes are still to come, where that is known.
    pub(crate) fn rest(&self) -> Option<u64> {
        match self {
            Framing::Length(rest) => Some(*rest),
            _ => None,
        }
    }

    /// The whole body, when it is of known length and all of it was read already, as with small messages.
    pub(crate) fn whole(&self, read: &mut BytesMut) -> Option<Bytes> {
        let length = usize::try_from(self.rest()?).ok().filter(|length| *length <= read.len())?;
        Some(read.split_to(length).freeze())
    }
}
