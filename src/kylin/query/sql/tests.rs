use proptest::prelude::*;

use super::*;

#[test]
fn queries_only_read() {
    for sql in [
        "select 1",
        "SELECT * FROM t;",
        "  \u{a0}\n\tselect 1",
        "-- c\n/* c */ select 1 -- c",
        "/*+ hint */ select /*+ MODEL_PRIORITY({m}) */ 1",
        "((select 1) union all (select 2)) order by 1",
        "with t as (select 1), \"u\" as (select 2) select * from t",
        "explain plan for select 1",
        "EXPLAIN PLAN WITH IMPLEMENTATION FOR SELECT 1",
        "explain plan excluding attributes with type as json for (select 1)",
        "explain extended with t as (select 1) select * from t",
        "explain with \"t\" as (select 1) select * from \"t\"",
        "explain (select 1)",
        "select 1;;select 2; ",
        "select 'drop table x; insert into y' as \"delete\", `update`, [create] from t",
        "select t.update, replace(a, 'x', 'y'), truncate(1.5, 1), insert_date, into_x from t",
        "select m['key'], a[1] from t",
        "select 'it''s' from t where a = '--' and b = '/*'",
        "select 1 /* a /* b */ c */",
        "select 'C:\\\\dir'",
        "select next, value from t for system_time as of timestamp '2020-01-01 00:00:00'",
        "select transform(a, x -> x + 1) from t join u using (id)",
        "select 5 --1\n",
    ] {
        assert!(is_read_only(sql), "{sql}");
    }
}

#[test]
fn other_or_unreadable_statements_count_as_writes() {
    for sql in [
        "",
        " ;; ",
        "-- only a comment",
        "insert into t values (1)",
        "INSERT OVERWRITE TABLE t select 1",
        "values (1)",
        "(values (1))",
        "update t set a = 1",
        "delete from t",
        "create table t as select 1",
        "drop table t",
        "truncate table t",
        "call p()",
        "set a = b",
        "from t insert overwrite table u select *",
        "table t",
        "show tables",
        "select 1; drop table t",
        "drop table t; select 1",
        "select 1;; delete from t;",
        "with t as (select 1) insert into u select * from t",
        "with t as (delete from u returning *) select * from t",
        "with t as (select 1) values (1)",
        "with t",
        "select * into u from t",
        "select 1 into outfile '/tmp/x'",
        "select * from t for update",
        "select * from t for share nowait",
        "select * from t FOR KEY SHARE",
        "select next value for s",
        "select nextval('s')",
        "select transform(a) using '/bin/sh' from t",
        "explain",
        "explain plan for",
        "explain insert into t select 1",
        "explain analyze update t set a = 1",
        "explain analyze create table t as select 1",
        "explain with t as (select 1) insert into u select 1",
        "explain show select",
        "explain cache table t as select 1",
        "selects 1",
        "\"select\" 1",
        "'select' 1",
        "select 'a",
        "select \"a",
        "select `a",
        "select 1 /* a",
        "(select 1",
        "select 1)",
        ")select 1(",
        "select 1 from t where truncate",
        // Each of these only reads in one interpretation, and writes in another.
        r"select 'a\'; drop table t; select '",
        r"select 'a\' ; drop table t; --'",
        r#"select "a\"; drop table t; select ""#,
        "select 1 /* /* */ ; drop table t; /* */ */",
        "select 1 /* /* */ */ ; drop table t",
        "select 5--1 into outfile 'x'",
        "select 1 /*! into outfile 'x' */",
        "select $$'$$; drop table t; select $$'$$",
        "select [a'] ; drop table t; select [']",
        "select a[';drop table t;']; select 1 [x--] ;drop table t",
    ] {
        assert!(!is_read_only(sql), "{sql}");
    }
}

const WRITE_KEYWORDS: [&str; 20] = [
    "insert",
    "update",
    "delete",
    "merge",
    "upsert",
    "into",
    "create",
    "drop",
    "alter",
    "grant",
    "revoke",
    "call",
    "exec",
    "execute",
    "overwrite",
    "nextval",
    "setval",
    "outfile",
    "dumpfile",
    "vacuum",
];

#[test]
fn every_write_keyword_is_found_anywhere_in_a_statement() {
    for word in WRITE_KEYWORDS {
        assert_eq!(Keyword::of(word.as_bytes()), Keyword::Write);
        for sql in [
            format!("{word} x"),
            format!("select 1 {word} x"),
            format!("with t as ({word} x) select 1"),
            format!("select {word}"),
        ] {
            assert!(!is_read_only(&sql), "{sql}");
            assert!(!is_read_only(&sql.to_uppercase()), "{sql}");
        }
        assert!(is_read_only(&format!("select '{word} x', \"{word}\", x.{word} /* {word} */ -- {word}")), "{word}");
    }
}

proptest! {
    #[test]
    fn no_text_panics(sql in ".{0,80}") {
        is_read_only(&sql);
        is_read_only(&format!("select {sql}"));
    }

    /// Joined statements only read if each of them does.
    #[test]
    fn joined_statements_read_only_if_all_do(
        parts in prop::collection::vec((any::<bool>(), 0..5_usize), 1..4),
        blank in "( |\n|/\\* ; drop table x \\*/|-- insert into y\n){1,3}",
    ) {
        let reads = ["select 1", "(select 'delete from x;')", "with t as (select 2) select * from t", "explain plan for select 3", "select \";\""];
        let writes = ["drop table t", "insert into t select 1", "with t as (select 1) insert into u select 1", "select 1 into x", "truncate table t"];
        let sql: Vec<String> = parts
            .iter()
            .map(|&(read, which)| if read { reads[which] } else { writes[which] }.replace(' ', &blank))
            .collect();
        let sql = sql.join(";");
        prop_assert_eq!(is_read_only(&sql), parts.iter().all(|part| part.0), "{}", sql);
    }

    /// Text in quotes is not code if all dialects agree on where the quotes end.
    #[test]
    fn quoted_text_is_not_code(text in "[a-z;()*/ \"`-]{0,30}") {
        let sql = format!("select '{text}'");
        prop_assert!(is_read_only(&sql));
    }
}
