//! What is said to the server. Values go in placeholders only; the one thing that is written into a statement is the
//! table's name, which was checked when the store was made.

use bytes::Bytes;
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Params, Row, Value};

use super::connection::{SYSTEM, failed, in_the_way};
use crate::session::store::remote::{Failed, Fault};
use crate::session::{Precondition, SaveOutcome, SessionKey, SessionRecord};

/// Milliseconds since 1970 by the server's clock, whatever its time zone does.
const NOW: &str = "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(3)) DIV 1000";

/// How often a save that others overtake compares again, before it gives up.
const ROUNDS: usize = 4;

/// How often a statement that the server undoes for another's sake is given, the first time included.
const UNDONE: u32 = 5;

/// How many rows one statement of the sweep removes: short enough to hold up nobody.
const SWEPT: u64 = 500;

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

/// A record on its way into the table.
pub(super) struct New {
    pub(super) key: SessionKey,
    pub(super) version: u64,
    pub(super) record: Bytes,
    pub(super) ttl: u64,
}

/// What a row holds.
pub(super) struct Found {
    pub(super) version: u64,
    pub(super) record: Vec<u8>,
}

impl Statements {
    /// For the table of this name: 1 to 64 ASCII letters, digits and underscores.
    pub(super) fn new(table: String) -> Self {
        // One byte more than a record has shows that a value is none.
        let most = SessionRecord::MAX_LEN + 1;
        Statements {
            load: format!("SELECT version, LEFT(record, {most}) FROM `{table}` WHERE id = ? AND expires > {NOW}"),
            // Assignments are made in order: `expires` last, because the conditions read it.
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
                 WHERE id = ? AND version = ? AND LEFT(record, {most}) = ?"
            ),
            touch: format!("UPDATE `{table}` SET expires = {NOW} + ? WHERE id = ? AND expires > {NOW}"),
            remove: format!("DELETE FROM `{table}` WHERE id = ?"),
            sweep: format!("DELETE FROM `{table}` WHERE expires <= {NOW} ORDER BY expires LIMIT {SWEPT}"),
            table,
        }
    }

    pub(super) fn table(&self) -> &str {
        &self.table
    }

    pub(super) async fn load(&self, connection: &mut Conn, key: &SessionKey) -> Result<Option<Found>, Failed> {
        let row: Option<Row> = connection.exec_first(&*self.load, (id(key),)).await.map_err(failed)?;
        let Some(mut row) = row else { return Ok(None) };
        let version = row.take_opt::<u64, _>(0);
        let record = row.take_opt::<Vec<u8>, _>(1);
        match (version, record) {
            (Some(Ok(version)), Some(Ok(record))) => Ok(Some(Found { version, record })),
            _ => Err(Fault::refused(SYSTEM, "a row has other types than the table").into()),
        }
    }

    pub(super) async fn save(
        &self,
        connection: &mut Conn,
        new: &New,
        expect: Precondition,
    ) -> Result<SaveOutcome, Failed> {
        for _ in 0..ROUNDS {
            let done = match expect {
                Precondition::Absent => self.change(connection, &self.add, new.inserted()).await?,
                Precondition::Version(version) => {
                    let values = [Value::UInt(new.ttl), id(&new.key), Value::UInt(version)];
                    self.change(connection, &self.replace, new.changed(values)).await?
                }
            };
            if done > 0 {
                return Ok(SaveOutcome::Stored(new.version));
            }
            let Some(found) = self.load(connection, &new.key).await? else {
                match expect {
                    // It expired or was removed since.
                    Precondition::Absent => continue,
                    Precondition::Version(_) => return Ok(SaveOutcome::Conflict(None)),
                }
            };
            if found.version == new.version {
                // This very record, from an attempt whose answer was lost.
                return Ok(SaveOutcome::Stored(new.version));
            }
            let stored = found.stored();
            if stored.is_some() || matches!(expect, Precondition::Version(_)) {
                return Ok(SaveOutcome::Conflict(stored));
            }
            // What is there is no record and counts as absent: it is replaced, if it is still the same.
            let there = [Value::UInt(new.ttl), id(&new.key), Value::UInt(found.version), Value::Bytes(found.record)];
            if self.change(connection, &self.replace_damaged, new.changed(there)).await? > 0 {
                return Ok(SaveOutcome::Stored(new.version));
            }
        }
        Err(Fault::unavailable(SYSTEM, "the record keeps changing").into())
    }

    pub(super) async fn touch(&self, connection: &mut Conn, key: &SessionKey, ttl: u64) -> Result<(), Failed> {
        self.change(connection, &self.touch, vec![Value::UInt(ttl), id(key)]).await.map(drop)
    }

    pub(super) async fn remove(&self, connection: &mut Conn, key: &SessionKey) -> Result<(), Failed> {
        self.change(connection, &self.remove, vec![id(key)]).await.map(drop)
    }

    /// Removes some of what has expired: how many, and whether there may be more.
    pub(super) async fn sweep(&self, connection: &mut Conn) -> Result<(u64, bool), Failed> {
        let swept = self.change(connection, &self.sweep, Vec::new()).await?;
        Ok((swept, swept >= SWEPT))
    }

    /// How many rows a statement changed.
    async fn change(&self, connection: &mut Conn, statement: &str, values: Vec<Value>) -> Result<u64, Failed> {
        let values = if values.is_empty() { Params::Empty } else { Params::Positional(values) };
        let mut undone = 0;
        while let Err(error) = connection.exec_drop(statement, values.clone()).await {
            undone += 1;
            if undone == UNDONE || !in_the_way(&error) {
                return Err(failed(error));
            }
        }
        Ok(connection.affected_rows())
    }
}

impl New {
    /// Values for a new row.
    fn inserted(&self) -> Vec<Value> {
        vec![id(&self.key), Value::UInt(self.version), Value::Bytes(self.record.to_vec()), Value::UInt(self.ttl)]
    }

    /// Values for a changed row, and which row.
    fn changed<const N: usize>(&self, which: [Value; N]) -> Vec<Value> {
        [Value::UInt(self.version), Value::Bytes(self.record.to_vec())].into_iter().chain(which).collect()
    }
}

fn id(key: &SessionKey) -> Value {
    Value::Bytes(key.as_bytes().to_vec())
}
