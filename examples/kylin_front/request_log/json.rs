//! The lines in JSON, with the names in alphabetical order.

use std::borrow::Cow;
use std::time::Duration;

use http::HeaderValue;
use kylin_lb::EndpointId;
use kylin_lb::observe::{Attempt, Finished, ObservedRequest, Timestamp};
use serde::Serialize;

use super::line::Line;
use super::{CLIENT_CLOSED_REQUEST, QueryLog, cut, with_client};

/// The maximum number of bytes of SQL that the query log shows. Generated queries may have
/// megabytes.
const MAX_SQL: usize = 64 << 10;

#[derive(Serialize)]
struct RequestLine<'a> {
    attempts: Vec<AttemptPart<'a>>,
    bytes: u64,
    class: Option<&'static str>,
    client: String,
    connect_time: f64,
    end: &'static str,
    first_byte_time: Option<f64>,
    host: Option<Cow<'a, str>>,
    id: Option<&'a str>,
    method: &'a str,
    protocol: String,
    queue_time: f64,
    referer: Option<Cow<'a, str>>,
    request_time: f64,
    shared: Option<&'a str>,
    status: u16,
    target: Cow<'a, str>,
    time: String,
    user: Option<Cow<'a, str>>,
    user_agent: Option<Cow<'a, str>>,
    waiting_time: f64,
}

#[derive(Serialize)]
struct AttemptPart<'a> {
    address: &'a str,
    connect_time: Option<f64>,
    end: Option<&'static str>,
    header_time: Option<f64>,
    node: &'a str,
    phase: &'static str,
    response_time: f64,
    status: Option<u16>,
    why: &'static str,
}

#[derive(Serialize)]
struct QueryLine<'a> {
    attempts: usize,
    bytes: u64,
    class: Option<&'static str>,
    client: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    exception_cache_hit: Option<Option<bool>>,
    executed: Option<f64>,
    fingerprint: Option<String>,
    id: Option<&'a str>,
    node: Option<&'a str>,
    outcome: &'static str,
    project: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    push_down: Option<Option<bool>>,
    queued: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    sql: Option<&'a str>,
    /// Set only if not all of them are shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    sql_bytes: Option<usize>,
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    storage_cache_used: Option<Option<bool>>,
    time: String,
    total: f64,
    user: Option<Cow<'a, str>>,
    waited: f64,
    why: Option<&'static str>,
}

/// Appends the line of a request.
pub(super) fn put_request(line: &mut Line, event: &Finished<'_>) {
    let (request, times) = (event.request, &event.times);
    let fields = RequestLine {
        attempts: event.attempts.iter().map(AttemptPart::of).collect(),
        bytes: event.bytes,
        class: request.class(),
        client: client(request),
        connect_time: seconds(times.connecting),
        end: event.termination.as_str(),
        first_byte_time: times.first_byte.map(seconds),
        host: request.host().map(lossy),
        id: request.id(),
        method: request.method().as_str(),
        protocol: format!("{:?}", request.version()),
        queue_time: seconds(times.queued),
        referer: request.referer().map(cut_owned),
        request_time: seconds(times.total),
        shared: event.shared.map(EndpointId::as_str),
        status: event.status.map_or(CLIENT_CLOSED_REQUEST, |status| status.as_u16()),
        target: request.target(),
        time: Timestamp::from(request.at()).to_string(),
        user: request.user().map(cut),
        user_agent: request.user_agent().map(lossy),
        waiting_time: seconds(times.waiting),
    };
    put(line, &fields);
}

impl<'a> AttemptPart<'a> {
    fn of(attempt: &'a Attempt) -> Self {
        AttemptPart {
            address: &attempt.address,
            connect_time: attempt.connecting.map(seconds),
            end: attempt.end.map(|end| end.as_str()),
            header_time: attempt.head.map(seconds),
            node: attempt.endpoint.as_str(),
            phase: attempt.phase().as_str(),
            response_time: seconds(attempt.total),
            status: attempt.status.map(|status| status.as_u16()),
            why: attempt.reason.as_str(),
        }
    }
}

/// Appends the line of a query.
pub(super) fn put_query(line: &mut Line, event: &Finished<'_>, log: &QueryLog) {
    let (request, served) = (event.request, event.attempts.last());
    let flags = event.query_flags.unwrap_or_default();
    let shown = request.sql().filter(|_| log.with_sql);
    let fields = QueryLine {
        attempts: event.attempts.len(),
        bytes: event.bytes,
        class: request.class(),
        client: client(request),
        exception_cache_hit: log.with_flags.then_some(flags.exception_cache_hit),
        executed: served.map(|attempt| seconds(attempt.head.unwrap_or(attempt.total))),
        fingerprint: request.fingerprint().map(|fingerprint| format!("{fingerprint:016x}")),
        id: request.id(),
        node: served.map(|attempt| &attempt.endpoint).or(event.shared).map(EndpointId::as_str),
        outcome: event.termination.as_str(),
        project: request.project().map(cut),
        push_down: log.with_flags.then_some(flags.push_down),
        queued: seconds(event.times.queued),
        sql: shown.map(cut_sql),
        sql_bytes: shown.map(str::len).filter(|bytes| *bytes > MAX_SQL),
        status: event.status.map(|status| status.as_u16()),
        storage_cache_used: log.with_flags.then_some(flags.storage_cache_used),
        time: Timestamp::from(request.at()).to_string(),
        total: seconds(event.times.total),
        user: request.user().map(cut),
        waited: seconds(event.times.waiting),
        why: served.map(|attempt| attempt.reason.as_str()).or(event.shared.map(|_| "shared")),
    };
    put(line, &fields);
}

/// Returns the beginning of the SQL that is shown.
fn cut_sql(sql: &str) -> &str {
    let mut end = sql.len().min(MAX_SQL);
    while !sql.is_char_boundary(end) {
        end -= 1;
    }
    &sql[..end]
}

fn put(line: &mut Line, value: &impl Serialize) {
    // Writing to a line cannot fail, and no map has a key that is not text.
    _ = serde_json::to_writer(line, value);
}

fn client(request: &ObservedRequest) -> String {
    with_client(request, |text| String::from_utf8_lossy(text).into_owned())
}

fn lossy(value: &HeaderValue) -> Cow<'_, str> {
    cut_owned(String::from_utf8_lossy(value.as_bytes()))
}

fn cut_owned(value: Cow<'_, str>) -> Cow<'_, str> {
    match value {
        Cow::Borrowed(value) => cut(value),
        Cow::Owned(value) => Cow::Owned(cut(&value).into_owned()),
    }
}

fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e6
}
