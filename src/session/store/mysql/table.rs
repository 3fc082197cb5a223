//! The table: created if it is missing, checked if it exists.

use std::collections::BTreeMap;

use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Row};

use super::failure::{SYSTEM, failure};
use crate::session::SessionRecord;
use crate::session::store::remote::Failure;

/// A column as `information_schema` describes it.
#[derive(Debug, Default)]
struct Column {
    kind: String,
    key: String,
    length: u64,
}

/// Ensures that the table exists and can hold records.
///
/// # Errors
/// [`Failure`] with the column that is missing or wrong.
pub(super) async fn check_or_create(connection: &mut Conn, table: &str) -> Result<(), Failure> {
    let mut columns = columns(connection, table).await?;
    if columns.is_empty() {
        create(connection, table).await?;
        columns = self::columns(connection, table).await?;
    }
    check(&columns).map_err(|wrong| Failure::refused(SYSTEM, format!("table {table}: {wrong}")))
}

async fn columns(connection: &mut Conn, table: &str) -> Result<BTreeMap<String, Column>, Failure> {
    let query = "SELECT LOWER(COLUMN_NAME), LOWER(COLUMN_TYPE), COLUMN_KEY, COALESCE(CHARACTER_OCTET_LENGTH, 0) \
                 FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = ?";
    let rows: Vec<Row> = connection.exec(query, (table,)).await.map_err(|error| failure(&error))?;
    let text = |row: &mut Row, at| row.take_opt::<String, _>(at).and_then(Result::ok).unwrap_or_default();
    let columns = rows.into_iter().map(|mut row| {
        let length = row.take_opt::<u64, _>(3).and_then(Result::ok).unwrap_or_default();
        (text(&mut row, 0), Column { kind: text(&mut row, 1), key: text(&mut row, 2), length })
    });
    Ok(columns.collect())
}

async fn create(connection: &mut Conn, table: &str) -> Result<(), Failure> {
    // Another front end may create the table first.
    let statement = format!(
        "CREATE TABLE IF NOT EXISTS `{table}` (\
         id BINARY(16) NOT NULL PRIMARY KEY, \
         version BIGINT UNSIGNED NOT NULL, \
         record VARBINARY({}) NOT NULL, \
         expires BIGINT NOT NULL, \
         KEY expires (expires))",
        SessionRecord::MAX_LEN
    );
    connection.query_drop(statement).await.map_err(|error| failure(&error))
}

/// Checks the columns. The error says which one is wrong and what was expected.
fn check(columns: &BTreeMap<String, Column>) -> Result<(), String> {
    let column = |name: &str, expected: &str, is_valid: fn(&Column) -> bool| match columns.get(name) {
        None => Err(format!("column {name} is missing, expected {expected}")),
        Some(column) if !is_valid(column) => Err(format!("column {name} has another type or key, expected {expected}")),
        Some(_) => Ok(()),
    };
    let keys = columns.values().filter(|column| column.key == "PRI").count();
    column("id", "BINARY(16) as the primary key", |id| id.kind == "binary(16)" && id.key == "PRI")?;
    if keys != 1 {
        return Err("the primary key has further columns, expected id alone".to_owned());
    }
    column("version", "BIGINT UNSIGNED", |version| {
        version.kind.starts_with("bigint") && version.kind.ends_with("unsigned")
    })?;
    column("record", "VARBINARY(16384) or a BLOB", |record| {
        (record.kind.starts_with("varbinary") || record.kind.ends_with("blob"))
            && record.length >= SessionRecord::MAX_LEN as u64
    })?;
    column("expires", "BIGINT", |expires| expires.kind.starts_with("bigint") && !expires.kind.ends_with("unsigned"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn valid() -> BTreeMap<String, Column> {
        let column = |name: &str, kind: &str, key: &str, length| {
            (name.to_owned(), Column { kind: kind.to_owned(), key: key.to_owned(), length })
        };
        BTreeMap::from([
            column("id", "binary(16)", "PRI", 16),
            column("version", "bigint(20) unsigned", "", 0),
            column("record", "varbinary(16384)", "", 16384),
            column("expires", "bigint", "MUL", 0),
        ])
    }

    #[test]
    fn a_valid_table_passes_and_an_error_names_the_wrong_column() {
        assert_eq!(check(&valid()), Ok(()));
        for name in ["id", "version", "record", "expires"] {
            let mut columns = valid();
            columns.remove(name);
            assert!(check(&columns).unwrap_err().starts_with(&format!("column {name} is missing, expected ")));
            let mut columns = valid();
            columns.get_mut(name).unwrap().kind = "varchar(99)".to_owned();
            assert!(check(&columns).unwrap_err().starts_with(&format!("column {name} has another type")));
        }
        let mut columns = valid();
        columns.get_mut("record").unwrap().length = 255;
        assert!(check(&columns).unwrap_err().contains("expected VARBINARY(16384) or a BLOB"));
        let mut columns = valid();
        columns.insert("tenant".to_owned(), Column { key: "PRI".to_owned(), ..Column::default() });
        assert!(check(&columns).unwrap_err().contains("primary key"));
    }
}
