use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Opts, Params, Row, Value};

use super::failure::{SYSTEM, failure, request_error, was_rolled_back};
use super::statements::{SWEEP_ROWS, Statements};
use super::table;
use crate::session::store::remote::{Connect, Failure, RequestError};
use crate::session::{Precondition, SaveOutcome, SessionKey, SessionRecord, Stored};

/// How often a save compares again after another writer was faster.
const MAX_SAVE_ROUNDS: usize = 4;

/// How often a statement is executed if the server rolls it back because of another transaction.
const MAX_ATTEMPTS: u32 = 5;

/// Connects to the server, and checks its table.
pub(super) struct Connector {
    options: Opts,
    statements: Arc<Statements>,
    is_table_checked: AtomicBool,
}

impl Connector {
    pub(super) fn new(options: Opts, statements: Statements) -> Self {
        Connector { options, statements: Arc::new(statements), is_table_checked: AtomicBool::new(false) }
    }

    pub(super) fn address(&self) -> (&str, u16) {
        (self.options.ip_or_hostname(), self.options.tcp_port())
    }

    pub(super) fn table(&self) -> &str {
        &self.statements.table
    }
}

impl Connect for Connector {
    type Connection = Connection;
    const SYSTEM: &'static str = SYSTEM;

    /// Checks the table with the first connection, and again after an error such as a dropped
    /// table.
    async fn connect(&self) -> Result<Connection, Failure> {
        let mut driver = Conn::new(self.options.clone()).await.map_err(|error| failure(&error))?;
        if !self.is_table_checked.load(Ordering::Relaxed) {
            table::check_or_create(&mut driver, self.table()).await?;
            self.is_table_checked.store(true, Ordering::Relaxed);
        }
        Ok(Connection { driver, statements: self.statements.clone() })
    }

    fn on_connection_lost(&self, failure: &Failure) {
        if failure.is_permanent() {
            self.is_table_checked.store(false, Ordering::Relaxed);
        }
    }
}

/// A connection, for one request at a time.
pub(super) struct Connection {
    driver: Conn,
    statements: Arc<Statements>,
}

/// A row to be written.
pub(super) struct NewRow {
    pub(super) key: SessionKey,
    pub(super) version: u64,
    pub(super) record: Bytes,
    pub(super) ttl: u64,
}

/// A row that was read. The record may be damaged.
struct StoredRow {
    version: u64,
    record: Vec<u8>,
}

impl Connection {
    pub(super) async fn load(&mut self, key: &SessionKey) -> Result<Option<Stored>, RequestError> {
        Ok(self.load_row(key).await?.and_then(|row| row.stored()))
    }

    pub(super) async fn save(&mut self, row: &NewRow, precondition: Precondition) -> Result<SaveOutcome, RequestError> {
        for _ in 0..MAX_SAVE_ROUNDS {
            let changed = match precondition {
                Precondition::Absent => self.execute(|statements| &statements.add, row.insert_values()).await?,
                Precondition::Version(version) => {
                    let condition = [Value::UInt(row.ttl), id(&row.key), Value::UInt(version)];
                    self.execute(|statements| &statements.replace, row.update_values(condition)).await?
                }
            };
            if changed > 0 {
                return Ok(SaveOutcome::Stored(row.version));
            }
            let Some(found) = self.load_row(&row.key).await? else {
                match precondition {
                    // The record has expired or was removed since.
                    Precondition::Absent => continue,
                    Precondition::Version(_) => return Ok(SaveOutcome::Conflict(None)),
                }
            };
            if found.version == row.version {
                // An earlier attempt whose response was lost has written this row.
                return Ok(SaveOutcome::Stored(row.version));
            }
            let stored = found.stored();
            if stored.is_some() || matches!(precondition, Precondition::Version(_)) {
                return Ok(SaveOutcome::Conflict(stored));
            }
            // A damaged record counts as absent. It is replaced unless it has changed since.
            let condition =
                [Value::UInt(row.ttl), id(&row.key), Value::UInt(found.version), Value::Bytes(found.record)];
            if self.execute(|statements| &statements.replace_damaged, row.update_values(condition)).await? > 0 {
                return Ok(SaveOutcome::Stored(row.version));
            }
        }
        Err(RequestError::Refused(Failure::unavailable(SYSTEM, "the record keeps changing")))
    }

    pub(super) async fn touch(&mut self, key: &SessionKey, ttl: u64) -> Result<(), RequestError> {
        self.execute(|statements| &statements.touch, vec![Value::UInt(ttl), id(key)]).await.map(drop)
    }

    pub(super) async fn remove(&mut self, key: &SessionKey) -> Result<(), RequestError> {
        self.execute(|statements| &statements.remove, vec![id(key)]).await.map(drop)
    }

    /// Removes some expired rows. Returns their number, and whether there may be more.
    pub(super) async fn sweep(&mut self) -> Result<(u64, bool), RequestError> {
        let removed = self.execute(|statements| &statements.sweep, Vec::new()).await?;
        Ok((removed, removed >= SWEEP_ROWS))
    }

    async fn load_row(&mut self, key: &SessionKey) -> Result<Option<StoredRow>, RequestError> {
        let row = self.driver.exec_first(&*self.statements.load, (id(key),)).await;
        let Some(mut row): Option<Row> = row.map_err(request_error)? else { return Ok(None) };
        match (row.take_opt(0), row.take_opt(1)) {
            (Some(Ok(version)), Some(Ok(record))) => Ok(Some(StoredRow { version, record })),
            _ => Err(RequestError::Refused(Failure::refused(SYSTEM, "a row has other types than the table"))),
        }
    }

    /// Executes a statement. Returns the number of rows that it changed.
    async fn execute(&mut self, statement: fn(&Statements) -> &str, values: Vec<Value>) -> Result<u64, RequestError> {
        let values = if values.is_empty() { Params::Empty } else { Params::Positional(values) };
        let mut attempts = 1;
        while let Err(error) = self.driver.exec_drop(statement(&self.statements), values.clone()).await {
            if attempts == MAX_ATTEMPTS || !was_rolled_back(&error) {
                return Err(request_error(error));
            }
            attempts += 1;
        }
        Ok(self.driver.affected_rows())
    }
}

impl NewRow {
    fn insert_values(&self) -> Vec<Value> {
        vec![id(&self.key), Value::UInt(self.version), Value::Bytes(self.record.to_vec()), Value::UInt(self.ttl)]
    }

    fn update_values<const N: usize>(&self, condition: [Value; N]) -> Vec<Value> {
        [Value::UInt(self.version), Value::Bytes(self.record.to_vec())].into_iter().chain(condition).collect()
    }
}

impl StoredRow {
    /// Returns the record, unless it is damaged.
    fn stored(&self) -> Option<Stored> {
        let record = SessionRecord::decode(&self.record).ok()?;
        Some(Stored { record, version: self.version })
    }
}

fn id(key: &SessionKey) -> Value {
    Value::Bytes(key.as_bytes().to_vec())
}
