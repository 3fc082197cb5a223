use bytes::Bytes;
use http::Response;
use http_body_util::BodyExt;

use crate::body::{Body, Joined};

/// Reads up to `max` bytes of the body, or all of a shorter one. Returns them with the response,
/// whose reader still gets all bytes. If the body fails meanwhile, its reader gets only the error.
/// No byte of the response has been sent then, so the response can be replaced.
pub(crate) async fn peek(response: Response<Body>, max: usize) -> (Bytes, Response<Body>) {
    let (head, mut body) = response.into_parts();
    let mut read = Joined::default();
    let mut is_whole = body.is_empty();
    while !is_whole && read.len() < max {
        match body.frame().await {
            None => is_whole = true,
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    read.push(data);
                }
            }
            Some(Err(error)) => return (read.into_bytes(), Response::from_parts(head, Body::failed(error))),
        }
    }
    let read = read.into_bytes();
    let body = if is_whole { read.clone().into() } else { body.put_back(read.clone()) };
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

    /// Returns the four bytes that a peek sees, the bytes that the reader gets afterwards, and
    /// whether it gets all.
    async fn peeked(pieces: Vec<io::Result<&'static str>>) -> (Bytes, Vec<u8>, bool) {
        let (seen, response) = peek(Response::new(Body::new(Pieces(pieces.into()))), 4).await;
        let mut body = response.into_body();
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
    async fn the_reader_gets_what_was_peeked_at_or_the_error() {
        let broken = || Err(io::ErrorKind::ConnectionReset.into());
        for (pieces, seen, whole, good) in [
            (vec![], "", "", true),
            (vec![Ok("ab")], "ab", "ab", true),
            (vec![Ok("ab"), Ok("cdef"), Ok("gh")], "abcdef", "abcdefgh", true),
            (vec![Ok("abcd")], "abcd", "abcd", true),
            (vec![Ok("ab"), broken()], "ab", "", false),
            (vec![broken()], "", "", false),
            (vec![Ok("abcd"), broken()], "abcd", "abcd", false),
        ] {
            let got = peeked(pieces).await;
            assert_eq!(got, (Bytes::from(seen), whole.as_bytes().to_vec(), good), "{seen}");
        }
    }
}
