//! The affinity of each upstream: from its `sticky` directive, else from an option or the default.

use std::num::NonZeroUsize;
use std::time::Duration;

use super::SiteError;
use crate::nginx::applied::{Applied, AppliedSessions};
use crate::nginx::directives::upstream::{LearnedCookies, Sticky, Upstream};
use crate::nginx::options::SessionMode;
use crate::session::{Affinity, MemoryStore, Secret, SessionCookie, Sessions};

/// Builds affinities from the secret and the sessions that the front ends of one cluster share.
#[derive(Debug, Default)]
pub(super) struct Affinities {
    /// The application's secret, or a random one once an upstream has needed it.
    pub(super) secret: Option<Secret>,
    pub(super) sessions: Option<Sessions>,
    /// The time for one operation of a store.
    pub(super) deadline: Option<Duration>,
    /// A mode with a store, which `sticky learn` uses if no `sessions` are set.
    pub(super) shared: Option<SessionMode>,
    /// The affinity of each mode. Upstreams of one mode share their sessions, so a login through
    /// one upstream is known to another upstream with the same servers.
    modes: Vec<(SessionMode, Option<Affinity>, Option<Sessions>)>,
    /// The sessions of each `sticky learn` in memory, with the name of its upstream and its zone.
    learned: Vec<(String, u64, Sessions)>,
}

/// The default time for one operation of a store.
const STORE_DEADLINE: Duration = Duration::from_millis(50);

/// The bytes that nginx needs for a session; it stores about 4000 sessions in a megabyte.
const NGINX_SESSION_BYTES: u64 = 262;
/// The bytes that a session needs in a [`MemoryStore`], with its share of the tables.
const SESSION_BYTES: NonZeroUsize = NonZeroUsize::new(512).expect("not zero");

impl Affinities {
    /// Builds the affinity of an upstream. The sessions of a running site, in `before`, are kept.
    pub(super) fn build(
        &mut self,
        upstream: &Upstream,
        applied: &Applied,
        before: Option<&Affinities>,
    ) -> Result<Option<Affinity>, SiteError> {
        if let AppliedSessions::Mode(mode) = &applied.sessions.value {
            return self.of_mode(mode, upstream, before);
        }
        let affinity = match &upstream.sticky {
            None => return Ok(None),
            Some(Sticky::Route(_)) => Affinity::given_route(),
            Some(Sticky::Cookie(attributes)) => {
                let cookie = attributes.signed(self.secret(upstream)?);
                Affinity::cookie(
                    cookie.map_err(|source| SiteError::Cookie { upstream: upstream.name.clone(), source })?,
                )
            }
            Some(Sticky::Learn(learned)) => self.learn(learned, upstream, before)?,
        };
        // nginx looks for the server of a session among the backups only if no primary server is
        // eligible.
        Ok(Some(affinity.primaries_first(true)))
    }

    /// Returns the sessions of the modes, for the status of the application.
    pub(super) fn sessions(&self) -> Option<Sessions> {
        self.modes.iter().find_map(|(_, _, sessions)| sessions.clone()).or_else(|| self.sessions.clone())
    }

    fn of_mode(
        &mut self,
        mode: &SessionMode,
        upstream: &Upstream,
        before: Option<&Affinities>,
    ) -> Result<Option<Affinity>, SiteError> {
        if let Some((_, affinity, _)) = self.modes.iter().find(|(known, ..)| known == mode) {
            return Ok(affinity.clone());
        }
        let secret = self.secret(upstream)?;
        let deadline = self.deadline.unwrap_or(STORE_DEADLINE);
        let before = before.filter(|before| before.deadline.unwrap_or(STORE_DEADLINE) == deadline);
        let kept = before.and_then(|before| Some((before, before.modes.iter().find(|(known, ..)| known == mode)?)));
        let (affinity, sessions) = match kept {
            Some((before, (_, affinity, sessions))) if before.secret.as_ref() == Some(&secret) => {
                (affinity.clone(), sessions.clone())
            }
            Some((_, (_, _, sessions))) => {
                let sessions = sessions.as_ref().map(|sessions| sessions.with_secret(&secret));
                (mode.affinity(&secret, sessions.as_ref()), sessions)
            }
            None => {
                let sessions = mode.sessions(&secret, deadline);
                let sessions =
                    sessions.map_err(|source| SiteError::Sessions { upstream: upstream.name.clone(), source })?;
                (mode.affinity(&secret, sessions.as_ref()), sessions)
            }
        };
        self.modes.push((mode.clone(), affinity.clone(), sessions));
        Ok(affinity)
    }

    fn learn(
        &mut self,
        learned: &LearnedCookies,
        upstream: &Upstream,
        before: Option<&Affinities>,
    ) -> Result<Affinity, SiteError> {
        if let (None, Some(shared)) = (&self.sessions, self.shared.clone()) {
            self.of_mode(&shared, upstream, before)?;
            let made = self.modes.iter().find(|(mode, ..)| *mode == shared);
            self.sessions = made.and_then(|(_, _, sessions)| sessions.clone());
        }
        let sessions = match &self.sessions {
            Some(sessions) => sessions.clone(),
            None if learned.sync => return Err(SiteError::Sync { upstream: upstream.name.clone() }),
            None => {
                let secret = self.secret(upstream)?;
                let kept = before.and_then(|before| {
                    let mut known = before.learned.iter();
                    let (.., sessions) =
                        known.find(|(name, zone, _)| *name == upstream.name && *zone == learned.zone)?;
                    Some(if before.secret.as_ref() == Some(&secret) {
                        sessions.clone()
                    } else {
                        sessions.with_secret(&secret)
                    })
                });
                let sessions = kept.unwrap_or_else(|| local(learned.zone, secret));
                self.learned.push((upstream.name.clone(), learned.zone, sessions.clone()));
                sessions
            }
        };
        let cookies = learned.names.iter().map(|name| {
            let cookie = SessionCookie::named_ignoring_case(name)
                .map_err(|source| SiteError::Cookie { upstream: upstream.name.clone(), source })?;
            let timed = cookie.ttl(learned.timeout);
            timed.map_err(|source| SiteError::Timeout { upstream: upstream.name.clone(), source })
        });
        let cookies = cookies.collect::<Result<Vec<_>, _>>()?;
        Ok(Affinity::learn_from(sessions, cookies))
    }

    fn secret(&mut self, upstream: &Upstream) -> Result<Secret, SiteError> {
        if let Some(secret) = &self.secret {
            return Ok(secret.clone());
        }
        let secret = Secret::random();
        let secret = secret.map_err(|source| SiteError::Secret { upstream: upstream.name.clone(), source })?;
        Ok(self.secret.insert(secret).clone())
    }
}

/// Returns sessions in memory for a zone of `zone` bytes.
fn local(zone: u64, secret: Secret) -> Sessions {
    let entries = usize::try_from(zone / NGINX_SESSION_BYTES).unwrap_or(usize::MAX);
    let entries = NonZeroUsize::new(entries).unwrap_or(NonZeroUsize::MIN);
    let store = MemoryStore::bounded(entries, entries.saturating_mul(SESSION_BYTES));
    Sessions::local(store, secret)
}
