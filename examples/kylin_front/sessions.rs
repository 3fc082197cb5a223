//! `--sessions`: how a login finds its node again.

use std::error::Error;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kylin_lb::session::{self, Affinity, InvalidStore, Secret, SessionStore, Sessions};

pub enum Keep {
    Memory,
    Learn(Store),
    Cookie,
    Route,
    #[cfg(feature = "login-relay")]
    LoginRelay(Option<Store>),
    User,
    None,
}

/// The affinity that results, and what the status shows of it.
pub struct Kept {
    pub affinity: Option<Affinity>,
    pub sessions: Option<Sessions>,
}

/// A store that front ends share.
#[derive(Clone)]
pub struct Store {
    store: Arc<dyn SessionStore>,
    /// Its address without credentials.
    shown: String,
}

const KNOWN: &str = "memory, redis://, redis+sentinel://, redis+cluster://, mysql://, memcached://, cookie, route, \
                     login-relay, login-relay:STORE, user or none";

impl Keep {
    /// Parses the value of the option. The text may hold a password, so no error shows it.
    pub fn parse(text: &str) -> Result<Self, String> {
        Ok(match text {
            "memory" => Keep::Memory,
            "cookie" => Keep::Cookie,
            "route" => Keep::Route,
            "login-relay" => login_relay(None)?,
            "user" => Keep::User,
            "none" => Keep::None,
            _ => match text.strip_prefix("login-relay:") {
                Some(address) => login_relay(Some(address))?,
                None if text.contains("://") => Keep::Learn(Store::open(text)?),
                None => return Err(format!("expected {KNOWN}")),
            },
        })
    }

    pub fn affinity(&self, secret: &Secret, deadline: Duration) -> Result<Kept, Box<dyn Error>> {
        let secret = || secret.clone();
        let sessions = match self {
            Keep::Memory => Some(Sessions::in_memory()?),
            Keep::Learn(store) => Some(store.sessions(secret(), deadline)?),
            #[cfg(feature = "login-relay")]
            Keep::LoginRelay(None) => Some(Sessions::in_memory()?),
            #[cfg(feature = "login-relay")]
            Keep::LoginRelay(Some(store)) => Some(store.sessions(secret(), deadline)?),
            Keep::Cookie | Keep::Route | Keep::User | Keep::None => None,
        };
        let affinity = match (self, &sessions) {
            (Keep::Memory | Keep::Learn(_), Some(sessions)) => Some(Affinity::learn(sessions.clone())),
            #[cfg(feature = "login-relay")]
            (Keep::LoginRelay(_), Some(sessions)) => {
                Some(Affinity::login_relay(session::LoginRelay::new(sessions.clone(), secret())))
            }
            (Keep::Cookie, _) => Some(Affinity::cookie(secret())),
            (Keep::Route, _) => Some(Affinity::route()),
            (Keep::User, _) => Some(Affinity::user(secret())),
            _ => None,
        };
        Ok(Kept { affinity, sessions })
    }

    /// Returns whether front ends that share an address must share the secret.
    pub fn needs_secret(&self) -> bool {
        !matches!(self, Keep::Memory | Keep::Route | Keep::None)
    }
}

#[cfg(feature = "login-relay")]
fn login_relay(address: Option<&str>) -> Result<Keep, String> {
    Ok(Keep::LoginRelay(address.map(Store::open).transpose()?))
}

#[cfg(not(feature = "login-relay"))]
fn login_relay(_: Option<&str>) -> Result<Keep, String> {
    Err("this build has no login relay: build it with --features login-relay".into())
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

    pub fn sessions(&self, secret: Secret, deadline: Duration) -> Result<Sessions, InvalidStore> {
        Sessions::builder(Arc::clone(&self.store), secret).deadline(deadline).build()
    }
}

/// Returns `scheme://hosts`: the parts before an `@` and behind the hosts may be secret.
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
            Keep::Cookie => f.write_str("a signed cookie of the front end"),
            Keep::Route => f.write_str("the jvmRoute in session ids"),
            #[cfg(feature = "login-relay")]
            Keep::LoginRelay(None) => f.write_str("relayed logins, in memory"),
            #[cfg(feature = "login-relay")]
            Keep::LoginRelay(Some(store)) => write!(f, "relayed logins, in {}", store.shown),
            Keep::User => f.write_str("by user"),
            Keep::None => f.write_str("not kept"),
        }
    }
}

/// Returns the secret of `file`, or a random one, and whether it is random.
pub fn secret(file: Option<&Path>) -> Result<(Secret, bool), Box<dyn Error>> {
    let Some(file) = file else { return Ok((Secret::random()?, true)) };
    let bytes = std::fs::read(file).map_err(|error| format!("--secret-file {}: {error}", file.display()))?;
    let secret = match <[u8; 32]>::try_from(&bytes[..]) {
        Ok(bytes) => Secret::new(bytes),
        Err(_) => lines(&bytes).map_err(|error| format!("--secret-file {}: {error}", file.display()))?,
    };
    Ok((secret, false))
}

/// Parses the current secret in the first line, earlier ones in the others.
fn lines(bytes: &[u8]) -> Result<Secret, session::InvalidSecret> {
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    let mut secrets = text.lines().filter(|line| !line.trim().is_empty()).map(Secret::parse);
    let first = secrets.next().unwrap_or_else(|| Secret::parse(""))?;
    secrets.try_fold(first, |secret, previous| Ok(secret.with_previous(previous?)))
}
