//! Requests that two parsers may read differently, or that have no end. Each is refused, and no
//! node sees a second request in it. They are in one table, and every line of it goes over the
//! wire.

use std::io::ErrorKind;

use crate::support::front::Front;
use crate::support::raw_node::{RawNode, find, healthy};

/// A request that is smuggled in the tail of another one.
const TAIL: &str = "GET /smuggled HTTP/1.1\r\nHost: kylin\r\n\r\n";

/// The expected outcome of a request.
#[derive(Debug, Clone, Copy, PartialEq)]
enum AttemptOutcome {
    /// Refused with one of these statuses and a closed connection, and nothing reaches the node. If
    /// there is no status, a close without a response is enough.
    Refused(&'static [u16]),
    /// Either that, or brought into a form that cannot be misread. The node gets one request, and
    /// the connection is closed, so that the following bytes are never taken for another one.
    RefusedOrNormalised,
}
use AttemptOutcome::{Refused, RefusedOrNormalised};

const BAD: AttemptOutcome = Refused(&[400]);
const CODING: AttemptOutcome = Refused(&[400, 501]);

fn post(fields: &str, body: &str) -> String {
    format!("POST /kylin HTTP/1.1\r\nHost: kylin\r\n{fields}\r\n\r\n{body}")
}

fn chunked(body: &str) -> String {
    post("Transfer-Encoding: chunked", body)
}

fn get(line: &str, fields: &str) -> String {
    format!("{line}\r\n{fields}\r\n")
}

fn framing() -> Vec<(String, String, AttemptOutcome)> {
    let mut table = Vec::new();
    let mut add = |name: &str, bytes: String, fate| table.push((name.to_owned(), bytes, fate));
    add("cl-te", post("Content-Length: 6\r\nTransfer-Encoding: chunked", "0\r\n\r\nG"), RefusedOrNormalised);
    add("te-cl", post("Transfer-Encoding: chunked\r\nContent-Length: 3", "1\r\na\r\n0\r\n\r\n"), RefusedOrNormalised);
    add("cl-te-smuggle", post("Content-Length: 44\r\nTransfer-Encoding: chunked", "0\r\n\r\n"), RefusedOrNormalised);
    for length in ["-1", "+5", "0x5", "1_0", "5.0", "5 5", "", "5, 6", "9223372036854775809", "18446744073709551621"] {
        add(&format!("cl {length:?}"), post(&format!("Content-Length: {length}"), "hello"), BAD);
    }
    add("cl differs", post("Content-Length: 5\r\nContent-Length: 6", "hello"), BAD);
    add("cl empty then real", post("Content-Length:\r\nContent-Length: 5", "hello"), BAD);
    for coding in [
        "xchunked",
        "identity",
        "chunked, identity",
        "chunked, gzip",
        "gzip, chunked",
        "chunked, chunked",
        ",chunked",
        "chunked,",
        "\x0bchunked",
        "\"chunked\"",
        "'chunked'",
        "chunked;q=1",
        "chu nked",
        "",
    ] {
        let bytes = post(&format!("Transfer-Encoding: {coding}"), "5\r\nhello\r\n0\r\n\r\n");
        add(&format!("te {coding:?}"), bytes, CODING);
    }
    add("te twice", post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "0\r\n\r\n"), CODING);
    add("te, then identity", post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", "0\r\n\r\n"), CODING);
    add("te nul", post("Transfer-Encoding: chunked\0", "0\r\n\r\n"), CODING);
    add("te cr", post("Transfer-Encoding: \rchunked", "0\r\n\r\n"), CODING);
    add("te space before colon", post("Transfer-Encoding : chunked", "0\r\n\r\n"), BAD);
    let old = "POST / HTTP/1.0\r\nHost: kylin\r\n";
    add("te in 1.0", format!("{old}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), BAD);
    add(
        "te and cl in 1.0, kept",
        format!("{old}Connection: keep-alive\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        BAD,
    );
    for chunk in ["0x5", "+5", "-5", "0_5", " 5", "", "5g", "10000000000000005", "5;a\rb", "5;a\nb", "5\n"] {
        let bytes = chunked(&format!("{chunk}\r\nhello\r\n0\r\n\r\n"));
        add(&format!("chunk {chunk:?}"), bytes, BAD);
    }
    add("chunk, bare lf", chunked("5\nhello\n0\n\n"), BAD);
    add("chunk, no crlf after", chunked("5\r\nhello0\r\n\r\n"), BAD);
    add("chunk, more than its size", chunked("5\r\nhello, world\r\n0\r\n\r\n"), BAD);
    add(
        "chunk, long extension",
        chunked(&format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(20_000))),
        Refused(&[400, 413, 431]),
    );
    table
}

fn heads() -> Vec<(String, String, AttemptOutcome)> {
    let mut table = Vec::new();
    let mut add = |name: &str, bytes: String, fate| table.push((name.to_owned(), bytes, fate));
    let line = "GET / HTTP/1.1";
    for (name, field) in [
        ("space before colon", "X-A : 1\r\n"),
        ("folded", "X-A: 1\r\n 2\r\n"),
        ("no colon", "X-A\r\n"),
        ("empty name", ": 1\r\n"),
        ("nul in value", "X-A: a\0b\r\n"),
        ("cr in value", "X-A: a\rb\r\n"),
        ("control in name", "X\x01A: 1\r\n"),
        ("space in name", "X A: 1\r\n"),
        ("quote in name", "X\"A: 1\r\n"),
        ("bracket in name", "X(A: 1\r\n"),
        ("high byte in name", "X\u{e9}: 1\r\n"),
    ] {
        add(name, get(line, &format!("Host: kylin\r\n{field}")), BAD);
    }
    add("folded after the line", get(line, " Host: kylin\r\n"), BAD);
    for host in ["a@b", "a/b", "a b", "a,b", "a?b", "a#b", "a:b", "[::1", "a\"b", "kylin:999999"] {
        add(&format!("host {host:?}"), get(line, &format!("Host: {host}\r\n")), BAD);
    }
    add("no host", get(line, ""), BAD);
    add("two hosts", get(line, "Host: kylin\r\nHost: kylin\r\n"), BAD);
    add("user in target", get("GET http://u@kylin/ HTTP/1.1", "Host: kylin\r\n"), BAD);
    for target in ["*", "kylin", "kylin:80", "/a b", "/a\0b", "/a\rb", "", "//\x7f"] {
        add(&format!("target {target:?}"), get(&format!("GET {target} HTTP/1.1"), "Host: kylin\r\n"), BAD);
    }
    add("connect", get("CONNECT kylin:80 HTTP/1.1", "Host: kylin:80\r\n"), Refused(&[405]));
    add("trace", get("TRACE / HTTP/1.1", "Host: kylin\r\n"), Refused(&[405]));
    for version in ["HTTP/0.9", "HTTP/1.2", "HTTP/2.0", "HTTP/1.1x", "http/1.1", "HTTP/1", "HTTP/11", "HTP/1.1", ""] {
        add(&format!("version {version:?}"), get(&format!("GET / {version}"), "Host: kylin\r\n"), Refused(&[400, 505]));
    }
    for method in ["get", "GE T", "G\0T", "G(T", ""] {
        add(
            &format!("method {method:?}"),
            get(&format!("{method} / HTTP/1.1"), "Host: kylin\r\n"),
            Refused(&[400, 501]),
        );
    }
    let large = Refused(&[400, 413, 414, 431]);
    add("head of 200 KB", get(line, &format!("Host: kylin\r\nX-A: {}\r\n", "x".repeat(200_000))), large);
    add("2000 fields", get(line, &format!("Host: kylin\r\n{}", "X-A: 1\r\n".repeat(2000))), large);
    add("target of 70 KB", get(&format!("GET /{} HTTP/1.1", "x".repeat(70_000)), "Host: kylin\r\n"), large);
    add("method of 70 KB", get(&format!("{} / HTTP/1.1", "X".repeat(70_000)), "Host: kylin\r\n"), large);
    add(
        "name over 255 bytes",
        get(line, &format!("Host: kylin\r\nContent-Length0{}: 1\r\n", "a".repeat(70_000))),
        large,
    );
    table
}

/// Sends `bytes` and a tail, and returns all statuses that come back before the connection is
/// closed.
async fn statuses(front: &Front, name: &str, bytes: &str) -> Vec<u16> {
    let mut client = front.connect().await;
    // May fail, because the server closes as soon as it has seen enough.
    _ = client.send(format!("{bytes}{TAIL}")).await;
    let mut statuses = Vec::new();
    loop {
        match client.response().await {
            Ok(response) => statuses.push(response.status()),
            Err(error) if error.kind() == ErrorKind::TimedOut => {
                panic!("{name}: the connection stays open after {statuses:?}")
            }
            Err(_) => return statuses,
        }
    }
}

async fn check(table: Vec<(String, String, AttemptOutcome)>) {
    let node = RawNode::start([healthy("node")]).await;
    let front = Front::over(&[node.address()]);
    let mut wrong = Vec::new();
    for (name, bytes, fate) in table {
        let before = node.seen().requests.len();
        let statuses = statuses(&front, &name, &bytes).await;
        front.idle().await;
        let requests = node.seen().requests.split_off(before);
        let allowed: &[u16] = match fate {
            Refused(allowed) => allowed,
            RefusedOrNormalised => &[400],
        };
        let refused =
            requests.is_empty() && statuses.len() <= 1 && statuses.iter().all(|status| allowed.contains(status));
        // One request with one kind of framing, and nothing of the bytes that followed it.
        let clear = |request: &Vec<u8>| {
            let head = String::from_utf8_lossy(request).to_ascii_lowercase();
            !(head.contains("content-length") && head.contains("transfer-encoding"))
                && find(request, b"/smuggled").is_none()
        };
        let normalised = statuses == [200] && requests.len() == 1 && requests.iter().all(clear);
        if !(refused || normalised && fate == RefusedOrNormalised) {
            let requests: Vec<_> = requests.iter().map(|request| request.escape_ascii().to_string()).collect();
            wrong.push(format!("{name}: responded {statuses:?}, the node saw {requests:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(front.get("/well").await.unwrap().text(), "node", "and good requests are still served");
}

#[tokio::test]
async fn ambiguous_framing_is_refused() {
    check(framing()).await;
}

#[tokio::test]
async fn ambiguous_and_oversized_heads_are_refused() {
    check(heads()).await;
}

#[tokio::test]
async fn bytes_after_a_request_to_upgrade_are_another_request() {
    let node = RawNode::start([healthy("node")]).await;
    let front = Front::over(&[node.address()]);
    for upgrade in ["websocket", "h2c", "foo"] {
        let before = node.seen().requests.len();
        let mut client = front.connect().await;
        let head = format!("GET / HTTP/1.1\r\nHost: kylin\r\nConnection: upgrade\r\nUpgrade: {upgrade}\r\n\r\n");
        client.send(format!("{head}{TAIL}")).await.unwrap();
        assert_eq!(client.response().await.unwrap().status(), 200);
        assert_eq!(client.response().await.unwrap().status(), 200);
        let seen = node.seen().texts().split_off(before);
        assert_eq!(seen.len(), 2, "{upgrade}");
        for request in seen {
            let request = request.to_ascii_lowercase();
            assert!(
                request.contains("\r\nx-forwarded-for: 127.0.0.1\r\n") && !request.contains("upgrade"),
                "{request}"
            );
        }
    }
}
