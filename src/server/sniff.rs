//! The first bytes of a connection or of its next request.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, ReadBuf};

/// What an HTTP/2 client that knows the server begins with (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    Http1,
    Http2,
}

/// Room for one read. It is not cleared first.
const ROOM: usize = 8 * 1024;

/// Waits for bytes and adds what there is to `read`; false at the end of the stream. While it waits there is no buffer, so
/// that a connection that idles costs next to nothing.
pub(super) fn poll_some<S: AsyncRead + Unpin>(
    stream: &mut S,
    read: &mut BytesMut,
    cx: &mut Context<'_>,
) -> Poll<io::Result<bool>> {
    let mut room = [const { MaybeUninit::uninit() }; ROOM];
    let mut room = ReadBuf::uninit(&mut room);
    ready!(Pin::new(stream).poll_read(cx, &mut room))?;
    read.extend_from_slice(room.filled());
    Poll::Ready(Ok(!room.filled().is_empty()))
}

/// The same, to be awaited.
pub(super) async fn read_some<S: AsyncRead + Unpin>(stream: &mut S, read: &mut BytesMut) -> io::Result<bool> {
    poll_fn(|cx| poll_some(stream, read, cx)).await
}

/// Reads just enough of `stream` to know what its client speaks. Nothing that was read means that the client is gone.
pub(super) async fn sniff<S: AsyncRead + Unpin>(stream: &mut S, read: &mut BytesMut) -> io::Result<Version> {
    while read_some(stream, read).await? {
        if !PREFACE.starts_with(&read[..read.len().min(PREFACE.len())]) {
            break;
        }
        if read.len() >= PREFACE.len() {
            return Ok(Version::Http2);
        }
    }
    Ok(Version::Http1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    async fn version_of(pieces: &[&[u8]]) -> (Version, Vec<u8>) {
        let mut read = BytesMut::new();
        let version = sniff(&mut in_pieces(pieces), &mut read).await.unwrap();
        (version, read.to_vec())
    }

    /// A reader that yields one piece per read.
    fn in_pieces(pieces: &[&[u8]]) -> impl AsyncRead + Unpin + use<> {
        let pieces: Vec<_> = pieces.iter().map(|piece| io::Cursor::new(piece.to_vec())).collect();
        pieces.into_iter().fold(Box::new(tokio::io::empty()) as Box<dyn AsyncRead + Unpin>, |before, piece| {
            Box::new(before.chain(piece))
        })
    }

    #[tokio::test]
    async fn tells_http2_by_its_whole_preface_in_any_pieces() {
        assert_eq!(version_of(&[PREFACE]).await.0, Version::Http2);
        assert_eq!(version_of(&[b"P", b"RI * HTTP/2.0\r\n", b"\r\nSM\r\n\r\nmore"]).await.0, Version::Http2);
    }

    #[tokio::test]
    async fn all_else_is_http1_and_nothing_of_it_is_lost() {
        for pieces in [&[&b"POST / HTTP/1.1\r\n"[..]][..], &[b"P", b"RI", b" / HTTP/1.1\r\n"], &[b"\0"], &[]] {
            assert_eq!(version_of(pieces).await, (Version::Http1, pieces.concat()));
        }
    }
}
