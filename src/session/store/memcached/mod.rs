//! Sessions in one or several Memcached servers.
//!
//! This module speaks the protocol itself. A store needs `cas`, `touch`, and a bound on the length
//! of responses. It also needs a guarantee that a response whose caller was dropped is not taken
//! for the next one. No asynchronous crate for Memcached has all of these.

mod builder;
mod connection;

use std::fmt;
use std::time::Duration;

pub use self::builder::MemcachedBuilder;
use self::connection::{Connection, Connector, Value};
use super::remote::{self, Failure, Pool, RequestError};
use super::{InvalidStore, Precondition, SaveOutcome, SessionKey, SessionRecord, SessionStore, StoreFuture, Stored};
use crate::hash;

/// How often a save compares again after another writer was faster.
const MAX_SAVE_ROUNDS: usize = 4;

/// The maximum time to live of Memcached, in seconds. Memcached interprets a larger number as a
/// date.
const MAX_TTL: u64 = 30 * 86_400;

/// Sessions in Memcached 1.4 or later.
///
/// Rendezvous hashing of the key with the addresses of the servers, as they are written, chooses
/// the server of a session. Front ends with the same list, in any order, choose the same server. A
/// server that is added or removed moves only its own share. While a server is down, its sessions
/// are unavailable, because another server would not have them.
///
/// Memcached is a cache. A server that restarts loses all its sessions, and a server that runs out
/// of memory evicts the least recently used ones. A time to live is rounded up to seconds and is at
/// most 30 days.
///
/// A load takes one round trip, and so does a save of a new record. A save that replaces a record
/// takes two.
///
/// | in a server | |
/// |---|---|
/// | key | the prefix (`kylin-lb:`) and 32 hexadecimal digits |
/// | value | version, 8 bytes, and the encoded [`SessionRecord`] |
/// | exptime | the time to live of the record |
pub struct MemcachedStore {
    prefix: String,
    /// Each with the hash of its address.
    servers: Vec<(u64, Pool<Connector>)>,
}

impl MemcachedStore {
    /// Parses the settings of a store at
    /// `memcached://[user:password@]host[:11211][,host[:11211]...]`.
    ///
    /// The login is for servers with an authentication file (`-Y`). Options: `prefix` and
    /// `connections`. All front ends must write the servers in the same way.
    ///
    /// ```
    /// use kylin_lb::session::MemcachedStore;
    ///
    /// let store = MemcachedStore::builder("memcached://10.0.0.1,10.0.0.2")?.build()?;
    /// # Ok::<(), kylin_lb::session::InvalidStore>(())
    /// ```
    ///
    /// # Errors
    /// [`InvalidStore`] if the address is invalid.
    pub fn builder(address: &str) -> Result<MemcachedBuilder, InvalidStore> {
        MemcachedBuilder::from_address(address)
    }

    fn server_of(&self, key: &SessionKey) -> &Pool<Connector> {
        let key = hash::key64(key.as_bytes());
        let best = self.servers.iter().max_by_key(|(server, _)| hash::mix(key, *server));
        &best.expect("a store has at least one server").1
    }

    fn key_of(&self, key: &SessionKey) -> String {
        format!("{}{}", self.prefix, key.to_hex())
    }
}

impl SessionStore for MemcachedStore {
    fn load<'a>(&'a self, key: &'a SessionKey) -> StoreFuture<'a, Option<Stored>> {
        StoreFuture::boxed(async move {
            let server = self.server_of(key);
            let value = server.run(self.key_of(key), |connection, key| Box::pin(connection.gets(key))).await?;
            Ok(value.and_then(|value| value.stored()))
        })
    }

    fn save<'a>(
        &'a self,
        key: &'a SessionKey,
        record: &'a SessionRecord,
        precondition: Precondition,
        ttl: Duration,
    ) -> StoreFuture<'a, SaveOutcome> {
        StoreFuture::boxed(async move {
            let record = remote::encode_record(record)?;
            let version = remote::new_version();
            let value = remote::encode_value(version, &record);
            let write = Write { key: self.key_of(key), version, value, ttl: seconds(ttl), precondition };
            self.server_of(key).run(write, |connection, write| Box::pin(write.save(connection))).await
        })
    }

    fn touch<'a>(&'a self, key: &'a SessionKey, ttl: Duration) -> StoreFuture<'a, ()> {
        let request = (self.key_of(key), seconds(ttl));
        let touch = self.server_of(key).run(request, |connection, (key, ttl)| Box::pin(connection.touch(key, *ttl)));
        StoreFuture::boxed(touch)
    }

    fn remove<'a>(&'a self, key: &'a SessionKey) -> StoreFuture<'a, ()> {
        let server = self.server_of(key);
        StoreFuture::boxed(server.run(self.key_of(key), |connection, key| Box::pin(connection.delete(key))))
    }

    fn connection_epoch(&self) -> u64 {
        self.servers.iter().map(|(_, pool)| pool.lost_connections()).sum()
    }

    fn address(&self) -> Option<String> {
        let servers: Vec<_> = self.servers.iter().map(|(_, pool)| pool.connector().address()).collect();
        Some(format!("memcached://{}", servers.join(",")))
    }
}

