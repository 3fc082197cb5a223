//! Who is calling: session cookie or Basic credentials, checked in the filter chain before any handler runs.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::{HeaderMap, HeaderValue, header};
use serde_json::{Value, json};

use crate::kylin::KylinVersion;
use crate::testing::kylin::KylinNode;
use crate::testing::kylin::api::call::Call;
use crate::testing::kylin::api::response::{Answer, Failure, Shape};
use crate::testing::kylin::data::metastore::User;
use crate::testing::kylin::settings::Settings;

/// What a path asks of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Everyone,
    SignedIn,
    Admin,
}

/// What the credentials of a request come to.
pub(crate) enum Caller {
    Nobody,
    /// Credentials came and are wrong, or nobody can say.
    Rejected(Rejection),
    /// A session of which there is no more than a placeholder.
    Unwritten,
    /// A user, and the cookie of the session that was made for the occasion.
    Known(User, Option<HeaderValue>),
}

pub(crate) enum Rejection {
    Credentials,
    MetastoreDown,
}

impl KylinNode {
    /// Finds out who sends `headers`.
    ///
    /// A session of the same user makes the password go unchecked. A login proper checks it always and makes a new
    /// session, ending the one that came along: Spring's protection against session fixation, because of which a front
    /// end has to learn the cookie anew from each answer.
    pub(crate) fn identify(&self, settings: &Settings, headers: &HeaderMap, login: bool) -> Caller {
        let (cookie, sessions) = (settings.cookie(), self.session_table(settings));
        let stored = !self.faults().session_store_is_down();
        let session =
            cookie.ids(headers).into_iter().filter(|_| stored).find_map(|id| sessions.user(&id).map(|user| (id, user)));
        if session.as_ref().is_some_and(|(id, _)| sessions.is_unwritten_for(id, self.name())) {
            return Caller::Unwritten;
        }
        let Some(credentials) = headers.get(header::AUTHORIZATION) else {
            return session.map_or(Caller::Nobody, |(_, user)| Caller::Known(user, None));
        };
        let Some((name, password)) = basic(credentials) else {
            return Caller::Rejected(Rejection::Credentials);
        };
        if let Some((_, user)) = &session
            && !login
            && user.name.eq_ignore_ascii_case(&name)
        {
            return Caller::Known(user.clone(), None);
        }
        if self.metastore_is_down(settings) {
            return Caller::Rejected(Rejection::MetastoreDown);
        }
        let Some(user) = settings.metastore.check_password(&name, &password) else {
            self.inner.counts.add(|stats| stats.wrong_passwords += 1);
            return Caller::Rejected(Rejection::Credentials);
        };
        self.inner.counts.add(|stats| stats.logins += 1);
        if let Some((id, _)) = session {
            sessions.end(&id);
        }
        let id = Self::new_session_id(settings);
        let set = cookie.set(&id);
        if stored {
            if settings.shares_sessions && settings.writes_late {
                sessions.leave_unwritten(&id, self.name());
            }
            sessions.open(user.clone(), id);
        }
        Caller::Known(user, Some(set))
    }
}

/// `GET` and `POST /user/authentication`. A caller without credentials gets `{}` from 2.x-4.x and a 401 from 5.
pub(crate) fn authentication(call: &Call) -> Answer {
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
    match call.shape() {
        Shape::Bare => call.value(json!({"userDetails": details})),
        Shape::V2 | Shape::V4 => call.value(details),
    }
}

/// What follows from `needed` for `caller`: the user, if any, that the handler sees.
pub(crate) fn admit(needed: Access, user: Option<&User>) -> Result<(), Denied> {
    match (needed, user) {
        (Access::Everyone, _) | (Access::SignedIn, Some(_)) => Ok(()),
        (Access::Admin, Some(user)) if user.admin => Ok(()),
        (Access::Admin, Some(_)) => Err(Denied::Forbidden),
        (Access::SignedIn | Access::Admin, None) => Err(Denied::Unauthorized),
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    Unauthorized,
    Forbidden,
}

impl Denied {
    /// 2.x-4.x leave the page to Tomcat, 5 writes JSON.
    pub(crate) fn render(&self, dialect: KylinVersion, url: &str) -> http::Response<crate::body::Body> {
        let (status, message) = match self {
            Denied::Unauthorized => (http::StatusCode::UNAUTHORIZED, "Invalid username or password."),
            Denied::Forbidden => (http::StatusCode::FORBIDDEN, "Access is denied."),
        };
        match dialect {
            KylinVersion::V4 => crate::testing::kylin::api::response::html(status),
            KylinVersion::V5 => Failure::refused(message).with_status(status).render(dialect, url),
        }
    }
}

fn basic(value: &HeaderValue) -> Option<(String, String)> {
    let (scheme, encoded) = value.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(BASE64.decode(encoded.trim()).ok()?).ok()?;
    let (name, password) = decoded.split_once(':')?;
    Some((name.to_owned(), password.to_owned()))
}
