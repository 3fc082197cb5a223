use std::error::Error;
use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use super::InvalidOption;
use super::replicated::ReplicatedBy;
#[cfg(feature = "login-relay")]
use crate::session::LoginRelay;
use crate::session::{
    self, Affinity, InvalidStore, ReplicatedSessions, RestoreAfterLoss, Secret, SessionStore, Sessions,
};

/// How logins are kept, as an option names it.
///
/// | text | affinity |
/// |---|---|
/// | `memory` | [`Affinity::learn`] with sessions in memory |
/// | an address such as `redis://10.0.0.5` | [`Affinity::learn`] with the store that [`open`](crate::session::open) returns |
/// | `cookie` | [`Affinity::cookie`] |
/// | `route` | [`Affinity::route`] |
/// | `login-relay`, `login-relay:ADDRESS` | `Affinity::login_relay`, in memory or with a store (feature `login-relay`) |
/// | `replicated`, `replicated=FILE` | [`Affinity::replicated`]; FILE of a node says where the nodes share their sessions |
/// | `user` | [`Affinity::user`] |
/// | `none` | none |
///
/// FILE is Tomcat's `context.xml`, or the `kylin.properties` of Kylin 5. Some session managers have
/// a file of their own beside `context.xml`. A file with which each node keeps its sessions to
/// itself is an [`InvalidOption`]. Known defects of the setup are
/// [warnings](SessionMode::warnings).
///
/// Neither `Display` nor `Debug` shows the credentials of an address or in a file.
#[derive(Clone, PartialEq)]
pub struct SessionMode(Mode);

#[derive(Clone, PartialEq)]
enum Mode {
    Memory,
    Learn(Store),
    Cookie,
    Route,
    #[cfg(feature = "login-relay")]
    LoginRelay(Option<Store>),
    Replicated(Option<ReplicatedBy>),
    User,
    None,
}

/// A store that front ends share.
#[derive(Clone)]
struct Store {
    store: Arc<dyn SessionStore>,
    address: String,
    restore: Option<RestoreAfterLoss>,
}

const KNOWN: &str = "memory, redis://, redis+sentinel://, redis+cluster://, mysql://, memcached://, cookie, route, \
                     login-relay, login-relay:STORE, replicated, replicated=FILE, user or none";

/// The text before FILE.
const REPLICATED: &str = "replicated=";

impl SessionMode {
    /// Sessions that are learned from the nodes' cookies, in memory.
    pub const MEMORY: SessionMode = SessionMode(Mode::Memory);
    /// Logins are not kept.
    pub const NONE: SessionMode = SessionMode(Mode::None);

    /// Sets which relayed logins are [restored](session::SessionsBuilder::restore_after_loss) in a
    /// store that has lost them.
    ///
    /// # Errors
    /// [`InvalidOption`] unless logins are relayed and kept in a store.
    #[cfg_attr(
        not(feature = "login-relay"),
        allow(unused_mut, unused_variables, reason = "only the login relay restores")
    )]
    pub fn restore_after_loss(mut self, restore: RestoreAfterLoss) -> Result<Self, InvalidOption> {
        #[cfg(feature = "login-relay")]
        if let Mode::LoginRelay(Some(store)) = &mut self.0 {
            store.restore = Some(restore);
            return Ok(self);
        }
        Err(InvalidOption::expected(["relayed logins in a store, --sessions login-relay:STORE"]))
    }

    /// Returns the sessions that the affinity needs, in memory or in the store; `None` if it needs
    /// none. `deadline` is the time for one operation of a store.
    ///
    /// # Errors
    /// [`InvalidStore`] for a deadline that is out of range, and if the system has no random bytes.
    pub fn sessions(&self, secret: &Secret, deadline: Duration) -> Result<Option<Sessions>, InvalidStore> {
        let store = match &self.0 {
            Mode::Memory => None,
            Mode::Learn(store) => Some(store),
            #[cfg(feature = "login-relay")]
            Mode::LoginRelay(store) => store.as_ref(),
            Mode::Cookie | Mode::Route | Mode::Replicated(_) | Mode::User | Mode::None => return Ok(None),
        };
        Ok(Some(match store {
            Some(store) => {
                let builder = Sessions::builder(Arc::clone(&store.store), secret.clone()).deadline(deadline);
                match store.restore {
                    Some(restore) => builder.restore_after_loss(restore).build()?,
                    None => builder.build()?,
                }
            }
            None => Sessions::local(session::MemoryStore::new(), secret.clone()),
        }))
    }

    /// Returns the affinity, with the [sessions](Self::sessions) that it needs.
    pub fn affinity(&self, secret: &Secret, sessions: Option<&Sessions>) -> Option<Affinity> {
        let secret = secret.clone();
        match (&self.0, sessions) {
            (Mode::Memory | Mode::Learn(_), sessions) => Some(Affinity::learn(sessions?.clone())),
            #[cfg(feature = "login-relay")]
            (Mode::LoginRelay(_), sessions) => Some(Affinity::login_relay(LoginRelay::new(sessions?.clone(), secret))),
            (Mode::Cookie, _) => Some(Affinity::cookie(secret)),
            (Mode::Route, _) => Some(Affinity::route()),
            (Mode::Replicated(_), _) => Some(Affinity::replicated(ReplicatedSessions::new())),
            (Mode::User, _) => Some(Affinity::user(secret)),
            (Mode::None, _) => None,
        }
    }

    /// Returns whether front ends that share an address must share the secret.
    pub fn needs_secret(&self) -> bool {
        !matches!(self.0, Mode::Memory | Mode::Route | Mode::Replicated(_) | Mode::None)
    }

    /// Returns whether sessions are in a store that front ends share.
    pub fn has_store(&self) -> bool {
        matches!(self.0, Mode::Learn(_))
    }

    /// Returns the known defects of the nodes' session manager, one sentence each. Without a FILE
    /// there are none.
    pub fn warnings(&self) -> Vec<String> {
        match &self.0 {
            Mode::Replicated(Some(by)) => by.manager.warnings().iter().map(ToString::to_string).collect(),
            _ => Vec::new(),
        }
    }

    /// Parses the value of a `# kylin_lb:` comment. A relative FILE is below the folder of the
    /// configuration.
    pub(crate) fn parse_in(folder: &Path, text: &str) -> Result<Self, InvalidOption> {
        match text.strip_prefix(REPLICATED) {
            Some(file) => ReplicatedBy::read(&folder.join(file)).map(|by| SessionMode(Mode::Replicated(Some(by)))),
            None => text.parse(),
        }
    }
}

