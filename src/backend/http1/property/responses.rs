//! Generates responses of nodes: valid ones, fragments, and changes to them.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::Received;

/// Fragments of valid and invalid responses, which are joined at random.
const FRAGMENTS: &str = "HTTP/1.1 200 OK\r\n|HTTP/1.1 204 No Content\r\n|HTTP/1.0 200 OK\r\n|HTTP/1.1 304 Not Modified\r\n|\
    HTTP/1.1 100 Continue\r\n\r\n| folded\r\n|HTTP/1.1 101 Switching Protocols\r\n|HTTP/1.1 500\r\n|\
    Content-Length: 5\r\n|Content-Length: 0\r\n|content-length:11\r\n|Content-Length: +5\r\n|\
    Transfer-Encoding: chunked\r\n|Transfer-Encoding: gzip, chunked\r\n|Connection: close\r\n|\
    Connection: keep-alive\r\n|X: y\r\n|X:\r\n|X : y\r\n|X: y\n|\r\n|\n|\r|\0|hello|5\r\nhello\r\n|\
    5;a=b\r\nhello\r\n|05\r\nhello\r\n|5 \r\nhello\r\n|5\nhello\n|0\r\n\r\n|0\r\n|0\r\nx: y\r\n\r\n|\
    \r\nhello|ffffffffffffffff\r\n";

fn fragment() -> impl Strategy<Value = &'static str> {
    select(FRAGMENTS.split('|').collect::<Vec<_>>())
}

pub(super) fn fragments() -> impl Strategy<Value = Vec<u8>> {
    vec(fragment(), 0..12).prop_map(|fragments| fragments.concat().into_bytes())
}

/// Returns valid responses: the bytes, and the response that they encode.
pub(super) fn valid_response() -> impl Strategy<Value = (Vec<u8>, Received)> {
    let chunk = (vec(any::<u8>(), 1..300), "(;[a-z]{0,5}(=\"?[a-z ]{0,5}\"?)?)?", 0..4_usize);
    let body = prop_oneof![
        vec(any::<u8>(), 0..20_000).prop_map(|body| {
            let head = format!("content-length: {}\r\n", body.len());
            (head, body.clone(), body)
        }),
        vec(any::<u8>(), 0..2000).prop_map(|body| (String::new(), body.clone(), body)),
        (vec(chunk, 0..20), vec("[a-z]{1,9}: [!-~]{0,20}\r\n", 0..4)).prop_map(|(chunks, trailers)| {
            let (mut wire, mut body) = (Vec::new(), Vec::new());
            for (data, extension, zeros) in chunks {
                wire.extend(format!("{}{:X}{extension}\r\n", "0".repeat(zeros), data.len()).bytes());
                wire.extend_from_slice(&data);
                wire.extend(b"\r\n");
                body.extend(data);
            }
            wire.extend(format!("0\r\n{}\r\n", trailers.concat()).bytes());
            ("transfer-encoding: Chunked\r\n".to_owned(), wire, body)
        }),
    ];
    let pairs = vec(("x-[a-z]{0,20}", "([!-~]([ -~]{0,40}[!-~])?)?"), 0..20);
    (0..4_usize, select(vec![200_u16, 201, 404, 500, 599]), "[ -~]{0,20}", pairs, body).prop_map(
        |(interim, status, reason, pairs, (framing, wire, body))| {
            let lines: String = pairs.iter().map(|(name, value)| format!("{name}:{value}\r\n")).collect();
            let interim = "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n".repeat(interim);
            let head = format!("{interim}HTTP/1.1 {status} {reason}\r\n{lines}{framing}\r\n");
            let mut headers: HeaderMap = HeaderMap::new();
            for (name, value) in pairs
                .into_iter()
                .chain(framing.trim_end().split_once(": ").map(|(name, value)| (name.to_owned(), value.to_owned())))
            {
                headers.append(HeaderName::try_from(name).unwrap(), HeaderValue::try_from(value).unwrap());
            }
            let status = StatusCode::from_u16(status).unwrap();
            ([head.as_bytes(), &wire].concat(), Received { status, headers, body, whole: true })
        },
    )
}

/// A change to the bytes of a response.
#[derive(Debug, Clone)]
pub(super) enum Change {
    Cut(Index),
    Set(Index, u8),
    Insert(Index, &'static str),
    Remove(Index),
}

pub(super) fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        any::<Index>().prop_map(Change::Cut),
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        (any::<Index>(), fragment()).prop_map(|(at, fragment)| Change::Insert(at, fragment)),
        any::<Index>().prop_map(Change::Remove),
    ]
}

pub(super) fn changed(mut bytes: Vec<u8>, changes: &[Change]) -> Vec<u8> {
    for change in changes {
        match change {
            Change::Cut(at) => bytes.truncate(at.index(bytes.len() + 1)),
            Change::Insert(at, fragment) => {
                let at = at.index(bytes.len() + 1);
                bytes.splice(at..at, fragment.bytes());
            }
            Change::Set(at, byte) if !bytes.is_empty() => {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            Change::Remove(at) if !bytes.is_empty() => _ = bytes.remove(at.index(bytes.len())),
            _ => {}
        }
    }
    bytes
}
