//! Identifies the sender of a request by session cookie or Basic credentials, before any handler
//! runs.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};

use crate::basic_auth;
use crate::body::Body;
use crate::kylin::KylinVersion;
use crate::testing::kylin::KylinNode;
use crate::testing::kylin::api::call::Call;
use crate::testing::kylin::api::response::{CallResult, Envelope, Failure, html, unwritten_session};
use crate::testing::kylin::data::sessions::User;
use crate::testing::kylin::settings::Settings;

/// The access that a path requires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Everyone,
    SignedIn,
    Admin,
}

/// The reason why a request does not reach its handler.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Denied {
    /// The credentials are missing, unreadable or wrong.
    Unauthorized,
    /// The user is not an administrator.
    Forbidden,
    /// Too many passwords of the user were wrong.
    Locked,
    /// The password cannot be checked.
    MetastoreDown,
    /// The password cannot be checked, because the user source is unreachable.
    UserSourceDown,
    /// The session is only a placeholder.
    UnwrittenSession,
}

impl KylinNode {
    /// Returns the user who sends `headers`, if there are credentials, and the cookie of a session
    /// that was created for this request.
    ///
    /// With a session of the same user, the password is not checked. A login always checks it,
    /// creates a new session, and ends the session of the request. This is Spring's protection
    /// against session fixation, which is why a front end must learn the cookie anew from each
    /// response.
    pub(crate) fn identify(
        &self,
        settings: &Settings,
        headers: &HeaderMap,
        login: bool,
    ) -> Result<(Option<User>, Option<HeaderValue>), Denied> {
        let (cookie, sessions) = (settings.cookie(), self.session_table(settings));
        let stored = !self.faults().switches().session_store_down;
        let session =
            cookie.ids(headers).into_iter().filter(|_| stored).find_map(|id| sessions.user(&id).map(|user| (id, user)));
        if session.as_ref().is_some_and(|(id, _)| sessions.is_unwritten_for(id, self.name())) {
            return Err(Denied::UnwrittenSession);
        }
        let Some(credentials) = headers.get(header::AUTHORIZATION) else {
            return Ok((session.map(|(_, user)| user), None));
        };
        let (name, password) = basic(credentials).ok_or(Denied::Unauthorized)?;
        if let Some((_, user)) = &session
            && !login
            && user.name.eq_ignore_ascii_case(&name)
        {
            return Ok((Some(user.clone()), None));
        }
        if self.metastore_is_down(settings) {
            return Err(Denied::MetastoreDown);
        }
        if settings.version() == KylinVersion::V5 && settings.metastore.is_locked(&name) {
            return Err(Denied::Locked);
        }
        let user = self.check_password(settings, &name, &password)?.ok_or(Denied::Unauthorized)?;
        if let Some((id, _)) = session {
            sessions.end(&id);
        }
        let id = settings.new_session_id();
        let set_cookie = cookie.set(&id);
        if stored && settings.shares_sessions && settings.writes_late {
            sessions.open_unwritten(user.clone(), id, self.name());
        } else if stored {
            sessions.open(user.clone(), id);
        }
        Ok((Some(user), Some(set_cookie)))
    }

    /// Returns the user with this password, and counts the check.
    ///
    /// # Errors
    /// [`Denied::UserSourceDown`] if the user source is unreachable.
    pub(crate) fn check_password(
        &self,
        settings: &Settings,
        name: &str,
        password: &str,
    ) -> Result<Option<User>, Denied> {
        if self.faults().switches().user_source_down {
            self.inner.counts.add(|stats| stats.unchecked_logins += 1);
            return Err(Denied::UserSourceDown);
        }
        let user = settings.metastore.check_password(name, password);
        self.inner.counts.add(|stats| match user {
            Some(_) => stats.logins += 1,
            None => stats.wrong_passwords += 1,
        });
        Ok(user)
    }
}

/// Responds to `GET` and `POST /user/authentication`. Without credentials, 2.x-4.x return `{}` and
/// 5 returns 401.
pub(crate) fn authentication(call: &Call) -> CallResult {
    let Some(user) = &call.user else { return call.value(json!({})) };
    let mut authorities = vec![json!({"authority": "ROLE_ANALYST"})];
    if user.admin {
        authorities.push(json!({"authority": "ROLE_ADMIN"}));
    }
    let details = json!({
        "username": *user.name,
        "authorities": authorities,
        "disabled": false,
        "defaultPassword": false,
        "password": Value::Null,
    });
    match call.envelope() {
        Envelope::Bare => call.value(json!({"userDetails": details})),
        Envelope::V2 | Envelope::V4 => call.value(details),
    }
}

/// Checks that `user` has the access that a path needs.
pub(crate) fn admit(needed: Access, user: Option<&User>) -> Result<(), Denied> {
    match (needed, user) {
        (Access::Everyone, _) | (Access::SignedIn, Some(_)) => Ok(()),
        (Access::Admin, Some(user)) if user.admin => Ok(()),
        (Access::Admin, Some(_)) => Err(Denied::Forbidden),
        (Access::SignedIn | Access::Admin, None) => Err(Denied::Unauthorized),
    }
}

impl Denied {
    /// Returns the response. 2.x-4.x leave the page of a refusal to Tomcat; 5 writes JSON.
    pub(crate) fn render(self, version: KylinVersion, url: &str) -> Response<Body> {
        let (status, message) = match self {
            Denied::Unauthorized => (StatusCode::UNAUTHORIZED, "Invalid username or password."),
            Denied::Locked => (StatusCode::BAD_REQUEST, "The user is locked, please try again after 30 seconds."),
            Denied::UserSourceDown if version == KylinVersion::V5 => {
                return Failure::internal("Can't connect to the user source.")
                    .with_code("KE-010021006")
                    .render(version, url);
            }
            Denied::UserSourceDown => (StatusCode::UNAUTHORIZED, "Authentication service failure."),
            Denied::Forbidden => (StatusCode::FORBIDDEN, "Access is denied."),
            Denied::MetastoreDown => return Failure::metastore_down().render(version, url),
            Denied::UnwrittenSession => return unwritten_session(),
        };
        match version {
            KylinVersion::V4 => html(status),
            KylinVersion::V5 => Failure::refused(message).with_status(status).render(version, url),
        }
    }
}

fn basic(value: &HeaderValue) -> Option<(String, String)> {
    let decoded = String::from_utf8(BASE64.decode(basic_auth::token(value.as_bytes())?).ok()?).ok()?;
    let (name, password) = decoded.split_once(':')?;
    Some((name.to_owned(), password.to_owned()))
}
