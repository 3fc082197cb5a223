//! The request log, with a line for each request, and the query log, with a line for each query.

use std::borrow::Cow;
use std::fmt::{Display, Write as _};
use std::time::Duration;

use kylin_lb::EndpointId;
use kylin_lb::observe::{Attempt, Detail, Finished, ObservedRequest, Observer, Timestamp};
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
            RequestFormat::Json => request_json(event).to_string(),
        });
    }
}

/// Logs each query, as JSON.
pub struct QueryLog {
    pub file: LogFile,
    /// Writes the SQL too, with its literals.
    pub with_sql: bool,
}

impl Observer for QueryLog {
    fn detail(&self) -> Detail {
        if self.with_sql { Detail::Sql } else { Detail::Query }
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

fn combined(event: &Finished<'_>) -> String {
    let request = event.request;
    let mut line = String::with_capacity(320);
    let status = event.status.map_or(CLIENT_CLOSED_REQUEST, |status| status.as_u16());
    let user = request.user().map_or(Cow::Borrowed("-"), |user| escape(user.as_bytes()));
    let header = |value: Option<&[u8]>| value.map_or("-".into(), |value| escape(value).into_owned());
    let (referer, agent) = (request.referer(), request.user_agent());
    // Writing to a string cannot fail.
    _ = write!(
        line,
        "{} - {user} [{}] \"{} {} {:?}\" {status} {} \"{}\" \"{}\"",
        client(request),
        Timestamp::from(request.at()).common_log(),
        request.method(),
        escape(request.target().as_bytes()),
        request.version(),
        event.bytes,
        header(referer.as_ref().map(|referer| referer.as_bytes())),
        header(agent.map(|agent| agent.as_bytes())),
    );
    _ = write!(
        line,
        " rt={} wt={} qt={} ct={} ht={} end={} class={} id={}",
        time(event.times.total),
        time(event.times.waiting),
        time(event.times.queued),
        time(event.times.connecting),
        event.times.first_byte.map_or("-".into(), time),
        event.termination,
        request.class().unwrap_or("-"),
        request.id().unwrap_or("-"),
    );
    let attempts = event.attempts;
    _ = write!(
        line,
        " node={} why={} us=\"{}\" ut=\"{}\"",
        event.shared.map_or_else(
            || list(attempts, |attempt| attempt.endpoint.to_string()).replace(", ", ","),
            EndpointId::to_string
        ),
        why(event),
        list(attempts, outcome),
        list(attempts, |attempt| time(attempt.total)),
    );
    line
}

/// Returns why the node of the response was picked.
fn why(event: &Finished<'_>) -> &'static str {
    match event.shared {
        Some(_) => "shared",
        None => event.attempts.last().map_or("-", |attempt| attempt.reason.as_str()),
    }
}

/// Returns the status of the response to an attempt, or why there is none.
fn outcome(attempt: &Attempt) -> String {
    match (attempt.status, attempt.end) {
        (Some(status), _) => status.as_str().to_owned(),
        (None, Some(end)) => end.as_str().to_owned(),
        (None, None) => "-".to_owned(),
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
    request.client().ip().map_or("unix:".into(), |ip| ip.to_string())
}

/// Returns one value for each attempt, in nginx's form for several upstreams; `-` without attempts.
fn list<T: Display>(attempts: &[Attempt], value: impl Fn(&Attempt) -> T) -> String {
    let values: Vec<_> = attempts.iter().map(|attempt| value(attempt).to_string()).collect();
    if values.is_empty() { "-".into() } else { values.join(", ") }
}

/// Returns seconds with milliseconds, as nginx writes times.
fn time(duration: Duration) -> String {
    format!("{:.3}", duration.as_secs_f64())
}

fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e6
}

/// Escapes what could forge another field or another line, as nginx does (`ngx_http_log_escape`): quotes, backslashes and bytes that
/// are not printable ASCII become `\xXX`.
fn escape(text: &[u8]) -> Cow<'_, str> {
    let is_plain = |byte: &u8| matches!(byte, 0x20..=0x7e) && !matches!(byte, b'"' | b'\\');
    match std::str::from_utf8(text) {
        Ok(plain) if text.iter().all(is_plain) => Cow::Borrowed(plain),
        _ => {
            let mut escaped = String::with_capacity(text.len() + 16);
            for byte in text {
                match is_plain(byte) {
                    true => escaped.push(char::from(*byte)),
                    false => _ = write!(escaped, "\\x{byte:02X}"),
                }
            }
            Cow::Owned(escaped)
        }
    }
}
