//! The request log, with a line per request, and the query log, with a line per query.

mod combined;
mod json;
mod line;

use std::borrow::Cow;
use std::cell::RefCell;
use std::net::IpAddr;

use kylin_lb::observe::{Detail, EventKind, Finished, ObservedRequest, Observer};

use self::line::Line;
use crate::log_file::LogFile;

/// The status in the log of a request whose client left before the response, as in nginx.
const CLIENT_CLOSED_REQUEST: u16 = 499;
/// The maximum length of a value that a client chose. In JSON it is in characters. In `combined`,
/// which escapes bytes, it is in bytes. Only targets may be longer, because heads have a limit.
const MAX_VALUE: usize = 256;
/// The classes of requests that execute SQL.
const QUERIES: [&str; 4] = ["query", "prepare", "export", "async_submit"];

#[derive(Clone, Copy, Default)]
pub enum RequestFormat {
    /// nginx's `combined`, followed by the times, the nodes and the outcome of the request.
    #[default]
    Combined,
    Json,
}

/// Parses the value of `--access-log-format`.
pub fn format(text: &str) -> Result<RequestFormat, String> {
    match text {
        "combined" => Ok(RequestFormat::Combined),
        "json" => Ok(RequestFormat::Json),
        _ => Err(format!("--access-log-format {text}: expected combined or json")),
    }
}

/// Logs each request.
pub struct RequestLog {
    pub file: LogFile,
    pub format: RequestFormat,
}

impl Observer for RequestLog {
    fn wants(&self, kind: EventKind) -> bool {
        kind == EventKind::Finished
    }

    fn finished(&self, event: &Finished<'_>) {
        with_line(|line| {
            match self.format {
                RequestFormat::Combined => combined::put_request(line, event),
                RequestFormat::Json => json::put_request(line, event),
            }
            self.file.write(line.as_bytes());
        });
    }
}

/// Logs each query as JSON. The fingerprint is null if the SQL was not read.
pub struct QueryLog {
    pub file: LogFile,
    /// Whether to write the SQL too, with its literals.
    pub with_sql: bool,
    /// Whether to write how the node got the result.
    pub with_flags: bool,
}

impl Observer for QueryLog {
    fn detail(&self) -> Detail {
        if self.with_sql { Detail::Sql } else { Detail::Query }
    }

    fn reads_query_flags(&self) -> bool {
        self.with_flags
    }

    fn wants(&self, kind: EventKind) -> bool {
        kind == EventKind::Finished
    }

    fn finished(&self, event: &Finished<'_>) {
        let request = event.request;
        // The SQL of some queries is not read: if the body is long, compressed or not JSON, or the
        // query is asynchronous.
        if request.fingerprint().is_none() && !request.class().is_some_and(|class| QUERIES.contains(&class)) {
            return;
        }
        with_line(|line| {
            json::put_query(line, event, self);
            self.file.write(line.as_bytes());
        });
    }
}

/// Calls `write` with an empty line, whose memory a thread keeps for the next one.
fn with_line(write: impl FnOnce(&mut Line)) {
    thread_local! {
        static LINE: RefCell<Line> = const { RefCell::new(Line::new()) };
    }
    LINE.with_borrow_mut(|line| {
        line.clear();
        write(line);
    });
}

/// Returns a value that a client chose; of a long value, only the beginning and an ellipsis.
fn cut(value: &str) -> Cow<'_, str> {
    // A character has at least one byte.
    let end = if value.len() <= MAX_VALUE { None } else { value.char_indices().nth(MAX_VALUE) };
    match end {
        Some((end, _)) => Cow::Owned(format!("{}...", &value[..end])),
        None => Cow::Borrowed(value),
    }
}

/// The text of each octet of an address, followed by a dot and zeros.
static OCTETS: [[u8; 4]; 256] = {
    let mut octets = [[0; 4]; 256];
    let mut octet: usize = 0;
    while octet < 256 {
        let [hundreds, tens, ones] = [octet / 100, octet / 10 % 10, octet % 10];
        let [hundreds, tens, ones] = [b'0' + hundreds as u8, b'0' + tens as u8, b'0' + ones as u8];
        octets[octet] = match octet {
            0..10 => [ones, b'.', 0, 0],
            10..100 => [tens, ones, b'.', 0],
            _ => [hundreds, tens, ones, b'.'],
        };
        octet += 1;
    }
    octets
};

/// Calls `put` with the address of a client as text.
fn with_client<R>(request: &ObservedRequest, put: impl FnOnce(&[u8]) -> R) -> R {
    // A dual-stack socket shows IPv4 clients as IPv6 clients.
    match request.client().ip().map(|ip| ip.to_canonical()) {
        Some(IpAddr::V4(ip)) => {
            let (mut text, mut end) = ([0; 16], 0);
            for octet in ip.octets() {
                // The next octet overwrites the zeros after a short one.
                [text[end], text[end + 1], text[end + 2], text[end + 3]] = OCTETS[usize::from(octet)];
                end += 2 + usize::from(octet >= 10) + usize::from(octet >= 100);
            }
            put(&text[..end - 1])
        }
        Some(ip) => put(ip.to_string().as_bytes()),
        None => put(b"unix:"),
    }
}
