//! What the front end keeps of a session that it shares among nodes, as it is before it is sealed.
//!
//! | bytes | what |
//! |---|---|
//! | 1 | format, at present 1 |
//! | 2, n | the login: length, then the value of `Authorization` |
//! | 1 | how many nodes follow |
//! | 1, n | the endpoint's id |
//! | 1, n | the name of the cookie |
//! | 2, n | its value |

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use zeroize::Zeroizing;

use super::seal::MAX_CONTENT;
use crate::basic_auth;
use crate::endpoint::EndpointId;

const FORMAT: u8 = 1;
const MAX_NAME: usize = 128;
const MAX_VALUE: usize = 1024;
const MAX_LOGIN: usize = 4096;
const MAX_NODES: usize = u8::MAX as usize;

/// The credentials of a session: the value of `Authorization` with which the front end logs in.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Login(Zeroizing<Vec<u8>>);

impl Login {
    /// The login that this value of `Authorization` stands for; none for what is not Basic, or is longer than is kept.
    pub(super) fn from_authorization(value: &[u8]) -> Option<Self> {
        let credentials = basic_auth::token(value)?;
        let fits = (1..MAX_LOGIN - 6).contains(&credentials.len());
        let printable = credentials.iter().all(u8::is_ascii_graphic);
        (fits && printable).then(|| Login(Zeroizing::new([b"Basic ", credentials].concat())))
    }

    /// The login of a user with a password; none for a name that Basic cannot carry.
    pub(super) fn new(name: &[u8], password: &[u8]) -> Option<Self> {
        if name.is_empty() || name.contains(&b':') || name.len() + password.len() > MAX_LOGIN / 2 {
            return None;
        }
        let plain = Zeroizing::new([name, b":", password].concat());
        let value = Zeroizing::new(format!("Basic {}", *Zeroizing::new(BASE64.encode(&*plain))));
        Login::from_authorization(value.as_bytes())
    }

    /// The value of `Authorization`.
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login(..)")
    }
}

/// A node's own session cookie.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct NodeCookie {
    name: Zeroizing<String>,
    value: Zeroizing<String>,
}

impl NodeCookie {
    /// A cookie; none when it is longer than is kept, or has bytes that no cookie has.
    pub(super) fn new(name: &str, value: &str) -> Option<Self> {
        let is_fit = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b';' | b','));
        let fits = (1..=MAX_NAME).contains(&name.len()) && value.len() <= MAX_VALUE && !name.contains('=');
        (fits && is_fit(name) && is_fit(value))
            .then(|| NodeCookie { name: Zeroizing::new(name.to_owned()), value: Zeroizing::new(value.to_owned()) })
    }

    pub(super) fn is_jsessionid(&self) -> bool {
        *self.name == "JSESSIONID"
    }

    /// As it goes into `Cookie`.
    pub(super) fn pair(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("{}={}", *self.name, *self.value))
    }
}

impl fmt::Debug for NodeCookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeCookie(..)")
    }
}

/// A session: its login, and at which nodes it is logged in with which cookie.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Shared {
    login: Login,
    /// The latest last.
    nodes: Vec<(EndpointId, NodeCookie)>,
}

impl Shared {
    pub(super) fn new(login: Login) -> Self {
        Shared { login, nodes: Vec::new() }
    }

    pub(super) fn login(&self) -> &Login {
        &self.login
    }

    /// The cookie of the session at the node called `id`.
    pub(super) fn cookie(&self, id: &EndpointId) -> Option<&NodeCookie> {
        self.nodes.iter().find(|(known, _)| known == id).map(|(_, cookie)| cookie)
    }

    /// The nodes where the session is logged in.
    pub(super) fn nodes(&self) -> impl Iterator<Item = (&EndpointId, &NodeCookie)> {
        self.nodes.iter().map(|(id, cookie)| (id, cookie))
    }

    /// Notes that the session has `cookie` at the node called `id`; none: that it has none any more.
    pub(super) fn set(&mut self, id: &EndpointId, cookie: Option<NodeCookie>) {
        self.nodes.retain(|(known, _)| known != id);
        if let Some(cookie) = cookie {
            if self.nodes.len() == MAX_NODES {
                self.nodes.remove(0);
            }
            self.nodes.push((id.clone(), cookie));
        }
    }

