//! A table of sessions, and the cookie that holds the id of one.
//!
//! By default a table belongs to one node, as in every Kylin without session sharing. This makes
//! affinity necessary, because another node returns 401 for the same cookie.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::{HeaderMap, HeaderValue, header};
use parking_lot::Mutex;

use crate::cookie;
use crate::testing::kylin::data::bounded::BoundedMap;

/// The maximum number of sessions in a table. Clients without cookies create one with every
/// request, and the oldest ones are removed.
const MAX_SESSIONS: usize = 65_536;

#[derive(Clone)]
pub(crate) struct User {
    pub(crate) name: Arc<str>,
    pub(crate) password: Arc<str>,
    pub(crate) admin: bool,
}

impl User {
    pub(crate) fn new(name: &str, password: &str, admin: bool) -> Self {
        User { name: name.into(), password: password.into(), admin }
    }
}

#[derive(Clone, Default)]
pub(crate) struct Sessions(Arc<Mutex<BoundedMap<Session, MAX_SESSIONS>>>);

struct Session {
    user: User,
    /// The node that has the content of this session, which is only a placeholder for the other
    /// nodes.
    unwritten_by: Option<String>,
}

impl Sessions {
    /// Adds a session of `user`.
    pub(crate) fn open(&self, user: User, id: String) {
        self.0.lock().insert(id, Session { user, unwritten_by: None });
    }

    /// Adds a session that is a placeholder for all nodes except `node`.
    pub(crate) fn open_unwritten(&self, user: User, id: String, node: &str) {
        self.0.lock().insert(id, Session { user, unwritten_by: Some(node.to_owned()) });
    }

    pub(crate) fn user(&self, id: &str) -> Option<User> {
        self.0.lock().get(id).map(|session| session.user.clone())
    }

    /// Returns whether the session is a placeholder for `node`.
    pub(crate) fn is_unwritten_for(&self, id: &str, node: &str) -> bool {
        let sessions = self.0.lock();
        sessions.get(id).and_then(|session| session.unwritten_by.as_deref()).is_some_and(|owner| owner != node)
    }

    /// Writes all sessions, so that none is a placeholder.
    pub(crate) fn write_all(&self) {
        self.0.lock().values_mut().for_each(|session| session.unwritten_by = None);
    }

    pub(crate) fn end(&self, id: &str) {
        self.0.lock().remove(id);
    }

    pub(crate) fn forget(&self) {
        *self.0.lock() = BoundedMap::default();
    }

    pub(crate) fn count(&self) -> usize {
        self.0.lock().len()
    }
}

/// The session cookie of a version.
#[derive(Debug, Clone)]
pub(crate) enum Cookie {
    /// 2.x-4.x: `JSESSIONID`, the id itself as its value.
    Tomcat { path: &'static str },
    /// 5.x: the metastore's hash as the name, base64 of the id as the value.
    Spring { name: String },
}

impl Cookie {
    pub(crate) fn new_id(&self) -> String {
        match self {
            Cookie::Tomcat { .. } => (0..2).map(|_| format!("{:016X}", fastrand::u64(..))).collect(),
            Cookie::Spring { .. } => uuid(),
        }
    }

    /// Returns the session ids in a request's cookies; more than one if the request has the cookie
    /// more than once.
    pub(crate) fn ids(&self, headers: &HeaderMap) -> Vec<String> {
        let name = match self {
            Cookie::Tomcat { .. } => "JSESSIONID",
            Cookie::Spring { name } => name,
        };
        let pairs = headers.get_all(header::COOKIE).iter().flat_map(cookie::pairs);
        let values = pairs.filter(|(known, _)| *known == name.as_bytes()).map(|(_, value)| match self {
            Cookie::Tomcat { .. } => value.to_vec(),
            Cookie::Spring { .. } => BASE64.decode(value).unwrap_or_default(),
        });
        values.filter_map(|value| String::from_utf8(value).ok()).collect()
    }

    /// Returns the `Set-Cookie` value for `id`.
    pub(crate) fn set(&self, id: &str) -> HeaderValue {
        let line = match self {
            Cookie::Tomcat { path } => format!("JSESSIONID={id}; Path={path}; HttpOnly"),
            Cookie::Spring { name } => {
                format!("{name}={}; Path=/kylin; HttpOnly; SameSite=Lax", BASE64.encode(id))
            }
        };
        HeaderValue::try_from(line).unwrap_or_else(|_| HeaderValue::from_static(""))
    }
}

/// Returns a random UUID in its usual form.
pub(crate) fn uuid() -> String {
    let bits = fastrand::u128(..) & !(0xf << 76) & !(0x3 << 62) | (4 << 76) | (2 << 62);
    let hex = format!("{bits:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user() -> User {
        User::new("ADMIN", "KYLIN", true)
    }

    #[test]
    fn the_oldest_session_is_removed() {
        let sessions = Sessions::default();
        for i in 0..=MAX_SESSIONS {
            sessions.open(user(), i.to_string());
        }
        assert_eq!(sessions.count(), MAX_SESSIONS);
        assert!(sessions.user("0").is_none());
        assert!(sessions.user("1").is_some());
    }

    #[test]
    fn a_cookie_is_read_back_among_others() {
        for cookie in [Cookie::Tomcat { path: "/kylin" }, Cookie::Spring { name: "ab".repeat(32) }] {
            let id = cookie.new_id();
            let set = cookie.set(&id).to_str().unwrap().to_owned();
            let pair = set.split(';').next().unwrap();
            let mut headers = HeaderMap::new();
            headers.append(header::COOKIE, format!("a=b; {pair};c=d").parse().unwrap());
            assert_eq!(cookie.ids(&headers), [id]);
            assert!(set.contains("; Path=/kylin; HttpOnly"));
        }
    }

    #[test]
    fn a_uuid_has_version_4() {
        let id = uuid();
        assert_eq!(id.len(), 36);
        assert_eq!(&id[14..15], "4");
        assert!(matches!(&id[19..20], "8" | "9" | "a" | "b"));
    }
}
