//! What an answer means: Kylin's own word, or a failure of the node that gave it.
//!
//! The status does not say. Kylin 2.x-4.x answers a typo in SQL with 500 (apache/kylin 3.1.3 QueryService.java:485-486), Kylin 5
//! a failed query with 200 (kylin5 QueryService.java:654-666), and what is refused before it was carried out - and may therefore
//! go elsewhere - looks like any other error. So the beginning of some bodies is read.

mod words;

use std::borrow::Cow;
use std::io::Read;
use std::ops::ControlFlow;

use flate2::read::GzDecoder;
use http::{HeaderMap, StatusCode, header};

use self::words::{code_of, refusal_by_code, refusal_by_message, trouble_by_code};
use super::class::{KylinVersion, RequestClass};
use super::json::{self, Level, Value};

/// How much of an error is read: its message may stand behind a stack trace.
const ERROR_PEEK: usize = 32 * 1024;

/// How much of a good answer is read: a refusal in it is short.
const GOOD_PEEK: usize = 4 * 1024;

/// Tomcat's page for the race that tomcat-redis-session-manager has between nodes (RedisSessionManager.java:388-389 of 1.2).
const SESSION_RACE: &[u8] = b"Race condition encountered: attempted to load session";

/// What an answer means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ResponseClass {
    /// It is for the client: a result, or an error that every node would give.
    Answer,
    /// The node refused the request and did nothing.
    Refused(Rejection),
    /// The whole cluster is in trouble or under maintenance: every node says so.
    ClusterWide(ClusterFault),
    /// The node is not well: an error that Kylin did not write.
    NodeFailure,
    /// The caller is not known here. Filters say so before anything is carried out.
    Unauthenticated(Credentials),
    /// It is an error whose body cannot be read, because it is encoded in another way than by gzip, which is all that Tomcat does.
    /// Refusals go unnoticed then.
    Unreadable,
}

/// Why a node did nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Rejection {
    /// Its role does not include this.
    Role,
    /// It has as many queries as it takes.
    Busy,
    /// The session is not yet to be had from the shared store of tomcat-redis-session-manager. That this happens before a
    /// handler runs is inferred.
    SessionRace,
}

/// What all nodes suffer from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ClusterFault {
    /// Maintenance mode.
    Maintenance,
    /// Metadata is being recovered.
    Recovering,
    /// No node of mode `all` or `job` is there to take it.
    NoActiveNode,
    /// A node could not hand the request to the one that is responsible.
    Transfer,
    /// The metastore cannot be reached.
    Metastore,
}

/// What a request had to show who sends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Credentials {
    /// Nothing.
    None,
    /// A session cookie, which another node may know.
    Cookie,
    /// `Authorization`: sent again it may lock the user (kylin5 LimitLoginAuthenticationProvider).
    Authorization,
}

/// What the head of an answer tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Head {
    /// All there is to know.
    Is(ResponseClass),
    /// [`from_body`] must see the beginning of the body, at most so many bytes.
    Peek(usize),
}

/// Judges the head of an answer to a request of `class`. Cheap; most answers need no more.
pub fn from_head(
    class: RequestClass,
    version: Option<KylinVersion>,
    sent: Credentials,
    status: StatusCode,
    headers: &HeaderMap,
) -> Head {
    if status == StatusCode::UNAUTHORIZED {
        return Head::Is(ResponseClass::Unauthenticated(sent));
    }
    let coding = Coding::of(headers);
    let json = is_json(headers);
    if !(status.is_client_error() || status.is_server_error()) {
        // Kylin 5 says with 200 that it has too many queries; such an answer is short.
        let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        let short = length.is_none_or(|length: u64| length <= GOOD_PEEK as u64);
        let may_refuse = class.is_query() && version != Some(KylinVersion::V4) && status == StatusCode::OK;
        // It is also too short to be compressed (application.yaml of kylin5: from 51200 bytes on).
        return if may_refuse && json && coding == Coding::Plain && short {
            Head::Peek(GOOD_PEEK)
        } else {
            Head::Is(ResponseClass::Answer)
        };
    }
    match (json, coding != Coding::Other) {
        (true, true) => Head::Peek(ERROR_PEEK),
        (true, false) => Head::Is(ResponseClass::Unreadable),
        (false, true) if status == StatusCode::INTERNAL_SERVER_ERROR => Head::Peek(ERROR_PEEK),
        (false, _) => Head::Is(without_json(status)),
    }
}

