//! The request log, with a line for each request, and the query log, with a line for each query.

use std::cell::RefCell;
use std::io::Write as _;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kylin_lb::EndpointId;
use kylin_lb::observe::{Attempt, Detail, Finished, ObservedRequest, Observer, QueryFlags, Timestamp};
use serde_json::{Value, json};

use crate::log_file::LogFile;

/// The status in the log of a request whose client left before the response, as in nginx.
const CLIENT_CLOSED_REQUEST: u16 = 499;
/// The number of bytes of SQL that the query log shows. Generated queries may have megabytes.
const MAX_SQL: usize = 64 << 10;

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
    fn finished(&self, event: &Finished<'_>) {
        self.file.write(match self.format {
            RequestFormat::Combined => combined(event),
            RequestFormat::Json => request_json(event).to_string().into_bytes(),
        });
    }
}

/// Logs each query, as JSON.
pub struct QueryLog {
    pub file: LogFile,
    /// Writes the SQL too, with its literals.
    pub with_sql: bool,
    /// It is written too how the node got the result.
    pub with_flags: bool,
}

impl Observer for QueryLog {
    fn detail(&self) -> Detail {
        if self.with_sql { Detail::Sql } else { Detail::Query }
    }

    fn reads_query_flags(&self) -> bool {
        self.with_flags
    }

    fn finished(&self, event: &Finished<'_>) {
        let request = event.request;
        let Some(fingerprint) = request.fingerprint() else { return };
        let served = event.attempts.last();
        let mut line = json!({
            "time": Timestamp::from(request.at()).to_string(),
            "id": request.id(),
            "client": client(request),
            "user": request.user(),
            "project": request.project(),
            "class": request.class(),
            "fingerprint": format!("{fingerprint:016x}"),
            "node": served.map(|attempt| attempt.endpoint.as_str()),
            "why": served.map(|attempt| attempt.reason.as_str()),
            "attempts": event.attempts.len(),
            "waited": seconds(event.times.waiting),
            "queued": seconds(event.times.queued),
            "executed": served.map(|attempt| seconds(attempt.head.unwrap_or(attempt.total))),
            "total": seconds(event.times.total),
            "status": event.status.map(|status| status.as_u16()),
            "bytes": event.bytes,
            "outcome": event.termination.as_str(),
        });
        if self.with_flags {
            let flag = |read: fn(QueryFlags) -> Option<bool>| json!(event.query_flags.and_then(read));
            line["storage_cache_used"] = flag(|flags| flags.storage_cache_used);
            line["exception_cache_hit"] = flag(|flags| flags.exception_cache_hit);
            line["push_down"] = flag(|flags| flags.push_down);
        }
        if let Some(sql) = request.sql().filter(|_| self.with_sql) {
            let mut end = sql.len().min(MAX_SQL);
            while !sql.is_char_boundary(end) {
                end -= 1;
            }
            line["sql"] = sql[..end].into();
            if end < sql.len() {
                line["sql_bytes"] = sql.len().into();
            }
        }
        self.file.write(line.to_string());
    }
}

/// Appends the parts of a line as bytes: to format each of them would cost more than the rest of what observers do.
fn combined(event: &Finished<'_>) -> Vec<u8> {
    let request = event.request;
    let mut line = Vec::with_capacity(448);
    put_client(&mut line, request);
    put(&mut line, " - ");
    put_escaped(&mut line, request.user().unwrap_or("-").as_bytes());
    put(&mut line, " [");
    put_time_of_day(&mut line, request.at());
    put(&mut line, "] \"");
    put(&mut line, request.method().as_str());
    line.push(b' ');
    put_escaped(&mut line, request.target().as_bytes());
    // Writing to a vector cannot fail.
    _ = write!(line, " {:?}\" ", request.version());
    put_number(&mut line, event.status.map_or(CLIENT_CLOSED_REQUEST, |status| status.as_u16()).into());
    line.push(b' ');
    put_number(&mut line, event.bytes);
    put(&mut line, " \"");
    put_escaped(&mut line, request.referer().as_deref().unwrap_or("-").as_bytes());
    put(&mut line, "\" \"");
    put_escaped(&mut line, request.user_agent().map_or(b"-", |agent| agent.as_bytes()));
    let times = &event.times;
    for (name, time) in [
        ("\" rt=", Some(times.total)),
        (" wt=", Some(times.waiting)),
        (" qt=", Some(times.queued)),
        (" ct=", Some(times.connecting)),
        (" ht=", times.first_byte),
    ] {
        put(&mut line, name);
        match time {
            Some(time) => put_time(&mut line, time),
            None => line.push(b'-'),
        }
    }
    for (name, value) in [
        (" end=", event.termination.as_str()),
        (" class=", request.class().unwrap_or("-")),
        (" id=", request.id().unwrap_or("-")),
        (" node=", event.shared.map_or("", EndpointId::as_str)),
    ] {
        put(&mut line, name);
        put(&mut line, value);
    }
    if event.shared.is_none() {
        put_list(&mut line, event.attempts, ",", |line, attempt| put(line, attempt.endpoint.as_str()));
    }
    put(&mut line, " why=");
    put(&mut line, why(event));
    put(&mut line, " us=\"");
    put_list(&mut line, event.attempts, ", ", put_outcome);
    put(&mut line, "\" ut=\"");
    put_list(&mut line, event.attempts, ", ", |line, attempt| put_time(line, attempt.total));
    line.push(b'"');
    line
}