impl FromStr for SessionMode {
    type Err = InvalidOption;

    fn from_str(text: &str) -> Result<Self, InvalidOption> {
        Ok(SessionMode(match text {
            "memory" => Mode::Memory,
            "cookie" => Mode::Cookie,
            "route" => Mode::Route,
            "login-relay" => login_relay(None)?,
            "replicated" => Mode::Replicated(None),
            "user" => Mode::User,
            "none" => Mode::None,
            _ if text.starts_with(REPLICATED) => return SessionMode::parse_in(Path::new(""), text),
            _ => match text.strip_prefix("login-relay:") {
                Some(address) => login_relay(Some(address))?,
                None if text.contains("://") => Mode::Learn(Store::open(text)?),
                None => return Err(InvalidOption::expected([KNOWN])),
            },
        }))
    }
}

#[cfg(feature = "login-relay")]
fn login_relay(address: Option<&str>) -> Result<Mode, InvalidOption> {
    Ok(Mode::LoginRelay(address.map(Store::open).transpose()?))
}

#[cfg(not(feature = "login-relay"))]
fn login_relay(_: Option<&str>) -> Result<Mode, InvalidOption> {
    Err(InvalidOption::Feature { option: "login relay", feature: "login-relay" })
}

impl Store {
    fn open(address: &str) -> Result<Self, InvalidOption> {
        let store = session::open(address).map_err(|error| {
            let mut text = error.to_string();
            let mut cause = error.source();
            while let Some(error) = cause {
                text += &format!(": {error}");
                cause = error.source();
            }
            InvalidOption::Store { reason: text }
        })?;
        Ok(Store { store, address: address.to_owned(), restore: None })
    }

    /// Returns `scheme://hosts`, because the parts before an `@` and after the hosts may be secret.
    fn shown(&self) -> String {
        let (scheme, rest) = self.address.split_once("://").unwrap_or((&self.address, ""));
        let rest = rest.rsplit_once('@').map_or(rest, |(_, hosts)| hosts);
        format!("{scheme}://{}", rest.split(['/', '?', '#']).next().unwrap_or_default())
    }
}

impl PartialEq for Store {
    fn eq(&self, other: &Self) -> bool {
        self.address == other.address && self.restore == other.restore
    }
}

impl fmt::Display for SessionMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Mode::Memory => f.write_str("learned from the nodes' cookies, in memory"),
            Mode::Learn(store) => write!(f, "learned from the nodes' cookies, in {}", store.shown()),
            Mode::Cookie => f.write_str("a signed cookie of the front end"),
            Mode::Route => f.write_str("the jvmRoute in session ids"),
            #[cfg(feature = "login-relay")]
            Mode::LoginRelay(None) => f.write_str("relayed logins, in memory"),
            #[cfg(feature = "login-relay")]
            Mode::LoginRelay(Some(store)) => write!(f, "relayed logins, in {}", store.shown()),
            Mode::Replicated(None) => f.write_str("replicated by the nodes"),
            Mode::Replicated(Some(by)) => write!(f, "replicated by the nodes: {} by {}", by.manager, by.file),
            Mode::User => f.write_str("by user"),
            Mode::None => f.write_str("not kept"),
        }
    }
}

impl fmt::Debug for SessionMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SessionMode").field(&format_args!("{self}")).finish()
    }
}
