//! Tests whole connections, split into reads at random. Every request gets its own response, and
//! bodies pass unchanged.

use std::time::Duration;

use bytes::BytesMut;
use http::{HeaderMap, Request, Response, Version};
use http_body_util::BodyExt;
use proptest::collection::vec;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex, split};
use tokio::task::yield_now;

use crate::body::Body;
use crate::http1::body_decoder::{BodyDecoder, Decoded};
use crate::http1::head::{HeadLimits, HeadScanner};
use crate::http1::headers::{self, Sender};
use crate::request::ClientAddr;
use crate::server::accept::CurrentHandler;
use crate::server::connection::serve;
use crate::server::limits::Limits;
use crate::server::stop::StopSignal;

/// A request, and how the handler responds to it.
#[derive(Clone)]
struct Echo {
    body: Vec<u8>,
    /// The sizes of the chunks; `None` if the length is declared.
    chunks: Option<Vec<usize>>,
    /// Whether the client waits for `100 Continue`.
    waits: bool,
    /// Whether the response streams while the request does.
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
            let (chunk, after) = rest.split_at(rest.len().min(*sizes.next().unwrap()));
            bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            bytes.extend_from_slice(chunk);
            bytes.extend_from_slice(b"\r\n");
            rest = after;
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
        // A handler that responds before it reads the body ends the connection.
        waits: waits && !streams,
        streams,
    })
}

async fn handle(_peer: ClientAddr, request: Request<Body>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let streams = head.headers.contains_key("x-stream");
    let body = if streams { body } else { body.collect().await.unwrap().to_bytes().into() };
    Response::builder().header("x-path", head.uri.path()).body(body).unwrap()
}

/// A response that is being read.
#[derive(Default)]
struct EchoResponse {
    /// Its path and the decoder of its body.
    head: Option<(String, BodyDecoder)>,
    body: Vec<u8>,
}

impl EchoResponse {
    /// Takes its next part out of `read`. Returns true when it is complete.
    fn take(&mut self, read: &mut BytesMut) -> bool {
        let Some((_, decoder)) = &mut self.head else {
            while read.starts_with(b"HTTP/1.1 100 Continue\r\n\r\n") {
                _ = read.split_to(25);
            }
            let limits = HeadLimits { bytes: 1_000, headers: 16 };
            let head = HeadScanner::default()
                .take(read, limits, |head, lines| {
                    let mut headers = HeaderMap::new();
                    headers::parse(&head, &lines, Sender::Node, &mut headers).map(|framing| (headers, framing))
                })
                .unwrap();
            let Some(head) = head else { return false };
            let (headers, framing) = head.unwrap();
            let decoder = framing.decoder(Version::HTTP_11).unwrap().unwrap();
            self.head = Some((headers["x-path"].to_str().unwrap().to_owned(), decoder));
            return self.take(read);
        };
        loop {
            match decoder.next(read).unwrap() {
                Decoded::Data(data) => self.body.extend_from_slice(&data),
                Decoded::End => return true,
                Decoded::NeedMore => return false,
            }
        }
    }
}

async fn exchange(requests: Vec<Echo>, pieces: Vec<usize>, buffer: usize) {
    let (client, server) = duplex(buffer);
    let (_stop, stop) = StopSignal::channel(std::sync::Arc::default());
    let handler = CurrentHandler::fixed(handle, Limits::default());
    let served = tokio::spawn(serve(server, ClientAddr::Unix, BytesMut::new(), handler, Limits::default(), stop));
    let (mut reader, mut writer) = split(client);
    let bytes: Vec<u8> = requests.iter().enumerate().flat_map(|(number, echo)| echo.bytes(number)).collect();
    let sending = tokio::spawn(async move {
        let (mut rest, mut pieces) = (&bytes[..], pieces.iter().cycle());
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(rest.len().min(*pieces.next().unwrap()));
            writer.write_all(piece).await.unwrap();
            yield_now().await;
            rest = after;
        }
        writer
    });
    let mut read = BytesMut::new();
    for (number, echo) in requests.iter().enumerate() {
        let mut response = EchoResponse::default();
        while !response.take(&mut read) {
            if reader.read_buf(&mut read).await.unwrap() == 0 {
                panic!("closed before response {number}, with {:?} left: {:?}", read, served.await);
            }
        }
        assert_eq!(response.head.unwrap().0, format!("/{number}"));
        let body = response.body;
        assert!(body == echo.body, "body {number} of {} bytes", echo.body.len());
    }
    assert!(read.is_empty());
    drop((sending.await.unwrap(), reader));
    served.await.unwrap().unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn every_request_gets_its_own_response_whatever_the_reads_it_arrives_in(
        requests in vec(echo(), 1..6),
        pieces in vec(prop_oneof![1_usize..30, 500_usize..9_000], 1..6),
        buffer in prop_oneof![16_usize..200, Just(64 * 1024)],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let exchange = exchange(requests, pieces, buffer);
        runtime.block_on(async { tokio::time::timeout(Duration::from_secs(30), exchange).await.expect("stuck") });
    }
}