/// The record and the parameters of a save.
struct Write {
    key: String,
    version: u64,
    value: Vec<u8>,
    ttl: u64,
    precondition: Precondition,
}

impl Write {
    async fn save(&self, connection: &mut Connection) -> Result<SaveOutcome, RequestError> {
        for _ in 0..MAX_SAVE_ROUNDS {
            if self.precondition == Precondition::Absent && connection.add(&self.key, &self.value, self.ttl).await? {
                return Ok(SaveOutcome::Stored(self.version));
            }
            let found = connection.gets(&self.key).await?;
            let stored = found.as_ref().and_then(Value::stored);
            let replaceable = match (self.precondition, &stored) {
                // An earlier attempt whose response was lost has written this record.
                (_, Some(stored)) if stored.version == self.version => return Ok(SaveOutcome::Stored(self.version)),
                // A value that is not a record counts as absent.
                (Precondition::Absent, stored) => stored.is_none(),
                (Precondition::Version(expected), stored) => {
                    stored.as_ref().is_some_and(|stored| stored.version == expected)
                }
            };
            match found {
                Some(found) if replaceable => {
                    if connection.cas(&self.key, &self.value, self.ttl, found.cas).await? {
                        return Ok(SaveOutcome::Stored(self.version));
                    }
                }
                // The value was removed since `add` found it.
                None if replaceable => {}
                _ => return Ok(SaveOutcome::Conflict(stored)),
            }
        }
        Err(RequestError::Refused(Failure::unavailable(connection::SYSTEM, "the value keeps changing")))
    }
}

impl Value {
    fn stored(&self) -> Option<Stored> {
        remote::decode_value(self.bytes.as_deref()?)
    }
}

/// Converts a time to live for Memcached. Adds a second, because the clock of Memcached advances
/// once a second and it counts the current second as elapsed.
fn seconds(ttl: Duration) -> u64 {
    let whole = ttl.as_secs().saturating_add(u64::from(ttl.subsec_nanos() > 0));
    whole.saturating_add(1).min(MAX_TTL)
}

impl fmt::Debug for MemcachedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemcachedStore")
            .field("servers", &self.servers.iter().map(|(_, pool)| pool.connector().address()).collect::<Vec<_>>())
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_to_live_is_never_taken_for_a_date() {
        assert_eq!(seconds(Duration::from_secs(1)), 2);
        assert_eq!(seconds(Duration::from_millis(1500)), 3);
        assert_eq!(seconds(Duration::from_secs(31 * 86_400)), MAX_TTL);
        assert_eq!(seconds(Duration::MAX), MAX_TTL);
    }

    #[test]
    fn the_server_of_a_session_does_not_depend_on_the_order_of_servers() {
        let server = |address: &str, byte| {
            let store = MemcachedStore::builder(address).unwrap().build().unwrap();
            store.server_of(&SessionKey::from_bytes([byte; 16])).connector().address().to_owned()
        };
        let mut shares = std::collections::BTreeMap::new();
        for byte in 0..=255 {
            let chosen = server("memcached://a,b,c", byte);
            assert_eq!(server("memcached://c:11211,A,b", byte), chosen);
            // Without c, only the sessions of c move.
            assert!(chosen == "c:11211" || server("memcached://a,b", byte) == chosen);
            *shares.entry(chosen).or_insert(0) += 1;
        }
        assert!(shares.len() == 3 && shares.values().all(|&share| share > 50), "{shares:?}");
        // A version of this crate that chose differently would lose all sessions in an upgrade.
        assert_eq!(server("memcached://a,b,c", 7), GOLDEN);
    }

    const GOLDEN: &str = "c:11211";
}
