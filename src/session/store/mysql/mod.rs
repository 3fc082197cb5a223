//! Sessions in a table of MariaDB or MySQL.

mod builder;
mod connection;
mod failure;
mod statements;
mod table;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use self::builder::MysqlBuilder;
use self::connection::{Connector, NewRow};
use super::remote::{self, Pool};
use super::{
    InvalidStore, Precondition, SaveOutcome, SessionKey, SessionRecord, SessionStore, StoreError, StoreFuture, Stored,
};
use crate::background::{self, BackgroundTask};
use crate::clock::scaled;

/// The maximum number of statements of one sweep. The next sweep removes the rest.
const MAX_SWEEP_STATEMENTS: usize = 200;

/// The maximum time to live, in milliseconds: a hundred years, so that no sum overflows.
const MAX_TTL: u128 = 100 * 365 * 86_400_000;

/// Sessions in MariaDB 10.5 or later, or MySQL 8.
///
/// The store creates the table on first use if it is missing, and checks it if it exists:
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
/// The user needs `SELECT, INSERT, UPDATE, DELETE` on the table, and `CREATE` if the table is
/// missing. A load takes one round trip, and so does a save without a conflict; a save with a
/// conflict takes two.
///
/// Expired records count as absent at once. A background task of each front end removes them, about
/// every minute and a bounded number at a time. The task ends with the store.
pub struct MysqlStore {
    shared: Arc<Shared>,
}

struct Shared {
    pool: Pool<Connector>,
    sweeper: BackgroundTask,
    sweep_interval: Duration,
}

impl MysqlStore {
    /// Parses the settings of a store at `mysql://[user[:password]@]host[:3306]/database`, or
    /// `mysqls` for a connection over TLS.
    ///
    /// Options: `table`, `connections`, and `ca` for a file of PEM certificates that replaces
    /// Mozilla's list of roots.
    ///
    /// ```
    /// use kylin_lb::session::MysqlStore;
    ///
    /// let store = MysqlStore::builder("mysql://kylin:s3cret@10.0.0.9/kylin")?.table("sessions").build()?;
    /// assert!(!format!("{store:?}").contains("s3cret"));
    /// # Ok::<(), kylin_lb::session::InvalidStore>(())
    /// ```
    ///
    /// # Errors
    /// [`InvalidStore`] if the address is invalid.
    pub fn builder(address: &str) -> Result<MysqlBuilder, InvalidStore> {
        MysqlBuilder::from_address(address)
    }

    fn new(pool: Pool<Connector>, sweep_interval: Duration) -> Self {
        MysqlStore { shared: Arc::new(Shared { pool, sweeper: BackgroundTask::default(), sweep_interval }) }
    }

    /// Removes expired records now, without waiting for the background task. Returns how many were
    /// removed.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub async fn sweep(&self) -> Result<u64, StoreError> {
        self.shared.sweep().await
    }

    /// Returns the pool. Starts the sweeper if it is not running.
    fn pool(&self) -> &Pool<Connector> {
        background::ensure_running(
            &self.shared,
            |shared| &shared.sweeper,
            // The jitter keeps the sweeps of several front ends apart.
            |shared| scaled(shared.sweep_interval, 0.5 + fastrand::f64()),
            // The next sweep makes up for one that failed.
            |shared: Arc<Shared>| async move { _ = shared.sweep().await },
            |_| true,
        );
        &self.shared.pool
    }
}

impl Shared {
    async fn sweep(&self) -> Result<u64, StoreError> {
        let mut total = 0;
        for _ in 0..MAX_SWEEP_STATEMENTS {
            let (removed, has_more) = self.pool.run((), |connection, ()| Box::pin(connection.sweep())).await?;
            total += removed;
            if !has_more {
                break;
            }
        }
        Ok(total)
    }
}

impl SessionStore for MysqlStore {
    fn load<'a>(&'a self, key: &'a SessionKey) -> StoreFuture<'a, Option<Stored>> {
        StoreFuture::boxed(self.pool().run(*key, |connection, key| Box::pin(connection.load(key))))
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
            let row = NewRow { key: *key, version: remote::new_version(), record, ttl: milliseconds(ttl) };
            let save = self.pool().run((row, precondition), |connection, (row, precondition)| {
                Box::pin(connection.save(row, *precondition))
            });
            save.await
        })
    }

    fn touch<'a>(&'a self, key: &'a SessionKey, ttl: Duration) -> StoreFuture<'a, ()> {
        let request = (*key, milliseconds(ttl));
        StoreFuture::boxed(self.pool().run(request, |connection, (key, ttl)| Box::pin(connection.touch(key, *ttl))))
    }

    fn remove<'a>(&'a self, key: &'a SessionKey) -> StoreFuture<'a, ()> {
        StoreFuture::boxed(self.pool().run(*key, |connection, key| Box::pin(connection.remove(key))))
    }

    fn connection_epoch(&self) -> u64 {
        self.shared.pool.lost_connections()
    }

    fn address(&self) -> Option<String> {
        let (host, port) = self.shared.pool.connector().address();
        Some(format!("mysql://{}", remote::hosts([&(host.to_owned(), port)])))
    }
}

fn milliseconds(ttl: Duration) -> u64 {
    ttl.as_millis().clamp(1, MAX_TTL) as u64
}

impl fmt::Debug for MysqlStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MysqlStore")
            .field("server", &self.shared.pool.connector().address())
            .field("table", &self.shared.pool.connector().table())
            .finish_non_exhaustive()
    }
}
