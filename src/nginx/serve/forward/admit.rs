//! Decides whether a location admits a request, in the order of nginx's phases: `limit_req`,
//! `limit_conn`, then `allow`, `deny` and `auth_basic`.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Response, StatusCode, header, request};

use crate::nginx::directives::settings::{Access, BlockSettings, InFlight, LimitConn, LimitReq, TooMany};
use crate::nginx::htpasswd::{PasswordCheck, PasswordFile};
use crate::nginx::variables::Scope;
use crate::proxy::{BasicCredentials, ErrorResponse};
use crate::{Body, ClientAddr};

const DENIED: ErrorResponse = ErrorResponse::new(StatusCode::FORBIDDEN, "the configuration denies the client the path");

const UNAUTHORIZED: ErrorResponse =
    ErrorResponse::new(StatusCode::UNAUTHORIZED, "the front end asks for a user name and a password");

const NO_PASSWORDS: ErrorResponse =
    ErrorResponse::new(StatusCode::INTERNAL_SERVER_ERROR, "the file of passwords cannot be read");

const TOO_MANY_PASSWORDS: ErrorResponse =
    ErrorResponse::new(StatusCode::SERVICE_UNAVAILABLE, "the front end has too many passwords to verify");

/// The checks that a request has passed.
///
/// After a pause or an internal redirect, the request is routed again, but must not be counted
/// twice. That includes a request that a limit has refused: its error page must not be refused too.
#[derive(Default)]
pub(super) struct PassedChecks {
    /// Whether `limit_req` has counted the request.
    limit_req: bool,
    /// The time for which `limit_req` has delayed the request.
    pub(super) waited: Duration,
    /// Whether `limit_conn` has counted the request.
    limit_conn: bool,
    /// The guard that counts the request for `limit_conn` until it is dropped.
    pub(super) in_flight: Option<InFlight>,
    /// The result of checking the credentials against a password file. Another location may have
    /// another file.
    password: Option<(Arc<PasswordFile>, PasswordCheck)>,
    /// The client, if a rule of this location or server has named it.
    pub(super) client: Option<ClientAddr>,
    /// The client, if it was named before an internal redirect. Later rules do not change it.
    pub(super) named: Option<ClientAddr>,
}

/// The event for which a request waits before it is routed again.
pub(super) enum Pause {
    /// `limit_req` delays the request.
    Wait(Duration),
    /// `auth_basic` needs the credentials of the request verified.
    Verify(Arc<PasswordFile>, BasicCredentials),
}

/// The reason why a location does not serve a request.
pub(super) enum Refused {
    Error(ErrorResponse),
    /// The client must send credentials; this is the challenge.
    Unauthorized(HeaderValue),
}

/// Counts a request against the limits of a location, and checks its access. Returns the pause that
/// the request needs, if any.
pub(super) fn admit(
    settings: &BlockSettings,
    scope: &Scope<'_>,
    passed: &mut PassedChecks,
) -> Result<Option<Pause>, Refused> {
    let too_many = |status: Option<u16>| {
        let status = status.and_then(|status| StatusCode::from_u16(status).ok());
        ErrorResponse::new(status.unwrap_or(StatusCode::SERVICE_UNAVAILABLE), "the client sends too many requests")
    };
    if !passed.limit_req {
        // If this location has no limits, a later location counts the request: that of `try_files`
        // or an error page.
        passed.limit_req = LimitReq::concern(&settings.limit_reqs, scope);
        let wait = LimitReq::admit(&settings.limit_reqs, scope).ok_or_else(|| too_many(settings.limit_req_status))?;
        if !wait.is_zero() {
            return Ok(Some(Pause::Wait(wait)));
        }
    }
    if !passed.limit_conn {
        let counted = LimitConn::admit(&settings.limit_conns, scope);
        passed.limit_conn = !matches!(counted, Ok(None));
        passed.in_flight = counted.map_err(|TooMany| too_many(settings.limit_conn_status))?;
    }
    match settings.access(scope, passed.password.as_ref()) {
        Access::Granted => Ok(None),
        Access::Denied => Err(DENIED.into()),
        Access::Unreadable => Err(NO_PASSWORDS.into()),
        Access::Busy => Err(TOO_MANY_PASSWORDS.into()),
        Access::Unauthorized(challenge) => Err(Refused::Unauthorized(challenge)),
        Access::Verify(file, credentials) => Ok(Some(Pause::Verify(file, credentials))),
    }
}

impl Pause {
    pub(super) async fn wait(self, passed: &mut PassedChecks) {
        match self {
            Pause::Wait(time) => {
                tokio::time::sleep(time).await;
                passed.waited = time;
            }
            Pause::Verify(file, credentials) => {
                let check = Arc::clone(&file).verify(credentials).await;
                passed.password = Some((file, check));
            }
        }
    }
}

impl From<ErrorResponse> for Refused {
    fn from(error: ErrorResponse) -> Self {
        Refused::Error(error)
    }
}

impl Refused {
    pub(super) fn response_to(self, head: &request::Parts) -> Response<Body> {
        match self {
            Refused::Error(error) => error.response_to(head),
            Refused::Unauthorized(challenge) => {
                let mut response = UNAUTHORIZED.response_to(head);
                response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
                response
            }
        }
    }
}
