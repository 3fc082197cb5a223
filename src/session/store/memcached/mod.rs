//! Sessions in one or several Memcached servers.
//!
//! The protocol is spoken here rather than by a crate: of those that are asynchronous none has `cas` and `touch`, bounds what it
//! reads, and keeps a caller that was dropped from leaving its answer to the next one.

mod builder;
mod connection;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use self::connection::{Connection, Found, Server};
use super::remote::{self, Failed, Fault, Pool};
use super::{
    InvalidStore, Precondition, SaveOutcome, SessionKey, SessionRecord, SessionStore, StoreError, StoreFuture, Stored,
};
use crate::hash;

pub use self::builder::MemcachedBuilder;

/// How often a save that others overtake compares again, before it gives up.
const ROUNDS: usize = 4;

/// What Memcached takes for a time to live; a larger number would be a date.
const MONTH: u64 = 30 * 86_400;

/// Sessions in Memcached 1.4 or later. Made by a [`MemcachedBuilder`]; needs no running server to be made.
///
/// Each session is on one of the servers, found by rendezvous hashing of its key with the servers' addresses as they are
/// written: front ends that agree on the list, in any order, agree on the place, and a server that is added or taken away
/// moves only its own share. While a server is down its sessions are unavailable; they are not looked for elsewhere, where
/// another front end would not find them.
///
/// Memcached is a cache: a restart loses all that a server had, and memory that runs short loses the longest unused. A time to
/// live is rounded up to seconds and is at most 30 days, after which a session that nothing touched is forgotten.
///
/// A load, and a save of a new record, is one round trip; a save that replaces a record is two.
///
/// | in a server | |
/// |---|---|
/// | key | the prefix (`kylin-lb:`) and 32 hexadecimal digits |
/// | value | version, 8 bytes, and the encoded [`SessionRecord`] |
/// | exptime | the record's time to live |
pub struct MemcachedStore {
    prefix: String,
    servers: Vec<(u64, Pool<Server>)>,
}

impl MemcachedStore {
    /// The settings of a store at `memcached://[user:password@]host[:11211][,host[:11211]...][?prefix=...]`. The login is for
    /// servers with an authentication file (`-Y`).
    ///
    /// ```
    /// use kylin_lb::session::MemcachedStore;
    ///
    /// let store = MemcachedStore::builder("memcached://10.0.0.1,10.0.0.2")?.build()?;
    /// # Ok::<(), kylin_lb::session::InvalidStore>(())
    /// ```
    ///
    /// # Errors
    /// [`InvalidStore`] when the address is not one of these.
    pub fn builder(address: &str) -> Result<MemcachedBuilder, InvalidStore> {
        MemcachedBuilder::from_address(address)
    }

    /// The server of a key.
    fn server(&self, key: &SessionKey) -> &Pool<Server> {
        let key = hash::key64(key.as_bytes());
        let best = self.servers.iter().max_by_key(|(server, _)| hash::mix(key, *server));
        &best.expect("a store has at least one server").1
    }

    fn key(&self, key: &SessionKey) -> Arc<[u8]> {
        remote::prefixed(&self.prefix, key).into()
    }

    async fn read(&self, key: &SessionKey) -> Result<Option<Stored>, StoreError> {
        let name = self.key(key);
        self.server(key)
            .run(move |connection| {
                let name = name.clone();
                Box::pin(async move { Ok(connection.gets(&name).await?.and_then(|found| found.stored())) })
            })
            .await
    }

    async fn write(
        &self,
        key: &SessionKey,
        record: &SessionRecord,
        expect: Precondition,
        ttl: Duration,
    ) -> Result<SaveOutcome, StoreError> {
        let record = remote::encode(record)?;
        let version = remote::fresh_version();
        let new =
            Arc::new(New { name: self.key(key), version, value: remote::pack(version, &record), ttl: seconds(ttl) });
        self.server(key)
            .run(move |connection| {
                let new = new.clone();
                Box::pin(async move {
                    match expect {
                        Precondition::Absent => new.add(connection).await,
                        Precondition::Version(version) => new.replace(connection, version).await,
                    }
                })
            })
            .await
    }
}

/// A record on its way into a server.
struct New {
    name: Arc<[u8]>,
    version: u64,
    value: Vec<u8>,
    ttl: u64,
}

impl New {
    async fn add(&self, connection: &mut Connection) -> Result<SaveOutcome, Failed> {
        for _ in 0..ROUNDS {
            if connection.add(&self.name, &self.value, self.ttl).await? {
                return Ok(SaveOutcome::Stored(self.version));
            }
            let Some(found) = connection.gets(&self.name).await? else { continue };
            match found.stored() {
                Some(stored) => return Ok(self.or_lost(stored)),
                // What is there is no record and counts as absent: it is replaced, if it is still the same.
                None if connection.cas(&self.name, &self.value, self.ttl, found.cas).await? => {
                    return Ok(SaveOutcome::Stored(self.version));
                }
                None => {}
            }
        }
        Err(overtaken())
    }

