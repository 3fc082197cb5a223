//! Sessions in Redis (or Valkey): a single server, a master that Sentinels know, or a Redis
//! Cluster.

mod builder;
mod connection;
mod connector;
mod failure;
mod script;

use std::fmt;
use std::time::Duration;

use redis::{Cmd, Value};

pub use self::builder::RedisBuilder;
use self::connection::SharedConnection;
use self::failure::{RequestFailure, unexpected_response};
use self::script::{Call, RequiredValue, Write};
use super::remote::{self, Failure};
use super::{
    InvalidStore, Precondition, SaveOutcome, SessionKey, SessionRecord, SessionStore, StoreError, StoreFuture, Stored,
};

/// How often a save compares again with a changing value that is not a record.
const MAX_SAVE_ROUNDS: usize = 4;

/// Sessions in Redis 6 or later, or Valkey.
///
/// One connection (in a cluster, one per node) carries the requests of all callers. A background
/// task opens it on first use and reopens it when it fails. A request whose connection failed is
/// sent again. This is safe even for a write, because the store recognises its version. Every
/// operation takes one round trip.
///
/// | in the server | |
/// |---|---|
/// | key | the prefix (`kylin-lb:`) and 32 hexadecimal digits |
/// | value | version, 8 bytes, and the encoded [`SessionRecord`] |
/// | expiry | the time to live of the record |
///
/// A user with restricted rights needs these commands on the keys `~kylin-lb:*`:
///
/// - always `+getrange +evalsha +eval +set +pexpire +unlink`;
/// - `+select` for a database other than 0;
/// - `+role` with Sentinels;
/// - `+ping +cluster|slots` in a cluster.
pub struct RedisStore {
    prefix: String,
    connection: SharedConnection,
}

impl RedisStore {
    /// Parses the settings of a store at one of these addresses:
    ///
    /// | address | store |
    /// |---|---|
    /// | `redis://[user[:password]@]host[:6379][/database]` | a single server |
    /// | `redis+sentinel://[user[:password]@]host[:26379],host.../master[/database]` | the master that the Sentinels name |
    /// | `redis+cluster://[user[:password]@]host[:6379],host...` | the cluster of these nodes |
    ///
    /// `rediss`, `rediss+sentinel` and `rediss+cluster` connect over TLS. Special characters are
    /// percent-encoded. Options:
    ///
    /// - `prefix`;
    /// - `ca`, a file of PEM certificates that replaces the system's roots;
    /// - `sentinel_user` and `sentinel_password`, for Sentinels with a login of their own.
    ///
    /// ```
    /// use kylin_lb::session::RedisStore;
    ///
    /// let store = RedisStore::builder("redis+sentinel://:s3cret@10.0.0.1,10.0.0.2,10.0.0.3/kylin/2")?
    ///     .prefix("kylin-lb:prod:")
    ///     .build()?;
    /// assert!(!format!("{store:?}").contains("s3cret"));
    /// # Ok::<(), kylin_lb::session::InvalidStore>(())
    /// ```
    ///
    /// # Errors
    /// [`InvalidStore`] if the address is invalid.
    pub fn builder(address: &str) -> Result<RedisBuilder, InvalidStore> {
        RedisBuilder::from_address(address)
    }

    fn key_of(&self, key: &SessionKey) -> Vec<u8> {
        format!("{}{}", self.prefix, key.to_hex()).into_bytes()
    }

    /// Sends a command whose response is a number that the caller does not need.
    async fn execute(&self, command: Cmd, key: &[u8]) -> Result<(), StoreError> {
        match self.connection.request(&command, key).await? {
            Value::Int(_) => Ok(()),
            _ => Err(unexpected_response().into()),
        }
    }
}

impl SessionStore for RedisStore {
    fn load<'a>(&'a self, key: &'a SessionKey) -> StoreFuture<'a, Option<Stored>> {
        StoreFuture::boxed(async move {
            let key = self.key_of(key);
            match self.connection.request(&script::get_range(&key), &key).await {
                Ok(Value::BulkString(bytes)) => Ok(remote::decode_value(&bytes)),
                Ok(_) => Err(unexpected_response().into()),
                // Another program wrote a list or a hash: there is no record.
                Err(RequestFailure::WrongType) => Ok(None),
                Err(failure) => Err(failure.into()),
            }
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
            let key = self.key_of(key);
            let expected = match precondition {
                Precondition::Absent => RequiredValue::Value(Vec::new()),
                Precondition::Version(version) => RequiredValue::Version(version),
            };
            let mut write = Write { key: &key, version, record: &record, ttl, expected };
            for _ in 0..MAX_SAVE_ROUNDS {
                let response = match self.connection.request(&write.command(Call::ByHash), &key).await {
                    // The server has not seen the script yet, or lost it in a restart.
                    Err(RequestFailure::NoScript) => self.connection.request(&write.command(Call::ByText), &key).await,
                    response => response,
                };
                let found = match response? {
                    Value::Int(1) => return Ok(SaveOutcome::Stored(version)),
                    Value::BulkString(found) => found,
                    _ => return Err(unexpected_response().into()),
                };
                let stored = remote::decode_value(&found);
                if stored.is_some() || matches!(precondition, Precondition::Version(_)) {
                    return Ok(SaveOutcome::Conflict(stored));
                }
                // A value that is not a record counts as absent. It is replaced unless it has
                // changed since.
                write.expected = RequiredValue::Value(found);
            }
            Err(Failure::unavailable(failure::SYSTEM, "a value that is no record keeps changing").into())
        })
    }

    fn touch<'a>(&'a self, key: &'a SessionKey, ttl: Duration) -> StoreFuture<'a, ()> {
        let key = self.key_of(key);
        StoreFuture::boxed(async move { self.execute(script::expire(&key, ttl), &key).await })
    }

    fn remove<'a>(&'a self, key: &'a SessionKey) -> StoreFuture<'a, ()> {
        let key = self.key_of(key);
        StoreFuture::boxed(async move { self.execute(Cmd::unlink(&key), &key).await })
    }

    fn connection_epoch(&self) -> u64 {
        self.connection.opened()
    }

    fn address(&self) -> Option<String> {
        Some(self.connection.topology().to_string())
    }
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore")
            .field("topology", self.connection.topology())
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}
