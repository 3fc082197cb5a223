//! The meaning of a response: a result or an error of Kylin, a rejection, or a failure of the node.
//!
//! The status alone is not enough. Kylin 2.x-4.x returns 500 for a typo in SQL (apache/kylin 3.1.3
//! QueryService.java:485-486). Kylin 5 returns 200 for a failed query (kylin5
//! QueryService.java:654-666). A request that was rejected before execution, and may go to another
//! node, looks like any other error. So the beginning of some bodies is read.

mod flags;
mod json;
mod login;
mod phrases;
mod result;

use std::borrow::Cow;
use std::io::Read;
use std::ops::ControlFlow;

use flate2::read::GzDecoder;
use http::{HeaderMap, StatusCode, header};
use memchr::memchr;

pub(crate) use self::flags::BodyTail;
pub use self::flags::QueryFlags;
use self::json::{Level, Value};
#[cfg(feature = "login-relay")]
pub(crate) use self::login::CredentialCheck;
pub(crate) use self::login::is_user_source_down;
#[cfg(feature = "login-relay")]
pub(crate) use self::login::names_no_user;
use self::phrases::{class_by_code, rejection_by_message};
#[cfg(feature = "cache")]
pub(crate) use self::result::QueryResult;
pub(crate) use self::result::{NoResult, read_result};
use super::KylinVersion;
use super::class::RequestClass;

/// The bytes of an error that are read. Its message may follow a stack trace.
const MAX_ERROR_PEEK: usize = 32 * 1024;

/// The bytes of a successful response that are read. A rejection in it is short.
const MAX_SUCCESS_PEEK: usize = 4 * 1024;

/// Tomcat's page for the race that tomcat-redis-session-manager has between nodes
/// (RedisSessionManager.java:388-389 of 1.2).
const SESSION_RACE: &[u8] = b"Race condition encountered: attempted to load session";

/// The class of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum ResponseClass {
    /// A result, or an error that every node would return.
    Final,
    /// The node rejected the request and did not execute it.
    Rejected(Rejection),
    /// A fault of the whole cluster, which every node returns.
    ClusterFault(ClusterFault),
    /// A failure of the node: an error that Kylin did not write.
    NodeFailure,
    /// A 404 that Kylin did not write. While a Tomcat is stopping or starting, it responds in this
    /// way and Kylin does not run there.
    NotFound,
    /// The node does not know the caller. Filters return this before anything is executed.
    Unauthenticated(Credentials),
    /// An error whose body cannot be read, because its coding is not gzip, the only one of Tomcat.
    /// A rejection in it goes unnoticed.
    Unreadable,
}

impl ResponseClass {
    /// Returns whether the node did better than one that failed at the request.
    pub(crate) fn is_better_than_failure(self) -> bool {
        !self.is_refusal() && self != ResponseClass::NodeFailure
    }

    /// Returns whether the node refused the request before it executed any part of it. Such a node
    /// did no better than a node that failed at the request.
    pub(crate) fn is_refusal(self) -> bool {
        matches!(self, ResponseClass::Rejected(_) | ResponseClass::ClusterFault(_) | ResponseClass::Unauthenticated(_))
    }
}

/// Returns whether this status shows that a write was not executed. The filters before Kylin's
/// handlers ask for a login, redirect to the login page, or deny access. Kylin redirects no write.
pub(crate) fn denies_access(status: StatusCode) -> bool {
    status.is_redirection() || matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
}

/// The reason why a node did not execute a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Rejection {
    /// The role of the node does not include the request.
    Role,
    /// The node runs as many queries as it may.
    Busy,
    /// Kylin does not run at the node. The response was [`NotFound`](ResponseClass::NotFound) for a
    /// call that returns JSON in every version, and a check found no Kylin at the node.
    NotRunning,
    /// The shared store of tomcat-redis-session-manager does not have the session yet. It is
    /// inferred that no handler ran.
    SessionRace,
}

