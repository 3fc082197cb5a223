//! The content of a session before it is sealed.
//!
//! | bytes | content |
//! |---|---|
//! | 1 | format, at present 1 |
//! | 2, n | the credentials: length, then the value of `Authorization` |
//! | 1 | the number of nodes that follow |
//! | 1, n | the id of the endpoint |
//! | 1, n | the name of the cookie |
//! | 2, n | its value |

use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::credentials::Credentials;
use super::seal::MAX_CONTENT;
use crate::endpoint::EndpointId;

const FORMAT: u8 = 1;
const MAX_NAME: usize = 128;
const MAX_VALUE: usize = 1024;
const MAX_NODES: usize = u8::MAX as usize;

/// A session: its credentials, and its session cookie at each node.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RelayedSession {
    pub(super) credentials: Credentials,
    pub(super) cookies: NodeCookies,
}

/// The session cookies of one session, by the endpoint of the node; the latest last.
#[derive(Clone, PartialEq, Eq, Default)]
pub(crate) struct NodeCookies(Vec<(EndpointId, NodeCookie)>);

/// A node's session cookie, as `name=value`.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct NodeCookie(Arc<Zeroizing<Vec<u8>>>);

impl NodeCookie {
    /// Creates a cookie. Returns `None` if it is too long, or has bytes that are invalid in a
    /// cookie.
    pub(super) fn new(name: &[u8], value: &[u8]) -> Option<Self> {
        let is_valid = |byte: &u8| byte.is_ascii_graphic() && !matches!(byte, b';' | b',');
        let fits = (1..=MAX_NAME).contains(&name.len()) && value.len() <= MAX_VALUE && !name.contains(&b'=');
        (fits && name.iter().chain(value).all(is_valid))
            .then(|| NodeCookie(Arc::new(Zeroizing::new([name, b"=", value].concat()))))
    }

    pub(super) fn is_jsessionid(&self) -> bool {
        self.0.starts_with(b"JSESSIONID=")
    }

    /// Returns the pair for a `Cookie` header.
    pub(super) fn pair(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for NodeCookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeCookie(..)")
    }
}

impl NodeCookies {
    /// Returns the session's cookie at a node.
    pub(super) fn get(&self, id: &EndpointId) -> Option<&NodeCookie> {
        self.0.iter().find(|(known, _)| known == id).map(|(_, cookie)| cookie)
    }

    /// Returns the nodes where the session is logged in.
    pub(super) fn all(&self) -> &[(EndpointId, NodeCookie)] {
        &self.0
    }

    /// Returns whether the session is logged in at another node.
    pub(super) fn is_known_elsewhere(&self, id: &EndpointId) -> bool {
        self.0.iter().any(|(known, _)| known != id)
    }

    /// Sets or removes the session's cookie at a node.
    pub(super) fn set(&mut self, id: &EndpointId, cookie: Option<NodeCookie>) {
        self.0.retain(|(known, _)| known != id);
        if let Some(cookie) = cookie {
            if self.0.len() == MAX_NODES {
                self.0.remove(0);
            }
            self.0.push((id.clone(), cookie));
        }
    }
}

impl RelayedSession {
    /// Encodes the content to be sealed. The oldest cookies are left out if the content is too
    /// long.
    pub(super) fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut capacity = MAX_CONTENT - 8 - self.credentials.as_bytes().len();
        let fits = |(id, cookie): &&(EndpointId, NodeCookie)| {
            let rest = capacity.checked_sub(3 + id.as_str().len() + cookie.0.len());
            capacity = rest.unwrap_or(capacity);
            rest.is_some()
        };
        let nodes = self.cookies.all();
        let kept = &nodes[nodes.len() - nodes.iter().rev().take_while(fits).count()..];

        let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_CONTENT.min(512)));
        bytes.push(FORMAT);
        // Each length is bounded where its part is made.
        put_long(&mut bytes, self.credentials.as_bytes());
        bytes.push(kept.len() as u8);
        for (id, cookie) in kept {
            let equals = cookie.0.iter().position(|byte| *byte == b'=').unwrap_or(cookie.0.len() - 1);
            for part in [id.as_str().as_bytes(), &cookie.0[..equals]] {
                bytes.push(part.len() as u8);
                bytes.extend_from_slice(part);
            }
            put_long(&mut bytes, &cookie.0[equals + 1..]);
        }
        bytes
    }

    /// Decodes a content. Returns `None` if it is truncated, or has another format.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes;
        if take(&mut rest, 1)? != [FORMAT] {
            return None;
        }
        let credentials = Credentials::from_authorization(take_long(&mut rest)?)?;
        let count = take(&mut rest, 1)?[0];
        let mut nodes = Vec::new();
        for _ in 0..count {
            let id = EndpointId::new(std::str::from_utf8(take_short(&mut rest)?).ok()?).ok()?;
            let (name, value) = (take_short(&mut rest)?, take_long(&mut rest)?);
            nodes.push((id, NodeCookie::new(name, value)?));
        }
        rest.is_empty().then_some(RelayedSession { credentials, cookies: NodeCookies(nodes) })
    }
}

