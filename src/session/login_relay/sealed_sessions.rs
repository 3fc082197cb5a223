use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::credentials::Credentials;
use super::opened::{Content, RecentlyOpened};
use super::record::{NodeCookie, NodeCookies, RelayedSession};
use super::seal::Sealer;
use super::session_id::SessionId;
use crate::drop_guard::DropGuard;
use crate::endpoint::EndpointId;
use crate::maybe_ready::MaybeReady;
use crate::request::ClientAddr;
use crate::session::cached::{Lookup, Sessions};
use crate::session::{Precondition, SessionKey, SessionRecord};

/// The maximum number of times that a change is repeated after a conflict. There are few writers:
/// the first login at each node.
const MAX_CONFLICTS: usize = 16;

/// The sealed sessions of a store.
#[derive(Debug, Clone)]
pub(super) struct SealedSessions {
    sessions: Sessions,
    sealer: Sealer,
    opened: Arc<RecentlyOpened>,
    /// The time for which an unused session is kept.
    pub(super) ttl: Duration,
}

/// A session that was found and opened.
#[derive(Debug, Clone)]
pub(super) struct OpenSession {
    /// The client of this request. The session counts towards its share.
    client: ClientAddr,
    pub(super) id: SessionId,
    pub(super) key: SessionKey,
    /// The sealed bytes as found in the store. The credentials are opened from them.
    sealed: Bytes,
    /// The content for this request, which may already differ from the stored one.
    content: Content,
    /// The version in the store; `None` while the store does not have the session.
    version: Option<u64>,
}

impl OpenSession {
    /// Returns the session's cookies at the nodes.
    pub(super) fn cookies(&self) -> &NodeCookies {
        &self.content.cookies
    }

    /// Sets or removes the session's cookie at a node, for this request only.
    pub(super) fn set_cookie(&mut self, endpoint: &EndpointId, cookie: Option<NodeCookie>) {
        Arc::make_mut(&mut self.content.cookies).set(endpoint, cookie);
    }

    /// Returns the [fingerprint](SealedSessions::fingerprint) of the session's credentials.
    pub(super) fn fingerprint(&self) -> SessionKey {
        self.content.fingerprint
    }

    /// Returns whether the session is sealed with the current secret.
    pub(super) fn is_current(&self) -> bool {
        self.content.is_current
    }
}

/// The mark of credentials in the store.
#[derive(PartialEq, Eq)]
pub(super) enum Mark {
    /// The credentials are wrong.
    Wrong,
    /// This node refused the credentials, or could not check them, and no node has accepted them
    /// since.
    RefusedBy(EndpointId),
    /// The store has no mark: no node has refused the credentials, a node has accepted them since,
    /// or the mark has expired.
    Absent,
    /// The store is unavailable.
    Unknown,
}

/// The result of a lookup.
pub(super) enum Opened {
    Session(Box<OpenSession>),
    Absent,
    /// The store is unavailable.
    Unknown,
}

impl SealedSessions {
    pub(super) fn new(sessions: Sessions, sealer: Sealer) -> Self {
        let ttl = Duration::from_secs(8 * 3600);
        SealedSessions { sessions, sealer, opened: Arc::new(RecentlyOpened::new()), ttl }
    }