/// A fault that all nodes share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum ClusterFault {
    /// Maintenance mode.
    Maintenance,
    /// Metadata is being recovered.
    Recovering,
    /// No node of mode `all` or `job` is active.
    NoActiveNode,
    /// A node could not forward the request to the responsible node.
    Transfer,
    /// The metastore is unreachable.
    Metastore,
    /// The user source (LDAP) is unreachable, so no credentials can be checked.
    UserSource,
}

/// The credentials that a request carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Credentials {
    /// None.
    None,
    /// A session, in a cookie or in the path, which another node may know.
    Session,
    /// `Authorization` or a login form. Sending it again may lock the user (kylin5
    /// LimitLoginAuthenticationProvider).
    Authorization,
}

/// The error for a response that cannot be classified without the beginning of its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct NeedsBody {
    /// The number of bytes that [`classify_body`] needs.
    pub(crate) max: usize,
}

/// Classifies the response to a request of `class` by its head, which is enough for most responses.
///
/// # Errors
/// [`NeedsBody`] if the body decides.
pub(crate) fn classify_head(
    class: RequestClass,
    version: Option<KylinVersion>,
    sent: Credentials,
    status: StatusCode,
    headers: &HeaderMap,
) -> Result<ResponseClass, NeedsBody> {
    if status == StatusCode::UNAUTHORIZED {
        return Ok(ResponseClass::Unauthenticated(sent));
    }
    let coding = Coding::of(headers);
    let is_json = is_json(headers);
    if !(status.is_client_error() || status.is_server_error()) {
        // Kylin 5 rejects a query with 200 if it runs too many. Such a response is short, so it is
        // not compressed (application.yaml of kylin5: from 51200 bytes on).
        let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        let is_short = length.is_none_or(|length: u64| length <= MAX_SUCCESS_PEEK as u64);
        let may_reject = class.is_query() && version != Some(KylinVersion::V4);
        // If the session is unknown, Kylin does not respond to `GET /user/authentication` with 401.
        let may_be_unknown = class == RequestClass::Login && sent == Credentials::Session;
        return if (may_reject || may_be_unknown)
            && status == StatusCode::OK
            && is_json
            && coding == Coding::Identity
            && is_short
        {
            Err(NeedsBody { max: MAX_SUCCESS_PEEK })
        } else {
            Ok(ResponseClass::Final)
        };
    }
    match (is_json, coding != Coding::Other) {
        (true, true) => Err(NeedsBody { max: MAX_ERROR_PEEK }),
        (true, false) => Ok(ResponseClass::Unreadable),
        (false, true) if status == StatusCode::INTERNAL_SERVER_ERROR => Err(NeedsBody { max: MAX_ERROR_PEEK }),
        (false, _) => Ok(class_without_json(status)),
    }
}

