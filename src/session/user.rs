//! Chooses the endpoint of a request by the user of its Basic credentials.
//!
//! Clients without cookies (kylinpy, ODBC) send Basic credentials with every request. A node that
//! does not know them asks LDAP and keeps a session for eight hours. So all requests of a user go
//! to the node that already knows the user.

use std::sync::Arc;

use http::HeaderValue;

use super::hook::EndpointHint;
use crate::basic_auth;
use crate::session::Secret;
use crate::session::secret::Tagger;

#[derive(Clone)]
pub(super) struct User {
    /// One tagger per version of the secret, newest first. Only the first makes hints. When the
    /// secret changes, users may move to other nodes. Their clients need no new login, because they
    /// send credentials with each request.
    taggers: Arc<[Tagger]>,
}

/// The maximum length of credentials, in bytes. Longer ones have no hint.
const MAX_CREDENTIALS: usize = 512;

impl User {
    pub(super) fn new(secret: &Secret) -> Self {
        User { taggers: secret.taggers("user") }
    }

    /// Returns the hint for the user of Basic credentials.
    pub(super) fn hint(&self, authorization: &HeaderValue) -> Option<EndpointHint> {
        // Decoded on the stack, because every request without a cookie takes this path.
        let mut decoded = [0; MAX_CREDENTIALS];
        let user = basic_auth::user_in(authorization, &mut decoded)?;
        // Kylin ignores case in user names.
        user.make_ascii_lowercase();
        let tag = self.taggers[0].tag(&[user]);
        let mut key = [0; 16];
        key.copy_from_slice(&tag[..16]);
        Some(EndpointHint::Key(key))
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    fn hint(secret: u8, value: &str) -> Option<EndpointHint> {
        User::new(&Secret::new([secret; 32])).hint(&value.parse().unwrap())
    }

    fn basic(credentials: &str) -> String {
        format!("Basic {}", STANDARD.encode(credentials))
    }

    /// Front ends of several versions pick the same node for a user. The expected key was computed
    /// with Python's `hmac`.
    #[test]
    fn the_hint_is_that_of_other_versions() {
        let user = User::new(&Secret::new(std::array::from_fn(|index| index as u8)));
        let Some(EndpointHint::Key(key)) = user.hint(&basic("ADMIN:KYLIN").parse().unwrap()) else { panic!("no key") };
        assert_eq!(crate::session::SessionKey::from_bytes(key).to_hex(), "e12d07be438a3835e4c361eda986f7d4");
    }

    #[test]
    fn only_the_user_counts_in_any_case() {
        let admin = hint(1, &basic("ADMIN:KYLIN"));
        assert!(admin.is_some());
        assert_eq!(hint(1, &basic("admin:other")), admin);
        assert_eq!(hint(1, &basic("ADMIN:KYLIN").replace("Basic ", "BASIC  ")), admin);
        assert_ne!(hint(1, &basic("ADMIN2:KYLIN")), admin);
        assert_ne!(hint(2, &basic("ADMIN:KYLIN")), admin, "another secret");
    }

    #[test]
    fn credentials_without_a_user_have_no_hint() {
        let long = basic(&"x".repeat(basic_auth::MAX_TOKEN));
        for value in ["Basic", "Basic ", "Bearer QURNSU46", "Basic !!!", &basic("nocolon"), &basic(":pw"), &long] {
            assert_eq!(hint(1, value), None, "{value}");
        }
    }
}
