//! Sessions in a table of MariaDB or MySQL.

mod builder;
mod connection;
mod statements;
mod sweep;
mod table;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use self::builder::MysqlBuilder;
use self::connection::Server;
use self::statements::{Found, New, Statements};
use self::sweep::Sweep;
use super::remote::{self, Pool};
use super::{
    InvalidStore, Precondition, SaveOutcome, SessionKey, SessionRecord, SessionStore, StoreError, StoreFuture, Stored,
};

/// Sessions in MariaDB 10.5 or later, or MySQL 8. Made by a [`MysqlBuilder`]; needs no running server to be made.
///
/// The table is made on first use if it is missing, and checked if it is there:
///
/// ```sql
/// CREATE TABLE kylin_lb_sessions (
///     id      BINARY(16)       NOT NULL PRIMARY KEY,
///     version BIGINT UNSIGNED  NOT NULL,
///     record  VARBINARY(16384) NOT NULL,
///     expires BIGINT           NOT NULL,  -- ms since 1970 by the server's clock
///     KEY expires (expires)
/// )
/// ```
///
/// The user needs `SELECT, INSERT, UPDATE, DELETE` on it, and `CREATE` if it is to be made. A load, and a save that wins, is one
/// round trip; a save that loses is two. Records that have expired count as absent at once and are removed by a task that each
/// front end runs every minute or so, a bounded number at a time; it ends with the store.
pub struct MysqlStore {
    pool: Pool<Server>,
    statements: Arc<Statements>,
    sweep: Sweep,
}

impl MysqlStore {
    /// The settings of a store at `mysql://[user[:password]@]host[:3306]/database`, or `mysqls` for the same over TLS. Options:
    /// `table`, `connections`, `ca` (a file of PEM certificates to trust in place of Mozilla's list).
    ///
    /// ```
    /// use kylin_lb::session::MysqlStore;
    ///
    /// let store = MysqlStore::builder("mysql://kylin:s3cret@10.0.0.9/kylin")?.table("sessions")?.build()?;
    /// assert!(!format!("{store:?}").contains("s3cret"));
    /// # Ok::<(), kylin_lb::session::InvalidStore>(())
    /// ```
    ///
    /// # Errors
    /// [`InvalidStore`] when the address is not one of these.
    pub fn builder(address: &str) -> Result<MysqlBuilder, InvalidStore> {
        MysqlBuilder::from_address(address)
    }

    /// Removes what has expired, now rather than when the task comes round; how many records that were.
    ///
    /// # Errors
    /// [`StoreError`] as every operation.
    pub async fn sweep(&self) -> Result<u64, StoreError> {
        sweep::all(&self.pool, &self.statements).await
    }

    fn pool(&self) -> &Pool<Server> {
        self.sweep.ensure_running(&self.pool, &self.statements);
        &self.pool
    }

    async fn read(&self, key: &SessionKey) -> Result<Option<Stored>, StoreError> {
        let (statements, key) = (self.statements.clone(), *key);
        let work = self.pool().run(move |connection| {
            let statements = statements.clone();
            Box::pin(async move { Ok(statements.load(connection, &key).await?.and_then(|found| found.stored())) })
        });
        work.await
    }

    async fn write(
        &self,
        key: &SessionKey,
        record: &SessionRecord,
        expect: Precondition,
        ttl: Duration,
    ) -> Result<SaveOutcome, StoreError> {
        let record = remote::encode(record)?;
        let new = Arc::new(New { key: *key, version: remote::fresh_version(), record, ttl: milliseconds(ttl) });
        let statements = self.statements.clone();
        let work = self.pool().run(move |connection| {
            let (statements, new) = (statements.clone(), new.clone());
            Box::pin(async move { statements.save(connection, &new, expect).await })
        });
        work.await
    }
}

impl Found {
    fn stored(&self) -> Option<Stored> {
        let record = SessionRecord::decode(&self.record).ok()?;
        Some(Stored { record, version: self.version })
    }
}

impl SessionStore for MysqlStore {
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
        let (statements, key, ttl) = (self.statements.clone(), *key, milliseconds(ttl));
        StoreFuture::boxed(async move {
            let work = self.pool().run(move |connection| {
                let statements = statements.clone();
                Box::pin(async move { statements.touch(connection, &key, ttl).await })
            });
            work.await
        })
    }

    fn remove<'a>(&'a self, key: &'a SessionKey) -> StoreFuture<'a, ()> {
        let (statements, key) = (self.statements.clone(), *key);
        StoreFuture::boxed(async move {
            let work = self.pool().run(move |connection| {
                let statements = statements.clone();
                Box::pin(async move { statements.remove(connection, &key).await })
            });
            work.await
        })
    }

    fn connection_epoch(&self) -> u64 {
        self.pool.lost()
    }
}

/// At most a hundred years, so that no sum overflows.
fn milliseconds(ttl: Duration) -> u64 {
    ttl.as_millis().clamp(1, 100 * 365 * 86_400_000) as u64
}

impl fmt::Debug for MysqlStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MysqlStore")
            .field("server", &self.pool.dialer().address())
            .field("table", &self.statements.table())
            .finish_non_exhaustive()
    }
}