impl fmt::Debug for NodeCookies {
    /// Shows where the session is logged in, but no cookies.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(id, _)| id)).finish()
    }
}

fn put_long(bytes: &mut Vec<u8>, part: &[u8]) {
    bytes.extend_from_slice(&(part.len() as u16).to_be_bytes());
    bytes.extend_from_slice(part);
}

fn take<'b>(rest: &mut &'b [u8], length: usize) -> Option<&'b [u8]> {
    let (taken, left) = rest.split_at_checked(length)?;
    *rest = left;
    Some(taken)
}

fn take_short<'b>(rest: &mut &'b [u8]) -> Option<&'b [u8]> {
    let length = take(rest, 1)?[0];
    take(rest, length.into())
}

fn take_long<'b>(rest: &mut &'b [u8]) -> Option<&'b [u8]> {
    let length = u16::from_be_bytes(take(rest, 2)?.try_into().ok()?);
    take(rest, length.into())
}

/// Decodes `data` as the sealed part of a session, and checks that its encoding can be decoded
/// again.
#[cfg(fuzzing)]
pub(crate) fn fuzz(data: &[u8]) {
    if let Some(session) = RelayedSession::decode(data) {
        assert!(RelayedSession::decode(&session.encode()).is_some());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(id: &str) -> EndpointId {
        EndpointId::new(id).unwrap()
    }

    fn credentials(text: &str) -> Credentials {
        Credentials::from_authorization(text.as_bytes()).unwrap()
    }

    fn session_of(authorization: &str) -> RelayedSession {
        RelayedSession { credentials: credentials(authorization), cookies: NodeCookies::default() }
    }

    fn session() -> RelayedSession {
        let mut session = session_of("Basic QURNSU46S1lMSU4=");
        session.cookies.set(&id("q1"), NodeCookie::new(b"JSESSIONID", b"A1"));
        session.cookies.set(&id("q2"), NodeCookie::new("ab".repeat(32).as_bytes(), b"bm9kZQ=="));
        session
    }

    #[test]
    fn a_session_decodes_to_what_was_encoded() {
        for session in [session(), session_of("basic  eA==")] {
            assert_eq!(RelayedSession::decode(&session.encode()), Some(session));
        }
    }

    #[test]
    fn the_latest_cookie_of_a_node_counts() {
        let mut cookies = session().cookies;
        cookies.set(&id("q1"), NodeCookie::new(b"JSESSIONID", b"A2"));
        assert_eq!(cookies.get(&id("q1")).unwrap().pair(), b"JSESSIONID=A2");
        cookies.set(&id("q1"), None);
        assert!(cookies.get(&id("q1")).is_none() && cookies.get(&id("q2")).is_some());
    }

    #[test]
    fn the_oldest_cookies_are_left_out_beyond_the_maximum_length() {
        let mut session = session_of(&format!("Basic {}", "x".repeat(4000)));
        for n in 0..300 {
            session.cookies.set(&id(&format!("{n}")), NodeCookie::new(b"JSESSIONID", "v".repeat(200).as_bytes()));
        }
        let bytes = session.encode();
        assert!(bytes.len() <= MAX_CONTENT);
        let read = RelayedSession::decode(&bytes).unwrap().cookies;
        assert!(read.all().len() > 30 && read.get(&id("299")).is_some() && read.get(&id("45")).is_none());
    }

    #[test]
    fn a_cookie_that_would_become_several_is_invalid() {
        for (name, value) in [("", "x"), ("a", "x; b=c"), ("a=b", "x"), ("a", "x\r\n"), ("a b", "x"), ("a", "\u{e9}")] {
            assert!(NodeCookie::new(name.as_bytes(), value.as_bytes()).is_none(), "{name} {value}");
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        let shown = format!("{:?} {:?} {:?}", session(), credentials("Basic eA=="), session().cookies.get(&id("q1")));
        assert!(!shown.contains("A1") && !shown.contains("eA==") && !shown.contains("QURN"), "{shown}");
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_cause_a_panic(bytes in proptest::collection::vec(0_u8.., 0..100)) {
            let _ = RelayedSession::decode(&bytes);
            let _ = RelayedSession::decode(&[&[FORMAT][..], &bytes].concat());
        }

        #[test]
        fn truncated_sessions_are_invalid(cut in 0_usize..100) {
            let bytes = session().encode();
            proptest::prop_assume!(cut < bytes.len());
            proptest::prop_assert_eq!(RelayedSession::decode(&bytes[..cut]), None);
        }
    }
}