    /// The content to seal. The cookies that were learned first are left off where all are too many.
    pub(super) fn encode(&self) -> Zeroizing<Vec<u8>> {
        let size =
            |(id, cookie): &(EndpointId, NodeCookie)| 4 + id.as_str().len() + cookie.name.len() + cookie.value.len();
        let mut room = MAX_CONTENT - 8 - self.login.0.len();
        let fitting = self.nodes.iter().rev().take_while(|node| {
            let size = size(node);
            let fits = size <= room;
            room = room.saturating_sub(size);
            fits
        });
        let kept = &self.nodes[self.nodes.len() - fitting.count()..];

        let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_CONTENT.min(512)));
        bytes.push(FORMAT);
        // Lengths are bounded where the parts are made.
        bytes.extend_from_slice(&(self.login.0.len() as u16).to_be_bytes());
        bytes.extend_from_slice(&self.login.0);
        bytes.push(kept.len() as u8);
        for (id, cookie) in kept {
            bytes.push(id.as_str().len() as u8);
            bytes.extend_from_slice(id.as_str().as_bytes());
            bytes.push(cookie.name.len() as u8);
            bytes.extend_from_slice(cookie.name.as_bytes());
            bytes.extend_from_slice(&(cookie.value.len() as u16).to_be_bytes());
            bytes.extend_from_slice(cookie.value.as_bytes());
        }
        bytes
    }

    /// Reads what was sealed; none for what is not whole or of another format.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes;
        if take(&mut rest, 1)? != [FORMAT] {
            return None;
        }
        let login = Login::from_authorization(take_long(&mut rest)?)?;
        let count = take(&mut rest, 1)?[0];
        let mut nodes = Vec::new();
        for _ in 0..count {
            let id = EndpointId::new(std::str::from_utf8(take_short(&mut rest)?).ok()?).ok()?;
            let name = std::str::from_utf8(take_short(&mut rest)?).ok()?;
            let value = std::str::from_utf8(take_long(&mut rest)?).ok()?;
            nodes.push((id, NodeCookie::new(name, value)?));
        }
        rest.is_empty().then_some(Shared { login, nodes })
    }
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

impl fmt::Debug for Shared {
    /// Shows where the session is logged in, never as whom or with what.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes: Vec<&EndpointId> = self.nodes.iter().map(|(id, _)| id).collect();
        f.debug_struct("Shared").field("nodes", &nodes).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(id: &str) -> EndpointId {
        EndpointId::new(id).unwrap()
    }

    fn login(text: &str) -> Login {
        Login::from_authorization(text.as_bytes()).unwrap()
    }

    fn session() -> Shared {
        let mut session = Shared::new(login("Basic QURNSU46S1lMSU4="));
        session.set(&id("q1"), NodeCookie::new("JSESSIONID", "A1"));
        session.set(&id("q2"), NodeCookie::new(&"ab".repeat(32), "bm9kZQ=="));
        session
    }

    #[test]
    fn a_session_reads_back_as_it_was_written() {
        for session in [session(), Shared::new(login("basic  eA=="))] {
            assert_eq!(Shared::decode(&session.encode()), Some(session));
        }
    }

    #[test]
    fn the_latest_cookie_of_a_node_counts() {
        let mut session = session();
        session.set(&id("q1"), NodeCookie::new("JSESSIONID", "A2"));
        assert_eq!(*session.cookie(&id("q1")).unwrap().pair(), "JSESSIONID=A2");
        session.set(&id("q1"), None);
        assert!(session.cookie(&id("q1")).is_none() && session.cookie(&id("q2")).is_some());
    }

    #[test]
    fn too_many_nodes_leave_the_latest() {
        let mut session = Shared::new(login(&format!("Basic {}", "x".repeat(4000))));
        for n in 0..300 {
            session.set(&id(&format!("{n}")), NodeCookie::new("JSESSIONID", &"v".repeat(200)));
        }
        let bytes = session.encode();
        assert!(bytes.len() <= MAX_CONTENT);
        let read = Shared::decode(&bytes).unwrap();
        assert!(read.nodes().count() > 30 && read.cookie(&id("299")).is_some() && read.cookie(&id("45")).is_none());
    }

    #[test]
    fn only_basic_credentials_of_sane_length_are_a_login() {
        for text in
            ["", "Basic", "Basic ", "Bearer x", "Basic a b", "Basic \u{e9}", &format!("Basic {}", "x".repeat(5000))]
        {
            assert!(Login::from_authorization(text.as_bytes()).is_none(), "{text}");
        }
        assert_eq!(login("BASIC  eA== "), login("Basic eA=="));
    }

    #[test]
    fn a_cookie_that_would_become_several_is_none() {
        for (name, value) in [("", "x"), ("a", "x; b=c"), ("a=b", "x"), ("a", "x\r\n"), ("a b", "x"), ("a", "\u{e9}")] {
            assert!(NodeCookie::new(name, value).is_none(), "{name} {value}");
        }
    }

    #[test]
    fn nothing_secret_is_shown() {
        let shown = format!("{:?} {:?} {:?}", session(), login("Basic eA=="), session().cookie(&id("q1")));
        assert!(!shown.contains("A1") && !shown.contains("eA==") && !shown.contains("QURN"), "{shown}");
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_are_too_strange(bytes in proptest::collection::vec(0_u8.., 0..100)) {
            let _ = Shared::decode(&bytes);
            let _ = Shared::decode(&[&[FORMAT][..], &bytes].concat());
        }

        #[test]
        fn cut_sessions_are_none(cut in 0_usize..100) {
            let bytes = session().encode();
            proptest::prop_assume!(cut < bytes.len());
            proptest::prop_assert_eq!(Shared::decode(&bytes[..cut]), None);
        }
    }
}