    /// Finds the session of a client, in the near cache or in the store.
    pub(super) fn find(&self, client: ClientAddr, id: SessionId) -> MaybeReady<'_, Opened> {
        let mut keys = self.sealer.keys(&id);
        let Some(first) = keys.next() else { return MaybeReady::Ready(Opened::Absent) };
        // Two secrets with one number are rare, and exist only during a rotation.
        let others: Vec<SessionKey> = keys.collect();
        let lookup = match self.sessions.find(client, first, id.as_bytes(), Some(self.ttl)) {
            MaybeReady::Ready(lookup) if others.is_empty() => {
                return MaybeReady::Ready(self.open(client, id, first, lookup));
            }
            lookup => lookup,
        };
        MaybeReady::boxed(async move {
            let mut opened = self.open(client, id.clone(), first, lookup.await);
            for key in others {
                if let Opened::Absent = opened {
                    let lookup = self.sessions.find(client, key, id.as_bytes(), Some(self.ttl)).await;
                    opened = self.open(client, id.clone(), key, lookup);
                }
            }
            opened
        })
    }

    /// Reads the session again from the store.
    pub(super) async fn refresh(&self, known: &OpenSession) -> Opened {
        let lookup = self.sessions.find_fresh(known.client, known.key, Some(self.ttl)).await;
        self.open(known.client, known.id.clone(), known.key, lookup)
    }

    /// Stores a new session. Returns `None` if it cannot be stored.
    pub(super) async fn create(&self, client: ClientAddr, session: RelayedSession) -> Option<OpenSession> {
        let id = SessionId::random(self.sealer.number())?;
        let key = self.sealer.keys(&id).next()?;
        let record = self.seal(&id, &key, &session)?;
        match self.sessions.save(client, key, record.clone(), Precondition::Absent, self.ttl).await {
            Lookup::Found(stored, version) if stored == record => {
                let (sealed, content) = (record.sealed().clone(), self.content(session, true));
                Some(OpenSession { client, id, key, sealed, content, version })
            }
            _ => None,
        }
    }

    /// Applies `change` to the cookies of the stored session, and updates `known` with the result.
    ///
    /// `change` returns whether there is anything to write, and is called again after a conflict.
    /// Returns false if the session has been removed meanwhile.
    pub(super) async fn change(
        &self,
        known: &mut OpenSession,
        mut change: impl FnMut(&mut NodeCookies) -> bool,
    ) -> bool {
        for _ in 0..MAX_CONFLICTS {
            let mut cookies = known.cookies().clone();
            if !change(&mut cookies) {
                return true;
            }
            let Some(credentials) = self.credentials(known) else { return true };
            let session = RelayedSession { credentials, cookies };
            let Some(record) = self.seal(&known.id, &known.key, &session) else { return true };
            match self.sessions.replace(known.client, known.key, record.clone(), known.version, self.ttl).await {
                Lookup::Found(stored, version) if stored == record => {
                    known.sealed = record.sealed().clone();
                    known.content = self.content(session, true);
                    known.version = version;
                    return true;
                }
                conflict => match self.open(known.client, known.id.clone(), known.key, conflict) {
                    Opened::Session(winner) => *known = *winner,
                    Opened::Absent => return false,
                    Opened::Unknown => return true,
                },
            }
        }
        true
    }

    /// Keeps the session alive until the guard is dropped.
    pub(super) fn keep_alive(&self, known: &OpenSession) -> DropGuard {
        self.sessions.use_now(known.key, self.ttl)
    }

    /// Ends a session at all front ends.
    pub(super) async fn end(&self, key: &SessionKey) {
        self.opened.forget(key);
        self.sessions.end_now(*key, self.ttl).await;
    }

    /// Opens the credentials of a session. This succeeds, because the session was opened before.
    pub(super) fn credentials(&self, known: &OpenSession) -> Option<Credentials> {
        let unsealed = self.sealer.open(&known.id, &known.key, &known.sealed)?;
        Some(RelayedSession::decode(&unsealed.content)?.credentials)
    }

    /// Returns a keyed hash that identifies credentials.
    pub(super) fn fingerprint(&self, credentials: &Credentials) -> SessionKey {
        self.sealer.fingerprint(credentials.as_bytes())
    }

    /// Returns the mark of these credentials, from any front end. A mark of wrong credentials stays
    /// as long as sessions with them are used.
    pub(super) async fn mark(&self, fingerprint: &SessionKey) -> Mark {
        match self.sessions.find_fresh(ClientAddr::Unix, *fingerprint, None).await {
            Lookup::Found(record, _) => match record.endpoint() {
                Some(node) => Mark::RefusedBy(node.clone()),
                None => {
                    drop(self.sessions.use_now(*fingerprint, self.ttl));
                    Mark::Wrong
                }
            },
            Lookup::UnderOldKey(_) | Lookup::Absent => Mark::Absent,
            Lookup::Unknown => Mark::Unknown,
        }
    }

    /// Returns whether the store certainly has no mark of these credentials.
    pub(super) async fn is_unmarked(&self, fingerprint: &SessionKey) -> bool {
        self.mark(fingerprint).await == Mark::Absent
    }

    /// Removes the mark of credentials that a node has accepted, and the claim of the login.
    pub(super) async fn remove_marks(&self, fingerprint: &SessionKey) {
        self.sessions.remove_now(*fingerprint).await;
        self.sessions.remove_now(self.sealer.claim_key(fingerprint)).await;
    }

    /// Marks credentials as wrong for all front ends. The mark is an empty record.
    pub(super) async fn mark_wrong(&self, fingerprint: &SessionKey) {
        self.put_mark(fingerprint, SessionRecord::default(), self.ttl).await;
    }

    /// Marks credentials for all front ends as refused by one node, for the time `ttl`. The mark is
    /// a record with the id of the node.
    pub(super) async fn mark_refused_by(&self, fingerprint: &SessionKey, node: EndpointId, ttl: Duration) {
        self.put_mark(fingerprint, SessionRecord::bound(node), ttl).await;
    }

    /// Stores a mark in place of an earlier one, unless the credentials are marked as wrong.
    async fn put_mark(&self, fingerprint: &SessionKey, mark: SessionRecord, ttl: Duration) {
        let mut present = self.sessions.find_fresh(ClientAddr::Unix, *fingerprint, None).await;
        // The second attempt is for a conflict with another front end.
        for _ in 0..2 {
            let precondition = match &present {
                Lookup::Found(present, _) if present.endpoint().is_none() => return,
                Lookup::Found(_, Some(version)) => Precondition::Version(*version),
                Lookup::Found(_, None) | Lookup::UnderOldKey(_) | Lookup::Absent | Lookup::Unknown => {
                    Precondition::Absent
                }
            };
            present = self.sessions.save(ClientAddr::Unix, *fingerprint, mark.clone(), precondition, ttl).await;
            if matches!(&present, Lookup::Found(stored, _) if *stored == mark) {
                return;
            }
        }
    }

    /// Claims the next login with credentials that were not accepted: at most one front end may
    /// send them within `interval`.
    ///
    /// If the store is unavailable, the front ends cannot agree. Then a front end may send them
    /// only if no other can have its sessions. Otherwise a session waits where it is logged in, and
    /// its client may log in itself. A locked user would lose all sessions.
    pub(super) async fn claim_login(&self, fingerprint: &SessionKey, interval: Duration) -> bool {
        self.sessions.claim(self.sealer.claim_key(fingerprint), interval).await
    }

    /// Prevents all front ends from claiming a login with these credentials for the time `delay`,
    /// after a claimed login was refused.
    pub(super) async fn extend_claim(&self, fingerprint: &SessionKey, delay: Duration) {
        self.sessions.extend_claim(self.sealer.claim_key(fingerprint), delay).await;
    }

    /// Opens a record. A record that is damaged, or sealed with an unknown secret, counts as
    /// absent.
    fn open(&self, client: ClientAddr, id: SessionId, key: SessionKey, lookup: Lookup) -> Opened {
        let (record, version) = match lookup {
            Lookup::Found(record, version) => (record, version),
            Lookup::UnderOldKey(_) | Lookup::Absent => return Opened::Absent,
            Lookup::Unknown => return Opened::Unknown,
        };
        let open = || {
            let unsealed = self.sealer.open(&id, &key, record.sealed())?;
            Some(self.content(RelayedSession::decode(&unsealed.content)?, unsealed.is_current))
        };
        let sealed = record.sealed();
        match self.opened.get(&key, sealed, open) {
            Some(content) => {
                let sealed = sealed.clone();
                Opened::Session(Box::new(OpenSession { client, id, key, sealed, content, version }))
            }
            None => Opened::Absent,
        }
    }

    fn content(&self, session: RelayedSession, is_current: bool) -> Content {
        let fingerprint = self.fingerprint(&session.credentials);
        Content { cookies: Arc::new(session.cookies), fingerprint, is_current }
    }

    fn seal(&self, id: &SessionId, key: &SessionKey, session: &RelayedSession) -> Option<SessionRecord> {
        Some(SessionRecord::default().with_sealed(self.sealer.seal(id, key, &session.encode())?))
    }
}
