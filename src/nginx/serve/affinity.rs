//! `sticky`: an affinity for each upstream that has it.

use std::num::NonZeroUsize;

use super::SiteError;
use crate::nginx::directives::upstream::{LearnedCookies, Sticky, Upstream};
use crate::session::{Affinity, MemoryStore, Secret, SessionCookie, Sessions};

/// Builds affinities from the secret and the sessions that the front ends of one cluster share.
#[derive(Debug, Default)]
pub(super) struct Affinities {
    /// The application's secret, or a random one once an upstream needed it.
    pub(super) secret: Option<Secret>,
    pub(super) sessions: Option<Sessions>,
}

/// What nginx needs for a session: it stores about 4000 in a megabyte.
const NGINX_SESSION_BYTES: u64 = 262;
/// What a session needs in a [`MemoryStore`], with its part of the tables.
const SESSION_BYTES: NonZeroUsize = NonZeroUsize::new(512).expect("not zero");

impl Affinities {
    pub(super) fn build(&mut self, upstream: &Upstream) -> Result<Option<Affinity>, SiteError> {
        let affinity = match &upstream.sticky {
            None => return Ok(None),
            Some(Sticky::Route(_)) => Affinity::given_route(),
            Some(Sticky::Cookie(attributes)) => {
                let cookie = attributes.signed(self.secret(upstream)?);
                Affinity::cookie(
                    cookie.map_err(|source| SiteError::Cookie { upstream: upstream.name.clone(), source })?,
                )
            }
            Some(Sticky::Learn(learned)) => self.learn(learned, upstream)?,
        };
        // nginx looks for the server of a session among the backups only if no primary server is eligible.
        Ok(Some(affinity.primaries_first(true)))
    }

    fn learn(&mut self, learned: &LearnedCookies, upstream: &Upstream) -> Result<Affinity, SiteError> {
        let sessions = match &self.sessions {
            Some(sessions) => sessions.clone(),
            None if learned.sync => return Err(SiteError::Sync { upstream: upstream.name.clone() }),
            None => {
                let entries = usize::try_from(learned.zone / NGINX_SESSION_BYTES).unwrap_or(usize::MAX);
                let entries = NonZeroUsize::new(entries).unwrap_or(NonZeroUsize::MIN);
                let store = MemoryStore::bounded(entries, entries.saturating_mul(SESSION_BYTES));
                Sessions::local(store, self.secret(upstream)?)
            }
        };
        let cookies = learned.names.iter().map(|name| SessionCookie::named_ignoring_case(name).ttl(learned.timeout));
        let cookies: Result<Vec<_>, _> = cookies.collect();
        let cookies = cookies.map_err(|source| SiteError::Timeout { upstream: upstream.name.clone(), source })?;
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