/// Judges an answer by the beginning of its body as well; `body` is as it came, compressed by gzip if the headers say so, and may be
/// cut anywhere.
pub fn from_body(class: RequestClass, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> ResponseClass {
    let body = &*match Coding::of(headers) {
        Coding::Gzip => Cow::Owned(gunzip(body)),
        Coding::Plain | Coding::Other => Cow::Borrowed(body),
    };
    if status.is_success() {
        return refused_with_200(body);
    }
    // An HTML page that calls itself JSON is still not Kylin's.
    let json = is_json(headers) && body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
    if !json {
        let race = status == StatusCode::INTERNAL_SERVER_ERROR
            && body.windows(SESSION_RACE.len()).any(|window| window == SESSION_RACE);
        return if race { ResponseClass::Refused(Rejection::SessionRace) } else { without_json(status) };
    }
    let (mut by_code, mut by_message) = (None, None);
    json::fields(body, |level, key, value| {
        let (Level::Top, Value::Text(text)) = (level, value) else { return ControlFlow::Continue(()) };
        match key {
            "code" | "error_code" => by_code = by_code.or_else(|| meaning_of(code_of(&text)?)),
            "msg" | "exception" => {
                by_code = by_code.or_else(|| meaning_of(code_of(&text)?));
                // Words count only where Kylin refuses queries with them.
                let words = key == "msg" && class.is_query();
                by_message = by_message.or_else(|| words.then(|| refusal_by_message(&text)).flatten());
            }
            _ => {}
        }
        if by_code.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    by_code.or(by_message.map(ResponseClass::Refused)).unwrap_or(ResponseClass::Answer)
}

/// How a body is encoded.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Coding {
    Plain,
    /// Tomcat's only one: above 2048 bytes, which an error with its stack trace easily has.
    Gzip,
    Other,
}

impl Coding {
    fn of(headers: &HeaderMap) -> Self {
        let mut codings =
            headers.get_all(header::CONTENT_ENCODING).into_iter().map(|coding| coding.as_bytes().trim_ascii());
        match (codings.next(), codings.next()) {
            (None, _) => Coding::Plain,
            (Some(coding), None) if coding.eq_ignore_ascii_case(b"identity") || coding.is_empty() => Coding::Plain,
            (Some(coding), None) if coding.eq_ignore_ascii_case(b"gzip") || coding.eq_ignore_ascii_case(b"x-gzip") => {
                Coding::Gzip
            }
            _ => Coding::Other,
        }
    }
}

/// The beginning of what `body`, itself cut anywhere, was before it was compressed; what is no gzip is empty.
fn gunzip(body: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    // What was read before it fails counts: nothing is wrong with a body that was cut.
    let _ = GzDecoder::new(body).take(ERROR_PEEK as u64).read_to_end(&mut plain);
    plain
}

fn meaning_of(code: &str) -> Option<ResponseClass> {
    refusal_by_code(code).map(ResponseClass::Refused).or_else(|| trouble_by_code(code).map(ResponseClass::ClusterWide))
}

/// An answer whose body Kylin did not write. 501 and 505 are Tomcat's word on the request itself.
fn without_json(status: StatusCode) -> ResponseClass {
    let request = matches!(status, StatusCode::NOT_IMPLEMENTED | StatusCode::HTTP_VERSION_NOT_SUPPORTED);
    if status.is_server_error() && !request { ResponseClass::NodeFailure } else { ResponseClass::Answer }
}

/// Kylin 5: 200, `isException` and a message, in the envelope. Rows end the search: such an answer has none.
fn refused_with_200(body: &[u8]) -> ResponseClass {
    let (mut exception, mut refusal) = (false, None);
    json::fields(body, |_, key, value| {
        match (key, value) {
            ("results" | "columnMetas", Value::Array { filled: true }) => return ControlFlow::Break(()),
            ("isException", Value::Bare(value)) => exception = value == "true",
            ("exceptionMessage", Value::Text(text)) => refusal = refusal_by_message(&text),
            _ => {}
        }
        ControlFlow::Continue(())
    });
    match refusal {
        Some(refusal) if exception => ResponseClass::Refused(refusal),
        _ => ResponseClass::Answer,
    }
}

/// `application/json`, or Kylin's own `application/vnd.apache.kylin-v4+json`.
fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media = value.split(';').next().unwrap_or_default().trim();
    let ends = |suffix: &str| {
        let at = media.len().checked_sub(suffix.len());
        at.and_then(|at| media.get(at..)).is_some_and(|end| end.eq_ignore_ascii_case(suffix))
    };
    ends("/json") || ends("+json")
}

#[cfg(test)]
mod tests;