    async fn replace(&self, connection: &mut Connection, expected: u64) -> Result<SaveOutcome, Failed> {
        for _ in 0..ROUNDS {
            let Some(found) = connection.gets(&self.name).await? else { return Ok(SaveOutcome::Conflict(None)) };
            match found.stored() {
                Some(stored) if stored.version == expected => {
                    if connection.cas(&self.name, &self.value, self.ttl, found.cas).await? {
                        return Ok(SaveOutcome::Stored(self.version));
                    }
                }
                Some(stored) => return Ok(self.or_lost(stored)),
                None => return Ok(SaveOutcome::Conflict(None)),
            }
        }
        Err(overtaken())
    }

    /// Lost to what is there, unless that is this very record, from an attempt whose answer was lost.
    fn or_lost(&self, stored: Stored) -> SaveOutcome {
        if stored.version == self.version {
            SaveOutcome::Stored(self.version)
        } else {
            SaveOutcome::Conflict(Some(stored))
        }
    }
}

fn overtaken() -> Failed {
    Fault::unavailable(connection::SYSTEM, "the value keeps changing").into()
}

impl Found {
    fn stored(&self) -> Option<Stored> {
        remote::unpack(self.value.as_deref()?)
    }
}

impl SessionStore for MemcachedStore {
    fn load<'a>(&'a self, key: &'a SessionKey) -> StoreFuture<'a, Option<Stored>> {
        StoreFuture::boxed(self.read(key))
    }

    fn save<'a>(
        &'a self,
        key: &'a SessionKey,
        record: &'a SessionRecord,
        expect: Precondition,
        ttl: Duration,
    ) -> StoreFuture<'a, SaveOutcome> {
        StoreFuture::boxed(self.write(key, record, expect, ttl))
    }

    fn touch<'a>(&'a self, key: &'a SessionKey, ttl: Duration) -> StoreFuture<'a, ()> {
        let name = self.key(key);
        StoreFuture::boxed(self.server(key).run(move |connection| {
            let name = name.clone();
            Box::pin(async move { connection.touch(&name, seconds(ttl)).await })
        }))
    }

    fn remove<'a>(&'a self, key: &'a SessionKey) -> StoreFuture<'a, ()> {
        let name = self.key(key);
        StoreFuture::boxed(self.server(key).run(move |connection| {
            let name = name.clone();
            Box::pin(async move { connection.delete(&name).await })
        }))
    }

    fn connection_epoch(&self) -> u64 {
        self.servers.iter().map(|(_, pool)| pool.lost()).sum()
    }
}

/// A time to live as Memcached takes it. One second more, because its clock moves once a second and the one that runs
/// counts as over.
fn seconds(ttl: Duration) -> u64 {
    let whole = ttl.as_secs().saturating_add(u64::from(ttl.subsec_nanos() > 0));
    whole.saturating_add(1).clamp(1, MONTH)
}

impl fmt::Debug for MemcachedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemcachedStore")
            .field("servers", &self.servers.iter().map(|(_, pool)| pool.dialer().address()).collect::<Vec<_>>())
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_to_live_is_never_a_date() {
        assert_eq!(seconds(Duration::from_secs(1)), 2);
        assert_eq!(seconds(Duration::from_millis(1500)), 3);
        assert_eq!(seconds(Duration::from_secs(31 * 86_400)), MONTH);
        assert_eq!(seconds(Duration::MAX), MONTH);
    }

    #[test]
    fn the_place_of_a_session_does_not_depend_on_the_order_of_servers() {
        let place = |address: &str, byte| {
            let store = MemcachedStore::builder(address).unwrap().build().unwrap();
            store.server(&SessionKey::from_bytes([byte; 16])).dialer().address().to_owned()
        };
        let mut places = std::collections::BTreeMap::new();
        for byte in 0..=255 {
            let found = place("memcached://a,b,c", byte);
            assert_eq!(place("memcached://c:11211,A,b", byte), found);
            *places.entry(found).or_insert(0) += 1;
            // Without c, what was not there stays.
            let without = place("memcached://a,b", byte);
            assert!(without == place("memcached://a,b,c", byte) || place("memcached://a,b,c", byte) == "c:11211");
        }
        assert!(places.len() == 3 && places.values().all(|&share| share > 50), "{places:?}");
        // Golden: a version of this crate that placed otherwise would lose all sessions of a cluster that is being upgraded.
        assert_eq!(place("memcached://a,b,c", 7), GOLDEN);
    }

    const GOLDEN: &str = "c:11211";
}
