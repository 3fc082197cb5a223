//! Long bodies that are never in memory as a whole.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::OnceLock;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};

use crate::hash::mix;

/// The largest prime below 2^20. The bytes repeat after this many. Because the number is prime,
/// losing or repeating a piece of any usual buffer size shifts all bytes after it, so a comparison
/// detects it.
const PERIOD: u64 = 1_048_573;
const CHUNK: u64 = 64 * 1024;

/// Returns bytes of `/demo/bytes` from `offset` on, at least one.
///
/// ```
/// use kylin_lb::testing::kylin::demo_bytes_at;
///
/// assert_eq!(demo_bytes_at(10)[5], demo_bytes_at(15)[0]);
/// ```
pub fn demo_bytes_at(offset: u64) -> Bytes {
    static PATTERN: OnceLock<Bytes> = OnceLock::new();
    let pattern = PATTERN.get_or_init(|| {
        let mut bytes: Vec<u8> = (0..PERIOD.div_ceil(8)).flat_map(|word| mix(7070, word).to_le_bytes()).collect();
        bytes.truncate(index(PERIOD));
        bytes.into()
    });
    pattern.slice(index(offset % PERIOD)..)
}

/// A piece of a [`Streamed`] body.
pub(crate) enum Piece {
    Bytes(Bytes),
    /// The letter `x`, that many times.
    Filler(u64),
    /// The bytes of [`demo_bytes_at`]: an offset and a length.
    Demo(u64, u64),
}

/// A body of pieces in order, in chunks of at most 64 KiB.
pub(crate) struct Streamed {
    pieces: VecDeque<Piece>,
    has_length: bool,
}

impl Streamed {
    /// Creates a body of these pieces. With `has_length`, it has a `Content-Length`.
    pub(crate) fn new(pieces: impl IntoIterator<Item = Piece>, has_length: bool) -> Self {
        let pieces = pieces.into_iter().filter(|piece| piece.left() > 0).collect();
        Streamed { pieces, has_length }
    }
}

impl Piece {
    fn left(&self) -> u64 {
        match self {
            Piece::Bytes(bytes) => bytes.len() as u64,
            Piece::Filler(left) | Piece::Demo(_, left) => *left,
        }
    }

    fn take_chunk(&mut self) -> Bytes {
        static FILLER: [u8; CHUNK as usize] = [b'x'; CHUNK as usize];
        let length = self.left().min(CHUNK);
        match self {
            Piece::Bytes(bytes) => bytes.split_to(index(length)),
            Piece::Filler(left) => {
                *left -= length;
                Bytes::from_static(&FILLER[..index(length)])
            }
            Piece::Demo(offset, left) => {
                let mut chunk = demo_bytes_at(*offset);
                chunk.truncate(index(length));
                *offset += chunk.len() as u64;
                *left -= chunk.len() as u64;
                chunk
            }
        }
    }
}

impl HttpBody for Streamed {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(piece) = self.pieces.front_mut() else { return Poll::Ready(None) };
        let chunk = piece.take_chunk();
        if piece.left() == 0 {
            self.pieces.pop_front();
        }
        Poll::Ready(Some(Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        if self.has_length {
            SizeHint::with_exact(self.pieces.iter().map(Piece::left).sum())
        } else {
            SizeHint::default()
        }
    }
}

/// Returns a count below [`PERIOD`] as an index.
fn index(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    #[tokio::test]
    async fn what_is_streamed_is_what_is_promised_across_periods() {
        let from = PERIOD - 100;
        let body = Streamed::new([Piece::Demo(from, 300_000), Piece::Bytes(Bytes::from_static(b"end"))], true);
        assert_eq!(body.size_hint().exact(), Some(300_003));
        let bytes = body.collect().await.unwrap().to_bytes();
        assert_eq!(bytes.len(), 300_003);
        let mut at = 0;
        while at < 300_000 {
            let expected = demo_bytes_at(from + at as u64);
            let length = expected.len().min(300_000 - at);
            assert_eq!(bytes[at..at + length], expected[..length]);
            at += length;
        }
    }

    #[tokio::test]
    async fn filler_has_its_length_and_no_more_announced_than_asked() {
        let body = Streamed::new([Piece::Filler(CHUNK + 1)], false);
        assert_eq!(body.size_hint().exact(), None);
        assert_eq!(body.collect().await.unwrap().to_bytes().len() as u64, CHUNK + 1);
        assert!(Streamed::new([Piece::Filler(0)], true).is_end_stream());
    }
}
