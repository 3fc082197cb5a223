//! What the response to a login means for the credentials.
//!
//! A failed login is not always caused by a wrong password. While LDAP is unreachable, Kylin 5
//! responds with 500 and KE-010021006 (kylin5 NUnauthorisedEntryPoint). Kylin 2.x-4.x responds with
//! the same 401 as for a wrong password (BasicAuthenticationFilter passes every
//! AuthenticationException to the entry point).

use http::{HeaderMap, StatusCode};

#[cfg(feature = "login-relay")]
use super::Credentials;
#[cfg(any(test, feature = "login-relay"))]
use super::is_json;
use super::{ClusterFault, ResponseClass, classify_body};
use crate::kylin::class::RequestClass;

/// What the response to a login says about its credentials.
#[cfg(any(test, feature = "login-relay"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CredentialCheck {
    /// The node has checked and accepted them.
    Accepted,
    /// The node has checked and refused them.
    Refused,
    /// They are wrong, or the node could not check them; the response does not say which.
    Unconfirmed,
    /// No node can currently check them: the user source is unreachable, or the user is locked
    /// because other clients sent wrong passwords.
    Unchecked,
    /// This node could not check them.
    Failed,
    /// The node did not process the login.
    NotServed,
}

#[cfg(any(test, feature = "login-relay"))]
impl CredentialCheck {
    /// Reads the response to `POST /kylin/api/user/authentication`.
    pub(crate) fn of(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Self {
        // The response to a login names the user. 2.x-4.x respond with `{}` if they ignore the
        // credentials (UserController.java).
        const USER: &[u8] = b"\"username\"";
        match status {
            _ if is_user_source_down(status, headers, body) => CredentialCheck::Unchecked,
            status if status.is_success() && body.windows(USER.len()).any(|part| part == USER) => {
                CredentialCheck::Accepted
            }
            StatusCode::UNAUTHORIZED => CredentialCheck::of_unauthorized(headers),
            // Kylin 5 locks a user after three wrong passwords, including those of other clients.
            StatusCode::BAD_REQUEST => CredentialCheck::Unchecked,
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS | StatusCode::NOT_FOUND => {
                CredentialCheck::NotServed
            }
            status if status.is_success() || status.is_client_error() => CredentialCheck::Unconfirmed,
            StatusCode::INTERNAL_SERVER_ERROR => CredentialCheck::Failed,
            _ => CredentialCheck::NotServed,
        }
    }

    /// Reads a 401 to a request with credentials. Kylin 5 writes it in JSON, and only if it could
    /// check them; 2.x-4.x leave it to Tomcat.
    pub(crate) fn of_unauthorized(headers: &HeaderMap) -> Self {
        if is_json(headers) { CredentialCheck::Refused } else { CredentialCheck::Unconfirmed }
    }
}

/// Returns whether the response to `GET /kylin/api/user/authentication` names no user. Kylin
/// 2.x-4.x respond in this way if they do not know the session.
#[cfg(feature = "login-relay")]
pub(crate) fn names_no_user(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> bool {
    status.is_success()
        && classify_body(RequestClass::Login, status, headers, body)
            == ResponseClass::Unauthenticated(Credentials::Session)
}

/// Returns whether Kylin 5 says that it cannot check any credentials.
pub(crate) fn is_user_source_down(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> bool {
    !status.is_success()
        && classify_body(RequestClass::Login, status, headers, body)
            == ResponseClass::ClusterFault(ClusterFault::UserSource)
}

#[cfg(test)]
mod tests {
    use http::header::{CONTENT_TYPE, HeaderValue};

    use super::*;

    fn of(status: u16, kind: &'static str, body: &str) -> CredentialCheck {
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(kind))]);
        CredentialCheck::of(StatusCode::from_u16(status).unwrap(), &headers, body.as_bytes())
    }

    #[test]
    fn only_kylin_5_refuses_for_certain() {
        const HTML: &str = "text/html;charset=utf-8";
        const JSON: &str = "application/json;charset=UTF-8";
        let down = r#"{"code":"999","msg":"x","error_code":"KE-010021006"}"#;
        for (status, kind, body, expected) in [
            (200, JSON, r#"{"userDetails":{"username":"ADMIN"}}"#, CredentialCheck::Accepted),
            (200, JSON, "{}", CredentialCheck::Unconfirmed),
            (401, JSON, r#"{"code":"999"}"#, CredentialCheck::Refused),
            (401, HTML, "", CredentialCheck::Unconfirmed),
            (403, HTML, "", CredentialCheck::Unconfirmed),
            (400, JSON, r#"{"code":"999","msg":"locked"}"#, CredentialCheck::Unchecked),
            (500, JSON, down, CredentialCheck::Unchecked),
            (401, JSON, down, CredentialCheck::Unchecked),
            (500, HTML, "", CredentialCheck::Failed),
            (302, HTML, "", CredentialCheck::NotServed),
            (404, HTML, "", CredentialCheck::NotServed),
            (429, HTML, "", CredentialCheck::NotServed),
            (503, HTML, "", CredentialCheck::NotServed),
        ] {
            assert_eq!(of(status, kind, body), expected, "{status} {kind} {body}");
        }
    }
}