/// Classifies a response by the beginning of its body, which may be truncated anywhere. A body that
/// is gzip according to its headers is decompressed.
pub(crate) fn classify_body(
    class: RequestClass,
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
) -> ResponseClass {
    let body = &*match Coding::of(headers) {
        Coding::Gzip => Cow::Owned(gunzip(body)),
        Coding::Identity | Coding::Other => Cow::Borrowed(body),
    };
    if status.is_success() {
        return if class == RequestClass::Login { class_of_login(body) } else { class_of_success(body) };
    }
    // An HTML page whose header says JSON was not written by Kylin.
    let is_object = is_json(headers) && body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
    if !is_object {
        let is_race = status == StatusCode::INTERNAL_SERVER_ERROR
            && body.windows(SESSION_RACE.len()).any(|window| window == SESSION_RACE);
        return if is_race { ResponseClass::Rejected(Rejection::SessionRace) } else { class_without_json(status) };
    }
    let (mut by_code, mut by_message) = (None, None);
    json::members(body, |level, name, value| {
        let (Level::Top, Value::Text(text)) = (level, value) else { return ControlFlow::Continue(()) };
        if matches!(name, b"code" | b"error_code" | b"msg" | b"exception") {
            let text = text.decode();
            by_code = by_code.or_else(|| class_by_code(&text));
            // Phrases count only where Kylin uses them to reject queries.
            if name == b"msg" && class.is_query() {
                by_message = by_message.or_else(|| rejection_by_message(&text));
            }
        }
        if by_code.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    by_code.or(by_message.map(ResponseClass::Rejected)).unwrap_or(ResponseClass::Final)
}

/// The coding of a body.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Coding {
    Identity,
    /// The only coding of Tomcat, used above 2048 bytes, which an error with its stack trace easily
    /// reaches.
    Gzip,
    Other,
}

impl Coding {
    fn of(headers: &HeaderMap) -> Self {
        // Hardly any response has one.
        if !headers.contains_key(header::CONTENT_ENCODING) {
            return Coding::Identity;
        }
        let mut codings =
            headers.get_all(header::CONTENT_ENCODING).into_iter().map(|coding| coding.as_bytes().trim_ascii());
        match (codings.next(), codings.next()) {
            (None, _) => Coding::Identity,
            (Some(coding), None) if coding.eq_ignore_ascii_case(b"identity") || coding.is_empty() => Coding::Identity,
            (Some(coding), None) if coding.eq_ignore_ascii_case(b"gzip") || coding.eq_ignore_ascii_case(b"x-gzip") => {
                Coding::Gzip
            }
            _ => Coding::Other,
        }
    }
}

/// Returns the beginning of the decompressed body, which may be truncated anywhere. The result is
/// empty if the body is not gzip.
fn gunzip(body: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    // A truncated body fails at its end; the text before that counts.
    let _ = GzDecoder::new(body).take(MAX_ERROR_PEEK as u64).read_to_end(&mut plain);
    plain
}

/// Classifies a response whose body Kylin did not write. 501 and 505 are Tomcat's errors about the
/// request itself.
fn class_without_json(status: StatusCode) -> ResponseClass {
    match status {
        StatusCode::NOT_IMPLEMENTED | StatusCode::HTTP_VERSION_NOT_SUPPORTED => ResponseClass::Final,
        StatusCode::NOT_FOUND => ResponseClass::NotFound,
        status if status.is_server_error() => ResponseClass::NodeFailure,
        _ => ResponseClass::Final,
    }
}

/// Classifies the response to a request with a session cookie that asks who is logged in. If a node
/// of Kylin 2.x-4.x does not know the session, it responds with an empty object (apache/kylin 3.1.3
/// UserController.java). KAP wraps that in its envelope.
fn class_of_login(body: &[u8]) -> ResponseClass {
    let mut is_empty = body.trim_ascii().starts_with(b"{") && body.trim_ascii().ends_with(b"}");
    json::members(body, |level, name, value| {
        let is_of_envelope = match name {
            b"code" | b"msg" => true,
            b"data" => matches!(value, Value::Object | Value::Bare("null")),
            _ => false,
        };
        is_empty &= is_of_envelope && level == Level::Top;
        if is_empty { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    if is_empty { ResponseClass::Unauthenticated(Credentials::Session) } else { ResponseClass::Final }
}

/// Classifies a response of Kylin 5 with status 200, `isException` and a message in its envelope. A
/// response with rows is a result.
fn class_of_success(body: &[u8]) -> ResponseClass {
    let (mut is_exception, mut rejection) = (false, None);
    json::members(body, |_, name, value| {
        match (name, value) {
            (b"results" | b"columnMetas", Value::Array { filled: true }) => return ControlFlow::Break(()),
            (b"isException", Value::Bare(value)) => is_exception = value == "true",
            (b"exceptionMessage", Value::Text(text)) => rejection = rejection_by_message(&text.decode()),
            _ => {}
        }
        ControlFlow::Continue(())
    });
    match rejection {
        Some(rejection) if is_exception => ResponseClass::Rejected(rejection),
        _ => ResponseClass::Final,
    }
}

/// Returns whether the content type is `application/json`, or one of Kylin's such as
/// `application/vnd.apache.kylin-v4+json`.
pub(crate) fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return false };
    let media = value.as_bytes();
    let media = memchr(b';', media).map_or(media, |end| &media[..end]).trim_ascii();
    media
        .split_last_chunk::<5>()
        .is_some_and(|(_, end)| matches!(end[0], b'/' | b'+') && end[1..].eq_ignore_ascii_case(b"json"))
}

#[cfg(test)]
mod tests;
