//! The SQL statements. Values are always passed as parameters. The name of the table is part of the
//! statements; the builder has validated it.

use crate::session::SessionRecord;

/// Milliseconds since 1970 by the clock of the server, independent of its time zone.
const NOW: &str = "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(3)) DIV 1000";

/// The number of rows that one statement of a sweep removes. It is small, so that the statement
/// holds its locks only briefly.
pub(super) const SWEEP_ROWS: u64 = 500;

/// The statements for one table.
pub(super) struct Statements {
    pub(super) table: String,
    pub(super) load: String,
    pub(super) add: String,
    pub(super) replace: String,
    pub(super) replace_damaged: String,
    pub(super) touch: String,
    pub(super) remove: String,
    pub(super) sweep: String,
}

impl Statements {
    /// Makes the statements for a table, whose name is 1 to 64 ASCII letters, digits and
    /// underscores.
    pub(super) fn new(table: String) -> Self {
        // A value that is one byte longer than the longest record shows that it is too long.
        let max = SessionRecord::MAX_LEN + 1;
        Statements {
            load: format!("SELECT version, LEFT(record, {max}) FROM `{table}` WHERE id = ? AND expires > {NOW}"),
            // The server assigns in this order. `expires` is last, because the conditions read it.
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
}
