//! Whole conversations, cut into pieces wherever chance wants: every request gets its own answer, and bodies pass unchanged.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use http::{Request, Response, Version};
use http_body_util::BodyExt;
use proptest::collection::vec;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex, split};
use tokio::task::yield_now;

use crate::body::Body;
use crate::http1::chunks::Piece;
use crate::http1::fields;
use crate::http1::framing::Framing;
use crate::http1::lines::{Most, Scan};
use crate::request::ClientAddr;
use crate::server::connection::serve;
use crate::server::limits::Limits;
use crate::server::stop::Stop;

/// A request, and how its answer is to be given.
#[derive(Clone)]
struct Echo {
    body: Vec<u8>,
    /// The sizes of chunks; none when the length is told.
    chunks: Option<Vec<usize>>,
    waits: bool,
    /// The answer streams while the request does.
    streams: bool,
}

impl std::fmt::Debug for Echo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Echo { body, chunks, waits, streams } = self;
        write!(f, "{} bytes, chunks {chunks:?}, waits: {waits}, streams: {streams}", body.len())
    }
}

impl Echo {
    fn bytes(&self, number: usize) -> Vec<u8> {
        let mut bytes = format!("POST /{number} HTTP/1.1\r\nHost: kylin\r\n").into_bytes();
        if self.streams {
            bytes.extend_from_slice(b"X-Stream: 1\r\n");
        }
        if self.waits {
            bytes.extend_from_slice(b"Expect: 100-continue\r\n");
        }
        let Some(sizes) = &self.chunks else {
            bytes.extend_from_slice(format!("Content-Length: {}\r\n\r\n", self.body.len()).as_bytes());
            bytes.extend_from_slice(&self.body);
            return bytes;
        };
        bytes.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
        let (mut rest, mut sizes) = (&self.body[..], sizes.iter().cycle());
        while !rest.is_empty() {
            let (chunk, behind) = rest.split_at(rest.len().min(*sizes.next().unwrap()));
            bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            bytes.extend_from_slice(chunk);
            bytes.extend_from_slice(b"\r\n");
            rest = behind;
        }
        bytes.extend_from_slice(b"0\r\n\r\n");
        bytes
    }
}

fn echo() -> impl Strategy<Value = Echo> {
    let body = prop_oneof![vec(any::<u8>(), 0..40), vec(any::<u8>(), 3_000..20_000)];
    let chunks = proptest::option::of(vec(1_usize..3_000, 1..4));
    (body, chunks, any::<bool>(), any::<bool>()).prop_map(|(body, chunks, waits, streams)| Echo {
        body,
        chunks,
        // Who answers before asking for the body ends the connection with that answer.
        waits: waits && !streams,
        streams,
    })
}

async fn answer(_peer: ClientAddr, request: Request<Body>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let streams = head.headers.contains_key("x-stream");
    let body = if streams { body } else { body.collect().await.unwrap().to_bytes().into() };
    Response::builder().header("x-path", head.uri.path()).body(body).unwrap()
}

/// An answer that is being read.
#[derive(Default)]
struct Answer {
    /// Its path, and how its body goes on.
    head: Option<(String, Framing)>,
    body: Vec<u8>,
}

impl Answer {
    /// Takes what is there of it out of `read`. True when it is whole.
    fn take(&mut self, read: &mut BytesMut) -> bool {
        let Some((_, framing)) = &mut self.head else {
            while read.starts_with(b"HTTP/1.1 100 Continue\r\n\r\n") {
                _ = read.split_to(25);
            }
            let most = Most { bytes: 1_000, fields: 16 };
            let head = Scan::default()
                .take(read, most, |head, lines| fields::map(&head, &lines, fields::Sender::Node))
                .unwrap();
            let Some(head) = head else { return false };
            let (headers, told) = head.unwrap();
            let framing = told.framing(Version::HTTP_11).unwrap().unwrap();
            self.head = Some((headers["x-path"].to_str().unwrap().to_owned(), framing));
            return self.take(read);
        };
        loop {
            match framing.next(read).unwrap() {
                Piece::Data(data) => self.body.extend_from_slice(&data),
                Piece::End => return true,
                Piece::Wanting => return false,
            }
        }
    }
}

async fn converse(requests: Vec<Echo>, pieces: Vec<usize>, room: usize) {
    let (client, server) = duplex(room);
    let (_stop, stop) = Stop::channel();
    let served = tokio::spawn(serve(server, ClientAddr::Unix, Arc::new(answer), Limits::default(), stop));
    let (mut reader, mut writer) = split(client);
    let bytes: Vec<u8> = requests.iter().enumerate().flat_map(|(number, echo)| echo.bytes(number)).collect();
    let sending = tokio::spawn(async move {
        let (mut rest, mut pieces) = (&bytes[..], pieces.iter().cycle());
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at(rest.len().min(*pieces.next().unwrap()));
            writer.write_all(piece).await.unwrap();
            yield_now().await;
            rest = behind;
        }
        writer
    });
    let mut read = BytesMut::new();
    for (number, echo) in requests.iter().enumerate() {
        let mut answer = Answer::default();
        while !answer.take(&mut read) {
            if reader.read_buf(&mut read).await.unwrap() == 0 {
                panic!("closed before answer {number}, with {:?} left: {:?}", read, served.await);
            }
        }
        assert_eq!(answer.head.unwrap().0, format!("/{number}"));
        let body = answer.body;
        assert!(body == echo.body, "body {number} of {} bytes", echo.body.len());
    }
    assert!(read.is_empty());
    drop((sending.await.unwrap(), reader));
    served.await.unwrap().unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn every_request_gets_its_own_answer_whatever_the_pieces(
        requests in vec(echo(), 1..6),
        pieces in vec(prop_oneof![1_usize..30, 500_usize..9_000], 1..6),
        room in prop_oneof![16_usize..200, Just(64 * 1024)],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let talk = converse(requests, pieces, room);
        runtime.block_on(async { tokio::time::timeout(Duration::from_secs(30), talk).await.expect("stuck") });
    }
}
