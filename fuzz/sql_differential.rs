//! Compares the read-only check with another SQL parser, in several dialects.
//!
//!     fuzz/differential [MUTATIONS]      so many mutations of each statement, 300 by default
//!
//! A statement that `sqlparser` parses in some dialect, but not as a query, must not count as
//! read-only. A statement that it cannot parse decides nothing. The statements
//! (`statements.sql.txt`, one per line) are those of BI tools and of Kylin's own page, and some
//! that write. A generator with a fixed seed mutates each of them.

use kylin_lb::fuzzing::is_read_only;
use sqlparser::ast::{Query, SetExpr, Statement};
use sqlparser::dialect::{
    AnsiDialect, BigQueryDialect, ClickHouseDialect, DatabricksDialect, Dialect, DuckDbDialect, GenericDialect, HiveDialect,
    MsSqlDialect, MySqlDialect, PostgreSqlDialect, RedshiftSqlDialect, SQLiteDialect, SnowflakeDialect,
};
use sqlparser::parser::Parser;

/// Words and symbols that mutations insert.
const PIECES: [&str; 40] = [
    "select", "insert into x", "delete from x", "update x set a = 1", "drop table x", "into", "for update", ";", "--", "-- ", "\n", "/*",
    "*/", "'", "\"", "`", "[", "]", "(", ")", "\\", "\\'", "''", "$$", "$a$", "#", "N'", "E'", "{", "}", "with x as (", "explain", "union", ",",
    "q'[", "/*!", "//", "merge into x", "create table x as", "returning",
];

fn main() {
    let mutations: u32 = std::env::args().nth(1).map_or(300, |count| count.parse().expect("a number"));
    let dialects: [&dyn Dialect; 13] = [
        &GenericDialect {},
        &AnsiDialect {},
        &HiveDialect {},
        &DatabricksDialect {},
        &PostgreSqlDialect {},
        &MySqlDialect {},
        &MsSqlDialect {},
        &SnowflakeDialect,
        &BigQueryDialect {},
        &SQLiteDialect {},
        &ClickHouseDialect {},
        &DuckDbDialect {},
        &RedshiftSqlDialect {},
    ];
    let text = include_str!("statements.sql.txt");
    let statements: Vec<String> = text.lines().map(|line| line.replace("\\n", "\n").replace("\\\\", "\\")).collect();
    let mut random = Random(0x5eed);
    let (mut tried, mut parsed, mut read_only, mut faults) = (0_u64, 0_u64, 0_u64, Vec::new());
    for statement in &statements {
        for number in 0..=mutations {
            let sql = if number == 0 { statement.clone() } else { mutate(statement, &statements, &mut random) };
            tried += 1;
            let ours = is_read_only(&sql);
            read_only += u64::from(ours);
            for dialect in dialects {
                let Ok(theirs) = Parser::parse_sql(dialect, &sql) else { continue };
                parsed += 1;
                if let Some(other) = theirs.iter().find(|statement| !is_query(statement)).filter(|_| ours) {
                    faults.push(format!("{dialect:?}: {sql:?}\n    is {other}"));
                }
            }
        }
    }
    println!("{} statements, {tried} tried, {read_only} read-only, parsed {parsed} times in {} dialects", statements.len(), dialects.len());
    faults.iter().take(30).for_each(|fault| println!("{fault}"));
    assert!(faults.is_empty(), "{} statements count as read-only and are not", faults.len());
}

fn is_query(statement: &Statement) -> bool {
    match statement {
        Statement::Query(query) => reads(query),
        Statement::Explain { statement, .. } => is_query(statement),
        _ => false,
    }
}

fn reads(query: &Query) -> bool {
    let parts_read = query.with.iter().flat_map(|with| &with.cte_tables).all(|part| reads(&part.query));
    parts_read && query.locks.is_empty() && set_reads(&query.body)
}

fn set_reads(set: &SetExpr) -> bool {
    match set {
        SetExpr::Select(select) => select.into.is_none(),
        SetExpr::Query(query) => reads(query),
        SetExpr::SetOperation { left, right, .. } => set_reads(left) && set_reads(right),
        SetExpr::Values(_) | SetExpr::Table(_) => true,
        _ => false,
    }
}

/// Removes, repeats, inserts or exchanges parts of a statement, up to four times.
fn mutate(statement: &str, others: &[String], random: &mut Random) -> String {
    let mut chars: Vec<char> = statement.chars().collect();
    for _ in 0..=random.below(4) {
        let at = random.below(chars.len() + 1);
        let end = (at + random.below(12)).min(chars.len());
        match random.below(6) {
            0 => drop(chars.drain(at..end)),
            1 => {
                let part: Vec<char> = chars[at..end].to_vec();
                chars.splice(at..at, part);
            }
            2 | 3 => drop(chars.splice(at..at, format!(" {} ", PIECES[random.below(PIECES.len())]).chars().collect::<Vec<_>>())),
            4 => drop(chars.splice(at..at, PIECES[random.below(PIECES.len())].chars().collect::<Vec<_>>())),
            _ => {
                let other: Vec<char> = others[random.below(others.len())].chars().collect();
                let from = random.below(other.len());
                chars.truncate(at);
                chars.extend(&other[from..]);
            }
        }
    }
    chars.into_iter().collect()
}

/// The generator splitmix64, so that a run can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % limit.max(1) as u64) as usize
    }
}