/// Returns why the node of the response was picked.
fn why(event: &Finished<'_>) -> &'static str {
    match event.shared {
        Some(_) => "shared",
        None => event.attempts.last().map_or("-", |attempt| attempt.reason.as_str()),
    }
}

/// Appends the status of the response to an attempt, or why there is none.
fn put_outcome(line: &mut Vec<u8>, attempt: &Attempt) {
    match (attempt.status, attempt.end) {
        (Some(status), _) => put(line, status.as_str()),
        (None, Some(end)) => put(line, end.as_str()),
        (None, None) => line.push(b'-'),
    }
}

fn request_json(event: &Finished<'_>) -> Value {
    let request = event.request;
    let attempts = event.attempts.iter().map(|attempt| {
        json!({
            "node": attempt.endpoint.as_str(),
            "address": &*attempt.address,
            "why": attempt.reason.as_str(),
            "phase": attempt.phase().as_str(),
            "end": attempt.end.map(|end| end.as_str()),
            "status": attempt.status.map(|status| status.as_u16()),
            "connect_time": attempt.connecting.map(seconds),
            "header_time": attempt.head.map(seconds),
            "response_time": seconds(attempt.total),
        })
    });
    json!({
        "time": Timestamp::from(request.at()).to_string(),
        "id": request.id(),
        "client": client(request),
        "user": request.user(),
        "method": request.method().as_str(),
        "target": request.target(),
        "protocol": format!("{:?}", request.version()),
        "host": request.host().map(|host| String::from_utf8_lossy(host.as_bytes())),
        "referer": request.referer(),
        "user_agent": request.user_agent().map(|agent| String::from_utf8_lossy(agent.as_bytes())),
        "class": request.class(),
        "status": event.status.map_or(CLIENT_CLOSED_REQUEST, |status| status.as_u16()),
        "bytes": event.bytes,
        "end": event.termination.as_str(),
        "shared": event.shared.map(EndpointId::as_str),
        "waiting_time": seconds(event.times.waiting),
        "queue_time": seconds(event.times.queued),
        "connect_time": seconds(event.times.connecting),
        "first_byte_time": event.times.first_byte.map(seconds),
        "request_time": seconds(event.times.total),
        "attempts": attempts.collect::<Vec<_>>(),
    })
}

fn client(request: &ObservedRequest) -> String {
    request.client().ip().map_or("unix:".into(), |ip| ip.to_canonical().to_string())
}

fn put(line: &mut Vec<u8>, text: &str) {
    line.extend_from_slice(text.as_bytes());
}

fn put_client(line: &mut Vec<u8>, request: &ObservedRequest) {
    // A socket for both families names IPv4 clients as IPv6 ones.
    match request.client().ip().map(|ip| ip.to_canonical()) {
        Some(IpAddr::V4(ip)) => {
            for (at, part) in ip.octets().into_iter().enumerate() {
                put(line, if at == 0 { "" } else { "." });
                put_number(line, part.into());
            }
        }
        Some(ip) => _ = write!(line, "{ip}"),
        None => put(line, "unix:"),
    }
}

fn put_number(line: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    line.extend_from_slice(&digits[start..]);
}

/// Appends seconds with milliseconds, as nginx writes times.
fn put_time(line: &mut Vec<u8>, duration: Duration) {
    let millis = duration.as_secs() * 1000 + u64::from((duration.subsec_nanos() + 500_000) / 1_000_000);
    put_number(line, millis / 1000);
    let (rest, digit) = (millis % 1000, |digit: u64| b'0' + digit as u8);
    line.extend_from_slice(&[b'.', digit(rest / 100), digit(rest / 10 % 10), digit(rest % 10)]);
}

/// Appends a time of day as the Common Log Format has it. Many requests come in one second, for which a thread formats it once.
fn put_time_of_day(line: &mut Vec<u8>, at: SystemTime) {
    thread_local! {
        static LAST: RefCell<(Option<u64>, String)> = const { RefCell::new((None, String::new())) };
    }
    let second = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    LAST.with_borrow_mut(|(last, text)| {
        if last.replace(second) != Some(second) {
            *text = Timestamp::from(at).common_log().to_string();
        }
        put(line, text);
    });
}

/// Appends one value for each attempt, in nginx's form for several upstreams; `-` without attempts.
fn put_list(line: &mut Vec<u8>, attempts: &[Attempt], separator: &str, value: impl Fn(&mut Vec<u8>, &Attempt)) {
    if attempts.is_empty() {
        line.push(b'-');
    }
    for (at, attempt) in attempts.iter().enumerate() {
        put(line, if at == 0 { "" } else { separator });
        value(line, attempt);
    }
}

fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e6
}

/// Appends text in which what could forge another field or another line is escaped, as in nginx (`ngx_http_log_escape`): quotes,
/// backslashes and bytes that are not printable ASCII become `\xXX`.
fn put_escaped(line: &mut Vec<u8>, text: &[u8]) {
    let is_plain = |byte: &u8| matches!(byte, 0x20..=0x7e) && !matches!(byte, b'"' | b'\\');
    if text.iter().all(is_plain) {
        line.extend_from_slice(text);
        return;
    }
    for byte in text {
        match is_plain(byte) {
            true => line.push(*byte),
            false => _ = write!(line, "\\x{byte:02X}"),
        }
    }
}
