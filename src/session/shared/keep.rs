//! Sealed sessions in a store: found, made, changed by compare-and-set, removed.

use std::time::Duration;

use super::id::SessionId;
use super::record::{Login, Shared};
use super::seal::Sealer;
use crate::session::guarded::Guarded;
use crate::session::{Expect, Saved, SessionKey, SessionRecord, Stored};

/// How often a change is tried again on what another writer has left. Writers are the nodes' first logins, so few.
const ROUNDS: usize = 16;

#[derive(Debug)]
pub(super) struct Keep {
    pub(super) store: Guarded,
    pub(super) sealer: Sealer,
    /// For how long an unused session is kept.
    pub(super) ttl: Duration,
}

/// A session that was found.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) id: SessionId,
    pub(super) key: SessionKey,
    pub(super) session: Shared,
    version: u64,
    /// Sealed with the current secret.
    current: bool,
}

pub(super) enum Found {
    Session(Box<Known>),
    /// There is none.
    Absent,
    /// The store does not say.
    Unsure,
}

/// What became of a change.
pub(super) enum Changed {
    Done,
    /// The session was removed meanwhile, and stays so.
    Gone,
    /// The store does not say.
    Unsure,
}

impl Keep {
    /// The session that a client names; by what this front end knows, if that is fresh enough.
    pub(super) async fn find(&self, id: &SessionId) -> Found {
        let mut found = Found::Absent;
        for key in self.sealer.keys(id) {
            match self.store.load(&key).await {
                Ok(Some(stored)) => match self.open(id, key, &stored) {
                    Some(known) => return Found::Session(Box::new(known)),
                    // Damaged, or sealed by a secret that is gone: it counts as absent.
                    None => {}
                },
                Ok(None) => {}
                Err(_) => found = Found::Unsure,
            }
        }
        found
    }

    /// The same session as the store has it now.
    pub(super) async fn find_again(&self, known: &Known) -> Found {
        match self.store.load_fresh(&known.key).await {
            Ok(Some(stored)) => {
                self.open(&known.id, known.key, &stored).map_or(Found::Absent, |known| Found::Session(Box::new(known)))
            }
            Ok(None) => Found::Absent,
            Err(_) => Found::Unsure,
        }
    }

    /// A new session; none when it cannot be kept.
    pub(super) async fn create(&self, session: &Shared) -> Option<Known> {
        let id = SessionId::random(self.sealer.number())?;
        let key = self.sealer.keys(&id).next()?;
        let record = self.sealed(&id, &key, session)?;
        match self.store.save(&key, &record, Expect::Absent, self.ttl).await {
            Ok(Saved::Done(version)) => Some(Known { id, key, session: session.clone(), version, current: true }),
            Ok(Saved::Lost(_)) | Err(_) => None,
        }
    }

    /// Has `change` done to the session as it is in the store; `change` may be called several times, and says whether there is
    /// anything to write. `known` is then what is there.
    pub(super) async fn change(&self, known: &mut Known, mut change: impl FnMut(&mut Shared) -> bool) -> Changed {
        for _ in 0..ROUNDS {
            let mut session = known.session.clone();
            if !change(&mut session) {
                return Changed::Done;
            }
            let Some(record) = self.sealed(&known.id, &known.key, &session) else { return Changed::Unsure };
            match self.store.save(&known.key, &record, Expect::Version(known.version), self.ttl).await {
                Ok(Saved::Done(version)) => {
                    *known = Known { session, version, current: true, ..known.clone() };
                    return Changed::Done;
                }
                Ok(Saved::Lost(Some(stored))) => match self.open(&known.id, known.key, &stored) {
                    Some(winner) => *known = winner,
                    None => return Changed::Gone,
                },
                Ok(Saved::Lost(None)) => return Changed::Gone,
                Err(_) => {
                    known.session = session;
                    return Changed::Unsure;
                }
            }
        }
        Changed::Unsure
    }

    /// Lets the session live on. One that was sealed with a previous secret is sealed anew.
    pub(super) async fn touch(&self, known: &mut Known) {
        if known.current {
            self.store.touch(&known.key, self.ttl).await;
        } else {
            self.change(known, |_| true).await;
        }
    }

    pub(super) async fn remove(&self, key: &SessionKey) {
        self.store.remove(key).await;
    }

    /// Under what credentials are known again.
    pub(super) fn fingerprint(&self, login: &Login) -> SessionKey {
        self.sealer.fingerprint(login.as_bytes())
    }

    /// Has any front end noted that these credentials are refused?
    pub(super) async fn is_refused(&self, fingerprint: &SessionKey) -> bool {
        matches!(self.store.load_fresh(fingerprint).await, Ok(Some(_)))
    }

    /// Notes for all front ends that these credentials are refused. A mark is an empty record.
    pub(super) async fn refuse(&self, fingerprint: &SessionKey) {
        // That somebody else has noted it already is fine, and so is a store that is down: this front end remembers.
        let _ = self.store.save(fingerprint, &SessionRecord::default(), Expect::Absent, self.ttl).await;
    }

    fn open(&self, id: &SessionId, key: SessionKey, stored: &Stored) -> Option<Known> {
        let unsealed = self.sealer.open(id, &key, stored.record.sealed())?;
        let session = Shared::decode(&unsealed.content)?;
        Some(Known { id: id.clone(), key, session, version: stored.version, current: unsealed.current })
    }

    fn sealed(&self, id: &SessionId, key: &SessionKey, session: &Shared) -> Option<SessionRecord> {
        Some(SessionRecord::default().with_sealed(self.sealer.seal(id, key, &session.encode())?))
    }
}
