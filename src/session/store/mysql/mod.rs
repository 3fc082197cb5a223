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
use self::connection::Server;
use self::statements::{NewRow, Statements};
use super::remote::{self, Pool, RemoteStore};
use super::{InvalidStore, Precondition, SaveOutcome, SessionKey, SessionRecord, StoreError, Stored};
use crate::background::{self, BackgroundTask};

/// The maximum number of statements of one sweep. The next sweep removes the rest.
const MAX_SWEEP_STATEMENTS: usize = 200;

/// The longest time to live, in milliseconds: a hundred years, so that no sum overflows.
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
/// The user needs `SELECT, INSERT, UPDATE, DELETE` on it, and `CREATE` if it is missing. A load, and
/// a save without a conflict, is one round trip; a save with a conflict is two.
///
/// Expired records count as absent at once. A background task of each front end removes them, every
/// minute or so and a bounded number at a time. The task ends with the store.
pub struct MysqlStore {
    shared: Arc<Shared>,
}

struct Shared {
    pool: Pool<Server>,
    statements: Arc<Statements>,
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
    /// let store = MysqlStore::builder("mysql://kylin:s3cret@10.0.0.9/kylin")?.table("sessions")?.build()?;
    /// assert!(!format!("{store:?}").contains("s3cret"));
    /// # Ok::<(), kylin_lb::session::InvalidStore>(())
    /// ```
    ///
    /// # Errors
    /// [`InvalidStore`] when the address is invalid.
    pub fn builder(address: &str) -> Result<MysqlBuilder, InvalidStore> {
        MysqlBuilder::from_address(address)
    }

    fn new(pool: Pool<Server>, statements: Arc<Statements>, sweep_interval: Duration) -> Self {
        let sweeper = BackgroundTask::default();
        MysqlStore { shared: Arc::new(Shared { pool, statements, sweeper, sweep_interval }) }
    }

    /// Removes expired records now, without waiting for the background task. Returns their number.
    ///
    /// # Errors
    /// [`StoreError`] when the store fails.
    pub async fn sweep(&self) -> Result<u64, StoreError> {
        self.shared.sweep().await
    }

    /// Returns the pool and the statements. Starts the sweeper unless it runs.
    fn table(&self) -> (&Pool<Server>, Arc<Statements>) {
        background::ensure_running(
            &self.shared,
            |shared| &shared.sweeper,
            // The jitter keeps the sweeps of several front ends apart.
            |shared| shared.sweep_interval.mul_f64(0.5 + fastrand::f64()),
            // The next sweep makes up for one that failed.
            |shared: Arc<Shared>| async move { _ = shared.sweep().await },
            |_| true,
        );
        (&self.shared.pool, self.shared.statements.clone())
    }
}

impl Shared {
    async fn sweep(&self) -> Result<u64, StoreError> {
        let mut total = 0;
        for _ in 0..MAX_SWEEP_STATEMENTS {
            let sweep =
                self.pool.run(self.statements.clone(), |connection, statements| Box::pin(statements.sweep(connection)));
            let (removed, has_more) = sweep.await?;
            total += removed;
            if !has_more {
                break;
            }
        }
        Ok(total)
    }
}

impl RemoteStore for MysqlStore {
    async fn load(&self, key: &SessionKey) -> Result<Option<Stored>, StoreError> {
        let (pool, statements) = self.table();
        let load =
            pool.run((statements, *key), |connection, (statements, key)| Box::pin(statements.load(connection, key)));
        Ok(load.await?.and_then(|row| row.stored()))
    }

    async fn save(
        &self,
        key: &SessionKey,
        record: &SessionRecord,
        precondition: Precondition,
        ttl: Duration,
    ) -> Result<SaveOutcome, StoreError> {
        let record = remote::encode_record(record)?;
        let row = NewRow { key: *key, version: remote::new_version(), record, ttl: milliseconds(ttl) };
        let (pool, statements) = self.table();
        let save = pool.run((statements, row, precondition), |connection, (statements, row, precondition)| {
            Box::pin(statements.save(connection, row, *precondition))
        });
        save.await
    }

    async fn touch(&self, key: &SessionKey, ttl: Duration) -> Result<(), StoreError> {
        let (pool, statements) = self.table();
        let touch = pool.run((statements, *key, milliseconds(ttl)), |connection, (statements, key, ttl)| {
            Box::pin(statements.touch(connection, key, *ttl))
        });
        touch.await
    }

    async fn remove(&self, key: &SessionKey) -> Result<(), StoreError> {
        let (pool, statements) = self.table();
        let remove =
            pool.run((statements, *key), |connection, (statements, key)| Box::pin(statements.remove(connection, key)));
        remove.await
    }

    fn connection_epoch(&self) -> u64 {
        self.shared.pool.lost_connections()
    }
}

fn milliseconds(ttl: Duration) -> u64 {
    ttl.as_millis().clamp(1, MAX_TTL) as u64
}

impl fmt::Debug for MysqlStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MysqlStore")
            .field("server", &self.shared.pool.connector().address())
            .field("table", &self.shared.statements.table())
            .finish_non_exhaustive()
    }
}
