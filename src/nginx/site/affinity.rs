//! `sticky` brought to life: an affinity for each upstream that has it.

use super::SiteError;
use crate::nginx::sticky::{LearnLine, Sticky};
use crate::nginx::upstream::Upstream;
use crate::session::Affinity;
use crate::session::{MemoryStore, Secret, SessionCookie, Sessions};

/// What the host gave: what front ends of one address have in common.
#[derive(Debug, Clone, Default)]
pub(super) struct Shared {
    pub(super) secret: Option<Secret>,
    pub(super) sessions: Option<Sessions>,
}

/// Makes them.
pub(super) struct Affinities(Shared);

/// nginx stores about 4000 sessions in a megabyte.
const ZONE_BYTES: u64 = 262;
/// What one of them takes here, with its part of the tables.
const OUR_BYTES: usize = 512;

impl Affinities {
    pub(super) fn new(shared: Shared) -> Self {
        Affinities(shared)
    }

    pub(super) fn of(&mut self, upstream: &Upstream) -> Result<Option<Affinity>, SiteError> {
        Ok(match &upstream.sticky {
            None => None,
            Some(Sticky::Route(_)) => Some(Affinity::given_route()),
            Some(Sticky::Cookie(line)) => {
                let secret = self.secret(upstream)?;
                let cookie = line.signed(secret);
                let cookie = cookie.map_err(|source| SiteError::Cookie { upstream: upstream.name.clone(), source })?;
                Some(Affinity::cookie(cookie))
            }
            Some(Sticky::Learn(line)) => Some(self.learn(line, upstream)?),
        })
    }

    fn learn(&mut self, line: &LearnLine, upstream: &Upstream) -> Result<Affinity, SiteError> {
        let sessions = match &self.0.sessions {
            Some(sessions) => sessions.clone(),
            None if line.sync => return Err(SiteError::Sync { upstream: upstream.name.clone() }),
            None => {
                let entries = usize::try_from(line.zone / ZONE_BYTES).unwrap_or(usize::MAX).max(1);
                let store = MemoryStore::bounded(entries, entries.saturating_mul(OUR_BYTES));
                Sessions::local(store, self.secret(upstream)?)
            }
        };
        let cookies = line.cookies.iter().map(|name| SessionCookie::named_ignoring_case(name).ttl(line.timeout));
        Ok(Affinity::learn_from(sessions, cookies))
    }

    /// The host's secret, or one that is made once for the site.
    fn secret(&mut self, upstream: &Upstream) -> Result<Secret, SiteError> {
        match &self.0.secret {
            Some(secret) => Ok(secret.clone()),
            None => {
                let made = Secret::random();
                let made = made.map_err(|source| SiteError::Secret { upstream: upstream.name.clone(), source })?;
                Ok(self.0.secret.insert(made).clone())
            }
        }
    }
}
