//! How a login finds its node again.

use std::error::Error;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kylin_lb::session::{self, Affinity, LoginRelay, Secret, SessionStore, Sessions};

pub enum Keep {
    Memory,
    Learn(Store),
    Cookie,
    Route,
    Shared(Option<Store>),
    User,
    None,
}

/// What comes of it.
pub struct Kept {
    pub affinity: Option<Affinity>,
    /// For the status.
    pub sessions: Option<Sessions>,
}

/// A store that front ends share.
#[derive(Clone)]
pub struct Store {
    store: Arc<dyn SessionStore>,
    /// Its address without what is secret in it.
    shown: String,
}

const KNOWN: &str = "memory, redis://, redis+sentinel://, redis+cluster://, mysql://, memcached://, cookie, route, shared, \
                     shared:STORE, user or none";

impl Keep {
    /// The text may hold a password, so no error shows it.
    pub fn parse(text: &str) -> Result<Self, String> {
        Ok(match text {
            "memory" => Keep::Memory,
            "cookie" => Keep::Cookie,
            "route" => Keep::Route,
            "shared" => Keep::Shared(None),
            "user" => Keep::User,
            "none" => Keep::None,
            _ => match text.strip_prefix("shared:") {
                Some(address) => Keep::Shared(Some(Store::open(address)?)),
                None if text.contains("://") => Keep::Learn(Store::open(text)?),
                None => return Err(format!("expected {KNOWN}")),
            },
        })
    }

    pub fn affinity(&self, secret: &Secret, deadline: Duration) -> Result<Kept, Box<dyn Error>> {
        let secret = || secret.clone();
        let sessions = match self {
            Keep::Memory => Some(Sessions::in_memory()?),
            Keep::Learn(store) | Keep::Shared(Some(store)) => Some(store.sessions(secret(), deadline)),
            Keep::Shared(None) => Some(Sessions::in_memory()?),
            Keep::Cookie | Keep::Route | Keep::User | Keep::None => None,
        };
        let affinity = match (self, &sessions) {
            (Keep::Memory | Keep::Learn(_), Some(sessions)) => Some(Affinity::learn(sessions.clone())),
            (Keep::Shared(_), Some(sessions)) => {
                Some(Affinity::login_relay(LoginRelay::new(sessions.clone(), secret())))
            }
            (Keep::Cookie, _) => Some(Affinity::cookie(secret())),
            (Keep::Route, _) => Some(Affinity::route()),
            (Keep::User, _) => Some(Affinity::user(secret())),
            _ => None,
        };
        Ok(Kept { affinity, sessions })
    }

    /// Do front ends that share an address have to share the secret?
    pub fn needs_secret(&self) -> bool {
        !matches!(self, Keep::Memory | Keep::Route | Keep::None)
    }
}

impl Store {
    fn open(address: &str) -> Result<Self, String> {
        let mut text = String::new();
        let store = session::open(address).map_err(|error| {
            let mut cause: Option<&dyn Error> = Some(&error);
            while let Some(error) = cause {
                text += &format!("{}{error}", if text.is_empty() { "" } else { ": " });
                cause = error.source();
            }
            text.clone()
        })?;
        Ok(Store { store, shown: shown(address) })
    }

    pub fn sessions(&self, secret: Secret, deadline: Duration) -> Sessions {
        Sessions::remote(Arc::clone(&self.store), secret).deadline(deadline)
    }
}

/// `scheme://hosts`: what stands before an `@` or behind the hosts may be secret.
fn shown(address: &str) -> String {
    let (scheme, rest) = address.split_once("://").unwrap_or((address, ""));
    let rest = rest.rsplit_once('@').map_or(rest, |(_, hosts)| hosts);
    format!("{scheme}://{}", rest.split(['/', '?', '#']).next().unwrap_or_default())
}

impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Keep::Memory => f.write_str("learned from the nodes' cookies, in memory"),
            Keep::Learn(store) => write!(f, "learned from the nodes' cookies, in {}", store.shown),
            Keep::Cookie => f.write_str("a signed cookie of the front end's own"),
            Keep::Route => f.write_str("the jvmRoute in session ids"),
            Keep::Shared(None) => f.write_str("shared by the front end, in memory"),
            Keep::Shared(Some(store)) => write!(f, "shared by the front end, in {}", store.shown),
            Keep::User => f.write_str("by user"),
            Keep::None => f.write_str("not kept"),
        }
    }
}

/// The secret of `file`, or a random one, and whether it is random.
pub fn secret(file: Option<&Path>) -> Result<(Secret, bool), Box<dyn Error>> {
    let Some(file) = file else { return Ok((Secret::random()?, true)) };
    let bytes = std::fs::read(file).map_err(|error| format!("--secret-file {}: {error}", file.display()))?;
    let secret = match <[u8; 32]>::try_from(&bytes[..]) {
        Ok(bytes) => Secret::new(bytes),
        Err(_) => lines(&bytes).map_err(|error| format!("--secret-file {}: {error}", file.display()))?,
    };
    Ok((secret, false))
}

/// The current secret in the first line, earlier ones in the others.
fn lines(bytes: &[u8]) -> Result<Secret, session::InvalidSecret> {
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    let mut secrets = text.lines().filter(|line| !line.trim().is_empty()).map(Secret::parse);
    let first = secrets.next().unwrap_or_else(|| Secret::parse(""))?;
    secrets.try_fold(first, |secret, previous| Ok(secret.with_previous(previous?)))
}
