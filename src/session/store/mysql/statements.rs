//! The SQL statements. Values go into placeholders only. The name of the table is part of the
//! statements; the builder has checked it.

use bytes::Bytes;
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Params, Row, Value};

use super::failure::{SYSTEM, request_error, was_rolled_back};
use crate::session::store::remote::{Failure, RequestError};
use crate::session::{Precondition, SaveOutcome, SessionKey, SessionRecord, Stored};

/// Milliseconds since 1970 by the clock of the server, independent of its time zone.
const NOW: &str = "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(3)) DIV 1000";

/// How often a save compares again after another writer was faster.
const MAX_SAVE_ROUNDS: usize = 4;

/// How often a statement is executed that the server rolls back because of another transaction.
const MAX_ATTEMPTS: u32 = 5;

/// How many rows one statement of a sweep removes: few, so that it holds its locks briefly.
const SWEEP_ROWS: u64 = 500;

/// The statements for one table.
pub(super) struct Statements {
    table: String,
    load: String,
    add: String,
    replace: String,
    replace_damaged: String,
    touch: String,
    remove: String,
    sweep: String,
}

/// A row to be written.
pub(super) struct NewRow {
    pub(super) key: SessionKey,
    pub(super) version: u64,
    pub(super) record: Bytes,
    pub(super) ttl: u64,
}

/// A row that was read. The record may be damaged.
pub(super) struct StoredRow {
    version: u64,
    record: Vec<u8>,
}

impl Statements {
    /// Makes the statements for a table, whose name is 1 to 64 ASCII letters, digits and underscores.
    pub(super) fn new(table: String) -> Self {
        // One byte more than the longest record shows that a value is too long.
        let max = SessionRecord::MAX_LEN + 1;
        Statements {
            load: format!("SELECT version, LEFT(record, {max}) FROM `{table}` WHERE id = ? AND expires > {NOW}"),
            // The server assigns in this order: `expires` is last, because the conditions read it.
            add: format!(
                "INSERT INTO `{table}` (id, version, record, expires) VALUES (?, ?, ?, {NOW} + ?) ON DUPLICATE KEY UPDATE \
                 version = IF(expires <= {NOW}, VALUES(version), version), \
                 record = IF(expires <= {NOW}, VALUES(record), record), \
                 expires = IF(expires <= {NOW}, VALUES(expires), expires)"
            ),
            replace: format!(
                "UPDATE `{table}` SET version = ?, record = ?, expires = {NOW} + ? \
                 WHERE id = ? AND version = ? AND expires > {NOW}"
            ),
            replace_damaged: format!(
                "UPDATE `{table}` SET version = ?, record = ?, expires = {NOW} + ? \
                 WHERE id = ? AND version = ? AND LEFT(record, {max}) = ?"
            ),
            touch: format!("UPDATE `{table}` SET expires = {NOW} + ? WHERE id = ? AND expires > {NOW}"),
            remove: format!("DELETE FROM `{table}` WHERE id = ?"),
            sweep: format!("DELETE FROM `{table}` WHERE expires <= {NOW} ORDER BY expires LIMIT {SWEEP_ROWS}"),
            table,
        }
    }

    pub(super) fn table(&self) -> &str {
        &self.table
    }

    pub(super) async fn load(
        &self,
        connection: &mut Conn,
        key: &SessionKey,
    ) -> Result<Option<StoredRow>, RequestError> {
        let row: Option<Row> = connection.exec_first(&*self.load, (id(key),)).await.map_err(request_error)?;
        let Some(mut row) = row else { return Ok(None) };
        let version = row.take_opt::<u64, _>(0);
        let record = row.take_opt::<Vec<u8>, _>(1);
        match (version, record) {
            (Some(Ok(version)), Some(Ok(record))) => Ok(Some(StoredRow { version, record })),
            _ => Err(Failure::refused(SYSTEM, "a row has other types than the table").into()),
        }
    }

    pub(super) async fn save(
        &self,
        connection: &mut Conn,
        row: &NewRow,
        precondition: Precondition,
    ) -> Result<SaveOutcome, RequestError> {
        for _ in 0..MAX_SAVE_ROUNDS {
            let changed = match precondition {
                Precondition::Absent => self.execute(connection, &self.add, row.insert_values()).await?,
                Precondition::Version(version) => {
                    let condition = [Value::UInt(row.ttl), id(&row.key), Value::UInt(version)];
                    self.execute(connection, &self.replace, row.update_values(condition)).await?
                }
            };
            if changed > 0 {
                return Ok(SaveOutcome::Stored(row.version));
            }
            let Some(found) = self.load(connection, &row.key).await? else {
                match precondition {
                    // The record has expired or was removed since.
                    Precondition::Absent => continue,
                    Precondition::Version(_) => return Ok(SaveOutcome::Conflict(None)),
                }
            };
            if found.version == row.version {
                // An earlier attempt, whose response was lost, has written this row.
                return Ok(SaveOutcome::Stored(row.version));
            }
            let stored = found.stored();
            if stored.is_some() || matches!(precondition, Precondition::Version(_)) {
                return Ok(SaveOutcome::Conflict(stored));
            }
            // A damaged record counts as absent. It is replaced unless it has changed since.
            let condition =
                [Value::UInt(row.ttl), id(&row.key), Value::UInt(found.version), Value::Bytes(found.record)];
            if self.execute(connection, &self.replace_damaged, row.update_values(condition)).await? > 0 {
                return Ok(SaveOutcome::Stored(row.version));
            }
        }
        Err(Failure::unavailable(SYSTEM, "the record keeps changing").into())
    }

    pub(super) async fn touch(&self, connection: &mut Conn, key: &SessionKey, ttl: u64) -> Result<(), RequestError> {
        self.execute(connection, &self.touch, vec![Value::UInt(ttl), id(key)]).await.map(drop)
    }

    pub(super) async fn remove(&self, connection: &mut Conn, key: &SessionKey) -> Result<(), RequestError> {
        self.execute(connection, &self.remove, vec![id(key)]).await.map(drop)
    }

    /// Removes some expired rows. Returns their number, and whether there may be more.
    pub(super) async fn sweep(&self, connection: &mut Conn) -> Result<(u64, bool), RequestError> {
        let removed = self.execute(connection, &self.sweep, Vec::new()).await?;
        Ok((removed, removed >= SWEEP_ROWS))
    }

    /// Executes a statement. Returns the number of rows that it changed.
    async fn execute(&self, connection: &mut Conn, statement: &str, values: Vec<Value>) -> Result<u64, RequestError> {
        let values = if values.is_empty() { Params::Empty } else { Params::Positional(values) };
        let mut attempts = 1;
        while let Err(error) = connection.exec_drop(statement, values.clone()).await {
            if attempts == MAX_ATTEMPTS || !was_rolled_back(&error) {
                return Err(request_error(error));
            }
            attempts += 1;
        }
        Ok(connection.affected_rows())
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
    pub(super) fn stored(&self) -> Option<Stored> {
        let record = SessionRecord::decode(&self.record).ok()?;
        Some(Stored { record, version: self.version })
    }
}

fn id(key: &SessionKey) -> Value {
    Value::Bytes(key.as_bytes().to_vec())
}
