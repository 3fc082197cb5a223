//! Reads the first bytes of a connection or of its next request.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, ReadBuf};

/// The first bytes of an HTTP/2 client with prior knowledge (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

/// The size of one read.
const READ_SIZE: usize = 8 * 1024;

/// Waits for bytes and appends them to `read`; returns false at the end of the stream. There is no
/// buffer while it waits, so that an idle connection costs little memory.
pub(super) fn poll_some<S: AsyncRead + Unpin>(
    stream: &mut S,
    read: &mut BytesMut,
    cx: &mut Context<'_>,
) -> Poll<io::Result<bool>> {
    let mut buffer = [const { MaybeUninit::uninit() }; READ_SIZE];
    let mut buffer = ReadBuf::uninit(&mut buffer);
    ready!(Pin::new(stream).poll_read(cx, &mut buffer))?;
    read.extend_from_slice(buffer.filled());
    Poll::Ready(Ok(!buffer.filled().is_empty()))
}

/// Waits for bytes like [`poll_some`].
pub(super) async fn read_some<S: AsyncRead + Unpin>(stream: &mut S, read: &mut BytesMut) -> io::Result<bool> {
    poll_fn(|cx| poll_some(stream, read, cx)).await
}

/// Reads just enough of `stream` to detect the protocol of its client. If nothing was read, the
/// client has left.
pub(super) async fn sniff<S: AsyncRead + Unpin>(stream: &mut S, read: &mut BytesMut) -> io::Result<Protocol> {
    loop {
        if !read.is_empty() && !PREFACE.starts_with(&read[..read.len().min(PREFACE.len())]) {
            break;
        }
        if read.len() >= PREFACE.len() {
            return Ok(Protocol::Http2);
        }
        if !read_some(stream, read).await? {
            break;
        }
    }
    Ok(Protocol::Http1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    async fn protocol_of(pieces: &[&[u8]]) -> (Protocol, Vec<u8>) {
        let mut read = BytesMut::new();
        let protocol = sniff(&mut in_pieces(pieces), &mut read).await.unwrap();
        (protocol, read.to_vec())
    }

    /// A reader that yields one piece per read.
    fn in_pieces(pieces: &[&[u8]]) -> impl AsyncRead + Unpin + use<> {
        let pieces: Vec<_> = pieces.iter().map(|piece| io::Cursor::new(piece.to_vec())).collect();
        pieces.into_iter().fold(Box::new(tokio::io::empty()) as Box<dyn AsyncRead + Unpin>, |before, piece| {
            Box::new(before.chain(piece))
        })
    }

    #[tokio::test]
    async fn http2_is_told_by_its_whole_preface_in_any_pieces() {
        assert_eq!(protocol_of(&[PREFACE]).await.0, Protocol::Http2);
        assert_eq!(protocol_of(&[b"P", b"RI * HTTP/2.0\r\n", b"\r\nSM\r\n\r\nmore"]).await.0, Protocol::Http2);
    }

    #[tokio::test]
    async fn everything_else_is_http1_and_no_byte_is_lost() {
        for pieces in [&[&b"POST / HTTP/1.1\r\n"[..]][..], &[b"P", b"RI", b" / HTTP/1.1\r\n"], &[b"\0"], &[]] {
            assert_eq!(protocol_of(pieces).await, (Protocol::Http1, pieces.concat()));
        }
    }
}
