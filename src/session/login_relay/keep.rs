//! Sealed sessions in a store: found, made, changed by compare-and-set, removed.

use std::time::Duration;

use super::id::SessionId;
use super::record::{Login, Shared};
use super::seal::Sealer;
use crate::drop_guard::DropGuard;
use crate::maybe_ready::MaybeReady;
use crate::session::cached::{Lookup as Kept, Sessions};
use crate::session::{Precondition, SessionKey, SessionRecord};

/// How often a change is tried again on what another writer has left. Writers are the nodes' first logins, so few.
const ROUNDS: usize = 16;

#[derive(Debug, Clone)]
pub(super) struct Keep {
    pub(super) sessions: Sessions,
    pub(super) sealer: Sealer,
    /// For how long an unused session is kept.
    pub(super) ttl: Duration,
}

/// A session that was found.
#[derive(Debug, Clone)]
pub(super) struct Lookup {
    pub(super) id: SessionId,
    pub(super) key: SessionKey,
    pub(super) session: Shared,
    /// None while the store does not have it yet.
    version: Option<u64>,
    /// Sealed with the current secret.
    pub(super) current: bool,
}

pub(super) enum Found {
    Session(Box<Lookup>),
    /// There is none.
    Absent,
    /// The store does not say.
    Unsure,
}

impl Keep {
    /// The session that a client names; by what this front end knows, if that is fresh enough.
    pub(super) fn find(&self, id: SessionId) -> MaybeReady<'_, Found> {
        let mut keys = self.sealer.keys(&id);
        let Some(first) = keys.next() else { return MaybeReady::Ready(Found::Absent) };
        // Two secrets of one number: rare, and only while secrets change.
        let others: Vec<SessionKey> = keys.collect();
        let kept = match self.sessions.find(first, id.as_bytes(), None) {
            MaybeReady::Ready(kept) if others.is_empty() => return MaybeReady::Ready(self.read(&id, first, kept)),
            kept => kept,
        };
        MaybeReady::Boxed(Box::pin(async move {
            let mut found = self.read(&id, first, kept.await);
            for key in others {
                if let Found::Absent = found {
                    found = self.read(&id, key, self.sessions.find(key, id.as_bytes(), None).await);
                }
            }
            found
        }))
    }

    /// The same session as the store has it now.
    pub(super) async fn find_again(&self, known: &Lookup) -> Found {
        self.read(&known.id, known.key, self.sessions.find_fresh(known.key).await)
    }

    /// A new session; none when it cannot be kept.
    pub(super) async fn create(&self, session: &Shared) -> Option<Lookup> {
        let id = SessionId::random(self.sealer.number())?;
        let key = self.sealer.keys(&id).next()?;
        let record = self.sealed(&id, &key, session)?;
        match self.sessions.save(key, record.clone(), Precondition::Absent, self.ttl).await {
            Kept::Found(kept, version) if kept == record => {
                Some(Lookup { id, key, session: session.clone(), version, current: true })
            }
            _ => None,
        }
    }

    /// Has `change` done to the session as it is in the store; `change` may be called several times, and says whether there is
    /// anything to write. `known` is then what is there. False when the session was removed meanwhile, and stays so.
    pub(super) async fn change(&self, known: &mut Lookup, mut change: impl FnMut(&mut Shared) -> bool) -> bool {
        for _ in 0..ROUNDS {
            let mut session = known.session.clone();
            if !change(&mut session) {
                return true;
            }
            let Some(record) = self.sealed(&known.id, &known.key, &session) else { return true };
            let expect = known.version.map_or(Precondition::Absent, Precondition::Version);
            match self.sessions.save(known.key, record.clone(), expect, self.ttl).await {
                Kept::Found(kept, version) if kept == record => {
                    *known = Lookup { session, version, current: true, ..known.clone() };
                    return true;
                }
                kept => match self.read(&known.id, known.key, kept) {
                    Found::Session(winner) => *known = *winner,
                    Found::Absent => return false,
                    Found::Unsure => return true,
                },
            }
        }
        true
    }

    /// Lets the session live on while what is returned lives.
    pub(super) fn hold(&self, known: &Lookup) -> DropGuard {
        self.sessions.use_now(known.key, self.ttl)
    }

    pub(super) async fn remove(&self, key: &SessionKey) {
        self.sessions.remove_now(*key).await;
    }

    /// Under what credentials are known again.
    pub(super) fn fingerprint(&self, login: &Login) -> SessionKey {
        self.sealer.fingerprint(login.as_bytes())
    }

    /// Has any front end noted that these credentials are refused?
    pub(super) async fn is_refused(&self, fingerprint: &SessionKey) -> bool {
        matches!(self.sessions.find_fresh(*fingerprint).await, Kept::Found(..))
    }

    /// Notes for all front ends that these credentials are refused. A mark is an empty record.
    pub(super) async fn refuse(&self, fingerprint: &SessionKey) {
        // That somebody else has noted it already is fine.
        self.sessions.save(*fingerprint, SessionRecord::default(), Precondition::Absent, self.ttl).await;
    }

    /// What is damaged, or sealed by a secret that is gone, counts as absent.
    fn read(&self, id: &SessionId, key: SessionKey, kept: Kept) -> Found {
        let (record, version) = match kept {
            Kept::Found(record, version) => (record, version),
            Kept::UnderOldKey(_) | Kept::Absent => return Found::Absent,
            Kept::Unknown => return Found::Unsure,
        };
        let opened = || {
            let unsealed = self.sealer.open(id, &key, record.sealed())?;
            let session = Shared::decode(&unsealed.content)?;
            Some(Lookup { id: id.clone(), key, session, version, current: unsealed.current })
        };
        opened().map_or(Found::Absent, |known| Found::Session(Box::new(known)))
    }

    fn sealed(&self, id: &SessionId, key: &SessionKey, session: &Shared) -> Option<SessionRecord> {
        Some(SessionRecord::default().with_sealed(self.sealer.seal(id, key, &session.encode())?))
    }
}
