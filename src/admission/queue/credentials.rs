//! The credentials that a node has accepted. A client can invent others, so those do not identify a
//! user.

use std::mem::take;

use ahash::AHashMap;

/// The number of credentials that are always remembered. At most twice as many are.
const CAPACITY: usize = 4096;

/// Credentials, as a keyed hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Credential(pub(super) u64);

/// The sender of a query, as the query itself claims.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Claims {
    /// The user that represents all unknown users at the client's address.
    pub(crate) address: u64,
    pub(crate) credentials: [Option<Credential>; 3],
    /// The credentials that are proven if a node returns a result.
    pub(crate) provable: Option<Credential>,
}

/// Credentials that a node has accepted, with their users. If there are too many, the least
/// recently used ones are forgotten.
#[derive(Debug, Default)]
pub(super) struct Accepted {
    recent: AHashMap<Credential, u64>,
    before: AHashMap<Credential, u64>,
}

impl Accepted {
    /// Returns the user who sends a query: the user of the first accepted credentials, or the one
    /// of the address.
    pub(super) fn user(&mut self, claims: &Claims) -> u64 {
        let mut credentials = claims.credentials.into_iter().flatten();
        credentials.find_map(|credential| self.find(credential)).unwrap_or(claims.address)
    }

    pub(super) fn has(&mut self, credential: Credential) -> bool {
        self.find(credential).is_some()
    }

    pub(super) fn insert(&mut self, credential: Credential, user: u64) {
        if self.recent.len() >= CAPACITY {
            self.before = take(&mut self.recent);
        }
        self.recent.insert(credential, user);
    }

    fn find(&mut self, credential: Credential) -> Option<u64> {
        if let Some(user) = self.recent.get(&credential) {
            return Some(*user);
        }
        let user = self.before.remove(&credential)?;
        self.insert(credential, user);
        Some(user)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(credentials: [Option<Credential>; 3]) -> Claims {
        Claims { address: 7, credentials, provable: None }
    }

    #[test]
    fn a_user_is_known_by_the_first_credentials_that_were_accepted() {
        let mut accepted = Accepted::default();
        let [basic, session] = [1, 2].map(|number| Some(Credential(number)));
        assert_eq!(accepted.user(&claims([basic, session, None])), 7);
        accepted.insert(Credential(2), 20);
        assert_eq!(accepted.user(&claims([basic, session, None])), 20);
        accepted.insert(Credential(1), 10);
        assert_eq!(accepted.user(&claims([basic, session, None])), 10);
        assert_eq!(accepted.user(&claims([None; 3])), 7);
    }

    #[test]
    fn credentials_that_are_used_outlive_many_others() {
        let mut accepted = Accepted::default();
        for number in 0..10 * CAPACITY as u64 {
            accepted.insert(Credential(number), number);
            assert!(accepted.has(Credential(0)) && accepted.recent.len() + accepted.before.len() <= 2 * CAPACITY);
        }
        assert!(!accepted.has(Credential(1)));
    }
}
