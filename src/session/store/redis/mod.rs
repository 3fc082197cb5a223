//! Sessions in Redis (or Valkey): a single server, a master that Sentinels know, or a Redis Cluster.

mod builder;
mod dialer;
mod faults;
mod link;
mod script;

use std::fmt;
use std::time::Duration;

use redis::{Cmd, Value};

pub use self::builder::RedisBuilder;
use self::dialer::Topology;
use self::faults::{Verdict, nonsense};
use self::link::Link;
use self::script::{Believed, Outcome};
use super::remote::{self, Fault};
use super::{
    InvalidStore, Precondition, SaveOutcome, SessionKey, SessionRecord, SessionStore, StoreError, StoreFuture, Stored,
};

/// How often a save that meets values which are no records compares again, before it gives up.
const ROUNDS: usize = 4;

/// Sessions in Redis 6 or later, or Valkey. Made by a [`RedisBuilder`]; needs no running server to be made.
///
/// One connection (in a cluster, one to each node) carries the requests of all callers. It is made in the background when it is
/// first needed and again when it fails; a request whose connection failed under it is sent again, which is safe even for a
/// write, because a write recognises itself by its version. Every operation is one round trip.
///
/// | in the server | |
/// |---|---|
/// | key | the prefix (`kylin-lb:`) and 32 hexadecimal digits |
/// | value | version, 8 bytes, and the encoded [`SessionRecord`] |
/// | expiry | the record's time to live |
///
/// A user with restricted rights needs `+getrange +evalsha +eval +set +pexpire +unlink` and the keys `~kylin-lb:*`; also `+select`
/// for a database other than 0, `+role` with Sentinels, `+ping +cluster|slots` in a cluster.
pub struct RedisStore {
    prefix: String,
    link: Link,
}

impl RedisStore {
    /// The settings of a store at this address:
    ///
    /// | address | where |
    /// |---|---|
    /// | `redis://[user[:password]@]host[:6379][/database]` | a single server |
    /// | `redis+sentinel://[user[:password]@]host[:26379],host.../master[/database]` | the master that Sentinels name |
    /// | `redis+cluster://[user[:password]@]host[:6379],host...` | a cluster that some of these belong to |
    ///
    /// `rediss`, `rediss+sentinel` and `rediss+cluster` are the same over TLS. Options: `prefix`, `ca` (a file of PEM
    /// certificates to trust in place of the system's), for Sentinels with a login of their own `sentinel_user` and
    /// `sentinel_password`. What is special in a URL is written as `%XX`.
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
    /// [`InvalidStore`] when the address is not one of these.
    pub fn builder(address: &str) -> Result<RedisBuilder, InvalidStore> {
        RedisBuilder::from_address(address)
    }

    fn key(&self, key: &SessionKey) -> Vec<u8> {
        remote::prefixed(&self.prefix, key)
    }

    async fn read(&self, key: &SessionKey) -> Result<Option<Stored>, StoreError> {
        let key = self.key(key);
        match self.link.ask(&script::get_range(&key), &key).await {
            Ok(Value::BulkString(bytes)) => Ok(remote::unpack(&bytes)),
            Ok(_) => Err(nonsense().into()),
            // A list, a hash: not ours, so not there.
            Err(Verdict::WrongType) => Ok(None),
            Err(verdict) => Err(verdict.into()),
        }
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
        let key = self.key(key);
        let mut believed = match expect {
            Precondition::Absent => Believed::Absent,
            Precondition::Version(version) => Believed::Version(version),
        };
        for _ in 0..ROUNDS {
            let found = match script::save(&self.link, &key, version, &record, &believed, ttl).await? {
                Outcome::Done => return Ok(SaveOutcome::Stored(version)),
                Outcome::Found(found) => found,
            };
            let stored = remote::unpack(&found);
            if stored.is_some() || matches!(expect, Precondition::Version(_)) {
                return Ok(SaveOutcome::Conflict(stored));
            }
            // What is there is no record and counts as absent: it is replaced, if it is still the same.
            believed = Believed::Bytes(found);
        }
        Err(Fault::unavailable(faults::SYSTEM, "a value that is no record keeps changing").into())
    }

    /// Sends a command whose answer is a number that does not matter.
    async fn tell(&self, command: Cmd, key: &[u8]) -> Result<(), StoreError> {
        match self.link.ask(&command, key).await {
            Ok(Value::Int(_)) => Ok(()),
            Ok(_) => Err(nonsense().into()),
            Err(verdict) => Err(verdict.into()),
        }
    }
}

impl SessionStore for RedisStore {
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
        StoreFuture::boxed(async move {
            let key = self.key(key);
            self.tell(script::expire(&key, ttl), &key).await
        })
    }

    fn remove<'a>(&'a self, key: &'a SessionKey) -> StoreFuture<'a, ()> {
        StoreFuture::boxed(async move {
            let key = self.key(key);
            self.tell(script::unlink(&key), &key).await
        })
    }

    fn connection_epoch(&self) -> u64 {
        self.link.made()
    }
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("RedisStore");
        match self.link.topology() {
            Topology::Single(server) => debug.field("server", server),
            Topology::Sentinel { sentinels, master } => debug.field("sentinels", sentinels).field("master", master),
            Topology::Cluster(nodes) => debug.field("cluster", nodes),
        };
        debug.field("prefix", &self.prefix).finish_non_exhaustive()
    }
}
