//! Clients without cookies (kylinpy, ODBC) send Basic credentials with every request, and each makes a node ask LDAP again and
//! keep a session for eight hours. Tied to one node by their user, they are known there.

use std::sync::Arc;

use http::HeaderMap;

use super::hook::EndpointHint;
use crate::basic_auth;
use crate::session::Secret;
use crate::session::secret::Tagger;

#[derive(Clone)]
pub(super) struct User {
    /// Only the current secret: a placement that changes costs nobody a login.
    taggers: Arc<[Tagger]>,
}

impl User {
    pub(super) fn new(secret: &Secret) -> Self {
        User { taggers: secret.taggers("user") }
    }

    /// Where the user of Basic credentials is placed.
    pub(super) fn hint(&self, headers: &HeaderMap) -> Option<EndpointHint> {
        let mut user = basic_auth::user(headers)?;
        // To Kylin ADMIN and admin are one.
        user.make_ascii_lowercase();
        let tag = self.taggers[0].tag(&[&user]);
        let mut key = [0; 16];
        key.copy_from_slice(&tag[..16]);
        Some(EndpointHint::Key(key))
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use http::header;

    use super::*;

    fn hint(secret: u8, value: &str) -> Option<EndpointHint> {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, value.parse().unwrap());
        User::new(&Secret::new([secret; 32])).hint(&headers)
    }

    fn basic(credentials: &str) -> String {
        format!("Basic {}", STANDARD.encode(credentials))
    }

    #[test]
    fn goes_by_the_user_alone_in_any_case() {
        let admin = hint(1, &basic("ADMIN:KYLIN"));
        assert!(admin.is_some());
        assert_eq!(hint(1, &basic("admin:other")), admin);
        assert_eq!(hint(1, &basic("ADMIN:KYLIN").replace("Basic ", "BASIC  ")), admin);
        assert_ne!(hint(1, &basic("ADMIN2:KYLIN")), admin);
        assert_ne!(hint(2, &basic("ADMIN:KYLIN")), admin, "another secret");
    }

    #[test]
    fn what_names_nobody_is_placed_nowhere() {
        let long = basic(&"x".repeat(basic_auth::MAX_TOKEN));
        for value in ["Basic", "Basic ", "Bearer QURNSU46", "Basic !!!", &basic("nocolon"), &basic(":pw"), &long] {
            assert_eq!(hint(1, value), None, "{value}");
        }
    }
}
