//! A look at the beginning of an answer's body, which is then passed on whole.

use bytes::{Bytes, BytesMut};
use http::Response;
use http_body_util::BodyExt;

use crate::body::Body;
use crate::proxy::resumed::Resumed;

/// Reads up to `most` bytes of the body, or what there is of it, and gives the answer back as if nothing had been read. A body
/// that fails meanwhile fails its reader in the same way, after what came before.
pub(super) async fn peek(answer: Response<Body>, most: usize) -> (Bytes, Response<Body>) {
    let (head, mut body) = answer.into_parts();
    let mut read = BytesMut::new();
    let mut failure = None;
    let mut whole = body.is_empty();
    while !whole && read.len() < most && failure.is_none() {
        match body.frame().await {
            None => whole = true,
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    read.extend_from_slice(&data);
                }
            }
            Some(Err(error)) => failure = Some(error),
        }
    }
    let read = read.freeze();
    let body = match failure {
        Some(error) => Resumed::failed(read.clone(), error, body).into(),
        None if whole => read.clone().into(),
        None => Resumed::new(read.clone(), body).into(),
    };
    (read, Response::from_parts(head, body))
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::io;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use http_body::Frame;

    use super::*;

    struct Pieces(VecDeque<io::Result<&'static str>>);

    impl http_body::Body for Pieces {
        type Data = Bytes;
        type Error = io::Error;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
            Poll::Ready(
                self.0.pop_front().map(|piece| piece.map(|text| Frame::data(Bytes::from_static(text.as_bytes())))),
            )
        }
    }

    /// What was seen with a look at four bytes, and what the reader gets afterwards.
    async fn looked(pieces: Vec<io::Result<&'static str>>) -> (Bytes, Vec<u8>, bool) {
        let (seen, answer) = peek(Response::new(Body::new(Pieces(pieces.into()))), 4).await;
        let mut body = answer.into_body();
        let mut whole = Vec::new();
        loop {
            match body.frame().await {
                None => return (seen, whole, true),
                Some(Ok(frame)) => whole.extend_from_slice(&frame.into_data().unwrap()),
                Some(Err(_)) => return (seen, whole, false),
            }
        }
    }

    #[tokio::test]
    async fn whatever_was_seen_the_reader_gets_all_of_it() {
        let broken = || Err(io::ErrorKind::ConnectionReset.into());
        for (pieces, seen, whole, good) in [
            (vec![], "", "", true),
            (vec![Ok("ab")], "ab", "ab", true),
            (vec![Ok("ab"), Ok("cdef"), Ok("gh")], "abcdef", "abcdefgh", true),
            (vec![Ok("abcd")], "abcd", "abcd", true),
            (vec![Ok("ab"), broken()], "ab", "ab", false),
            (vec![broken()], "", "", false),
            (vec![Ok("abcd"), broken()], "abcd", "abcd", false),
        ] {
            let got = looked(pieces).await;
            assert_eq!(got, (Bytes::from(seen), whole.as_bytes().to_vec(), good), "{seen}");
        }
    }
}
