//! A query request: its SQL, its project, and the keys with which a policy recognises it.

mod canonical;
mod members;
mod sql;

use std::borrow::Cow;
use std::fmt;
use std::hash::Hasher;

pub(crate) use self::canonical::canonical;
use self::members::Members;
use super::class::Sql;
use crate::hash::Key64;

/// Ends a component of a key. No byte of UTF-8 has this value.
const END: &[u8] = &[0xff];

/// The identity of a query as two hashes. With them a policy recognises a query, but learns nothing
/// about its text or its user.
///
/// The code that reads the body computes them and attaches them with
/// [`RequestView::with_query`](crate::RequestView::with_query). Both must be the same in every
/// front end of a cluster and in every release, so they must be stable hashes, never seeded ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct QueryKeys {
    /// A hash of user, project, SQL, offset, limit and parameters. It is equal for queries that
    /// share an entry in a node's query cache.
    pub affinity: u64,
    /// A hash of the project and of the SQL without its literals. It is equal for queries of about
    /// the same cost. 0 if neither the [policy](crate::balance::Balancer::reads_fingerprint) nor
    /// the queues read it.
    pub fingerprint: u64,
}

/// The keys that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WantedKeys {
    None,
    /// Only [`QueryKeys::affinity`].
    Affinity,
    All,
}

impl QueryKeys {
    /// Returns keys that the application computed.
    pub const fn new(affinity: u64, fingerprint: u64) -> Self {
        QueryKeys { affinity, fingerprint }
    }
}

/// A query as it was sent, borrowed from the request.
///
/// A body that Kylin could interpret differently is an error: one with a duplicate member, with
/// text after the object, or one that is not UTF-8. A request that cannot be read counts as a
/// write.
#[derive(Clone, Default)]
pub(crate) struct QueryRequest<'b> {
    sql: Cow<'b, str>,
    project: Cow<'b, str>,
    offset: i64,
    limit: i64,
    accept_partial: bool,
    execute_as: Option<Cow<'b, str>>,
    query_id: &'b str,
    stop_id: Option<Cow<'b, str>>,
    params: &'b str,
    toggles: &'b str,
}

/// The reason why a query request cannot be read. The error never contains text of the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum QueryError {
    /// The body is not the JSON of a query. Line and column begin at 1.
    Json { line: usize, column: usize },
    /// The member or parameter is not a number.
    Number(&'static str),
    /// There is no SQL.
    NoSql,
    /// A form has the parameter more than once, and which one counts depends on the parser.
    Duplicate(&'static str),
    /// The body of a form is not UTF-8.
    Utf8,
}

impl<'b> QueryRequest<'b> {
    /// Reads the body of `POST /query` or `POST /query/prestate`. The caller bounds its length.
    pub(crate) fn from_json(body: &'b [u8]) -> Result<Self, QueryError> {
        let members =
            Members::read(body).map_err(|error| QueryError::Json { line: error.line(), column: error.column() })?;
        let number = |name, member: &str| match member.strip_prefix('"') {
            None if matches!(member, "null") => Ok(0),
            None => parse_number(name, member),
            Some(quoted) => match quoted.trim_matches('"').trim() {
                "null" => Ok(0),
                digits => parse_number(name, digits),
            },
        };
        QueryRequest {
            sql: members.sql.unwrap_or_default(),
            project: members.project.unwrap_or_default(),
            offset: number("offset", members.offset)?,
            limit: number("limit", members.limit)?,
            accept_partial: matches!(members.accept_partial, "true" | "\"true\""),
            execute_as: members.execute_as,
            query_id: members.query_id,
            stop_id: members.stop_id,
            params: members.params,
            toggles: members.backdoor_toggles,
        }
        .with_sql()
    }

    /// Reads an export: `GET /query/format/csv?sql=…&project=…` with the parameters in the `query`
    /// of the target, or `POST /query/format/csv` with a form in the `body`. A servlet merges both,
    /// so both are read.
    pub(crate) fn from_form(query: Option<&'b str>, body: &'b [u8]) -> Result<Self, QueryError> {
        let body = std::str::from_utf8(body).map_err(|_| QueryError::Utf8)?;
        let (mut sql, mut project, mut offset, mut limit) = (None, None, None, None);
        for part in [query.unwrap_or_default(), body] {
            for (name, value) in form_urlencoded::parse(part.as_bytes()) {
                let (slot, name) = match &*name {
                    "sql" => (&mut sql, "sql"),
                    "project" => (&mut project, "project"),
                    "offset" => (&mut offset, "offset"),
                    "limit" => (&mut limit, "limit"),
                    _ => continue,
                };
                if slot.replace(value).is_some() {
                    return Err(QueryError::Duplicate(name));
                }
            }
        }
        QueryRequest {
            offset: parse_number("offset", offset.unwrap_or_default().trim())?,
            limit: parse_number("limit", limit.unwrap_or_default().trim())?,
            sql: sql.unwrap_or_default(),
            project: project.unwrap_or_default(),
            ..QueryRequest::default()
        }
        .with_sql()
    }

    fn with_sql(self) -> Result<Self, QueryError> {
        if self.sql.trim().is_empty() { Err(QueryError::NoSql) } else { Ok(self) }
    }

    /// Returns the SQL, which is never blank.
    pub(crate) fn sql(&self) -> &str {
        &self.sql
    }

    /// Returns the id with which the client may stop the query (Kylin 5).
    pub(crate) fn stop_id(&self) -> Option<&str> {
        self.stop_id.as_deref()
    }

    /// Returns the ids with which the client may stop the query; `None` for an id that is not text
    /// without escapes.
    pub(crate) fn ids(&self) -> [Option<&str>; 2] {
        let query_id = self.query_id.strip_prefix('"').and_then(|id| id.strip_suffix('"'));
        [query_id, self.stop_id()].map(|id| id.filter(|id| !id.is_empty()))
    }

    /// Hashes the parts of the body that the crate knows, except the ids. Identical queries have
    /// equal hashes.
    pub(crate) fn hash_contents(&self, hasher: &mut impl Hasher) {
        for text in
            [&*self.sql, &*self.project, self.execute_as.as_deref().unwrap_or_default(), self.params, self.toggles]
        {
            hasher.write(text.as_bytes());
        }
        hasher.write_i64(self.offset);
        hasher.write_i64(self.limit);
        hasher.write_u8(self.accept_partial.into());
    }

    /// Returns the effect of the SQL. The effect of SQL over 64 KiB is unknown.
    pub(crate) fn effect(&self) -> Sql {
        if self.sql.len() > sql::MAX_ANALYSED {
            Sql::Unknown
        } else if sql::is_read_only(&self.sql) {
            Sql::ReadOnly
        } else {
            Sql::Writes
        }
    }

    /// Returns the keys of this query when `user` sends it, including the fingerprint if it is
    /// wanted. The fingerprint of SQL over 64 KiB keeps its literals.
    ///
    /// The affinity key has the components of the key in Kylin's query cache (apache/kylin 3.1.3
    /// SQLRequest.java, `getCacheKey`):
    ///
    /// - the SQL, in which only no-break spaces become plain ones;
    /// - the project in upper case;
    /// - offset, limit, acceptPartial and toggles;
    /// - the user;
    /// - the parameters of a prepared statement.
    pub(crate) fn keys(&self, user: &str, with_fingerprint: bool) -> QueryKeys {
        let mut affinity = Key64::new();
        for name in [user, self.execute_as.as_deref().unwrap_or_default()] {
            affinity.update(name.as_bytes());
            affinity.update(END);
        }
        self.feed_project(&mut affinity);
        for (at, piece) in self.sql.split('\u{a0}').enumerate() {
            if at > 0 {
                affinity.update(b" ");
            }
            affinity.update(piece.as_bytes());
        }
        affinity.update(END);
        affinity.update(&self.offset.to_le_bytes());
        affinity.update(&self.limit.to_le_bytes());
        affinity.update(&[u8::from(self.accept_partial)]);
        for json in [self.toggles, self.params] {
            // A null counts as a missing member.
            affinity.update(if json == "null" { b"" } else { json.as_bytes() });
            affinity.update(END);
        }
        QueryKeys::new(affinity.finish(), if with_fingerprint { self.fingerprint() } else { 0 })
    }

    /// Returns the fingerprint, as in [`keys`](Self::keys).
    pub(crate) fn fingerprint(&self) -> u64 {
        let mut fingerprint = Key64::new();
        self.feed_project(&mut fingerprint);
        if self.sql.len() > sql::MAX_ANALYSED {
            fingerprint.update(self.sql.as_bytes());
        } else {
            sql::feed_fingerprint(&self.sql, &mut |piece| fingerprint.update(piece));
        }
        fingerprint.finish()
    }

    /// Returns the project, as it was written.
    pub(crate) fn project(&self) -> &str {
        &self.project
    }

    fn feed_project(&self, key: &mut Key64) {
        sql::feed_upper(&self.project, &mut |piece| key.update(piece));
        key.update(END);
    }
}

fn parse_number(name: &'static str, digits: &str) -> Result<i64, QueryError> {
    if digits.is_empty() { Ok(0) } else { digits.parse().map_err(|_| QueryError::Number(name)) }
}

impl fmt::Debug for QueryRequest<'_> {
    /// Leaves out the SQL and its parameters, which may be confidential.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueryRequest")
            .field("project", &self.project)
            .field("offset", &self.offset)
            .field("limit", &self.limit)
            .field("sql_bytes", &self.sql.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn keys(body: &str) -> QueryKeys {
        QueryRequest::from_json(body.as_bytes()).unwrap().keys("ADMIN", true)
    }

    #[test]
    fn reads_requests_of_both_versions() {
        let body = r#"{"sql":"select \"A\"","project":"P","offset":1,"limit":"500","acceptPartial":true,"backdoorToggles":{},
            "params":[{"className":"java.lang.Integer","value":"1"}],"enableStatementCache":true,"queryId":"q","stopId":"s",
            "user_defined_tag":null,"unknown":[[[]]]}"#;
        let query = QueryRequest::from_json(body.as_bytes()).unwrap();
        assert_eq!((query.sql(), &*query.project), ("select \"A\"", "P"));
        assert_eq!((query.offset, query.limit, query.accept_partial), (1, 500, true));
        assert_eq!(query.stop_id(), Some("s"));
        assert_eq!(query.effect(), Sql::ReadOnly);
        let plain = QueryRequest::from_json(br#"{"sql":"drop table x","project":null,"limit":null}"#).unwrap();
        assert_eq!((&*plain.project, plain.limit, plain.effect()), ("", 0, Sql::Writes));
        assert!(matches!(plain.sql, Cow::Borrowed(_)));
    }

    #[test]
    fn an_ambiguous_body_is_an_error() {
        for (body, error) in [
            (r#"{"sql":"select 1","sql":"drop table x"}"#, QueryError::Json { line: 1, column: 25 }),
            (r#"{"sql":"select 1"} {"sql":"drop table x"}"#, QueryError::Json { line: 1, column: 20 }),
            (r#"{"sql":1}"#, QueryError::Json { line: 1, column: 8 }),
            (r#"{"sql":"#, QueryError::Json { line: 1, column: 7 }),
            (r#"[]"#, QueryError::Json { line: 1, column: 2 }),
            (r#"{"project":"p"}"#, QueryError::NoSql),
            (r#"{"sql":" \u00a0"}"#, QueryError::NoSql),
            (r#"{"sql":"select 1","limit":"x"}"#, QueryError::Number("limit")),
        ] {
            match (QueryRequest::from_json(body.as_bytes()).unwrap_err(), error) {
                (QueryError::Json { line, .. }, QueryError::Json { line: expected, .. }) => {
                    assert_eq!(line, expected, "{body}")
                }
                (found, expected) => assert_eq!(found, expected, "{body}"),
            }
        }
        assert!(QueryRequest::from_json(b"{\"sql\":\"select \xff\"}").is_err());
        assert!(QueryRequest::from_json("\u{feff}{\"sql\":\"select 1\"}".as_bytes()).is_err());
        let deep = format!(r#"{{"sql":"select 1","params":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
        // Deep nesting is either refused or skipped. It must not crash the process.
        let _ = QueryRequest::from_json(deep.as_bytes());
    }

    #[test]
    fn errors_and_debug_output_hold_no_text_of_the_body() {
        for body in [r#"{"sql":"secret""#, r#"{"sql":["secret"]}"#, r#"{"sql":"x","limit":"secret"}"#] {
            let error = QueryRequest::from_json(body.as_bytes()).unwrap_err();
            assert!(!format!("{error:?}").contains("secret"), "{error:?}");
        }
        let query = QueryRequest::from_json(br#"{"sql":"select 'secret'"}"#).unwrap();
        assert!(!format!("{query:?}").contains("secret"));
    }

    #[test]
    fn exports_are_read_from_target_and_body() {
        let query = QueryRequest::from_form(Some("sql=select+1%2C%272%27&project=P&limit=5"), b"").unwrap();
        assert_eq!((query.sql(), &*query.project, query.limit), ("select 1,'2'", "P", 5));
        let query = QueryRequest::from_form(None, b"project=P&sql=drop%20table%20x").unwrap();
        assert_eq!(query.effect(), Sql::Writes);
        assert_eq!(
            QueryRequest::from_form(Some("sql=select+1"), b"sql=drop").unwrap_err(),
            QueryError::Duplicate("sql")
        );
        assert_eq!(QueryRequest::from_form(Some("project=P"), b"").unwrap_err(), QueryError::NoSql);
        assert_eq!(QueryRequest::from_form(None, b"sql=\xff").unwrap_err(), QueryError::Utf8);
    }

    #[test]
    fn the_affinity_key_is_the_key_of_the_query_cache() {
        let base = keys(r#"{"sql":"select 1","project":"learn","offset":0,"limit":10}"#).affinity;
        for same in [
            r#"{"limit":10,"project":"LEARN","sql":"select\u00a01"}"#,
            r#"{"limit":"10","project":"Learn","sql":"select 1","acceptPartial":false,"params":null,"queryId":"other"}"#,
        ] {
            assert_eq!(keys(same).affinity, base, "{same}");
        }
        for other in [
            r#"{"sql":"select  1","project":"learn","limit":10}"#,
            r#"{"sql":"SELECT 1","project":"learn","limit":10}"#,
            r#"{"sql":"select 1","project":"learn","limit":11}"#,
            r#"{"sql":"select 1","project":"learn","limit":10,"offset":1}"#,
            r#"{"sql":"select 1","project":"learn2","limit":10}"#,
            r#"{"sql":"select 1","project":"learn","limit":10,"acceptPartial":true}"#,
            r#"{"sql":"select 1","project":"learn","limit":10,"params":[{"className":"int","value":"1"}]}"#,
            r#"{"sql":"select 1","project":"learn","limit":10,"executeAs":"MARY"}"#,
        ] {
            assert_ne!(keys(other).affinity, base, "{other}");
        }
        let query = QueryRequest::from_json(br#"{"sql":"select 1","project":"learn","limit":10}"#).unwrap();
        assert_ne!(query.keys("MODELER", true).affinity, base);
    }

    #[test]
    fn the_fingerprint_ignores_literals_but_not_the_project() {
        let base = keys(r#"{"sql":"select 1 from t limit 5","project":"learn"}"#).fingerprint;
        assert_eq!(keys(r#"{"sql":"SELECT  2 FROM t LIMIT 50","project":"LEARN","limit":3}"#).fingerprint, base);
        assert_ne!(keys(r#"{"sql":"select 1 from t limit 5","project":"other"}"#).fingerprint, base);
        assert_ne!(keys(r#"{"sql":"select 1 from u limit 5","project":"learn"}"#).fingerprint, base);
    }

    #[test]
    fn the_effect_of_long_sql_is_unknown() {
        let of_length = |length: usize| {
            let body = json!({"sql": format!("select {}", "1".repeat(length - 7))}).to_string();
            let query = QueryRequest::from_json(body.as_bytes()).unwrap();
            (query.effect(), query.keys("ADMIN", true).fingerprint == keys(r#"{"sql":"select 2"}"#).fingerprint)
        };
        assert_eq!(of_length(sql::MAX_ANALYSED), (Sql::ReadOnly, true));
        assert_eq!(of_length(sql::MAX_ANALYSED + 1), (Sql::Unknown, false));
    }

    #[test]
    fn keys_never_change() {
        let keys = keys(r#"{"sql":"select a from t where b = 1","project":"learn_kylin","offset":0,"limit":50000}"#);
        let mut affinity = b"ADMIN\xff\xffLEARN_KYLIN\xffselect a from t where b = 1\xff".to_vec();
        affinity.extend([0; 8]);
        affinity.extend(50_000_u64.to_le_bytes());
        affinity.extend(b"\0\xff\xff");
        assert_eq!(keys.affinity, crate::hash::key64(&affinity));
        assert_eq!(keys.fingerprint, crate::hash::key64(b"LEARN_KYLIN\xffSELECT A FROM T WHERE B = ? "));
        // These values are in tests/it/kylin_policies.rs too.
        let json = json!({"sql": "select a from t where b = 1", "project": "learn_kylin", "offset": 0, "limit": 50000})
            .to_string();
        let of_body = QueryRequest::from_json(json.as_bytes()).unwrap().keys("MARY", true);
        assert_eq!(of_body, QueryKeys::new(3_595_239_346_745_456_820, 4_044_632_451_923_595_588));
        let of_form = QueryRequest::from_form(None, b"sql=select+a+from+t&project=P").unwrap().keys("MARY", true);
        assert_eq!(of_form, QueryKeys::new(2_287_366_462_893_482_114, 14_206_268_185_962_480_174));
    }

    proptest! {
        #[test]
        fn no_body_panics(body in prop::collection::vec(any::<u8>(), 0..80), text in "[{}\\[\\]\",:a-z1 ]{0,60}") {
            let _ = QueryRequest::from_json(&body);
            let _ = QueryRequest::from_json(text.as_bytes());
            let _ = QueryRequest::from_form(Some(&text), &body);
        }

        #[test]
        fn a_serialised_request_is_read_back(sql in "\\PC{0,40}", project in "\\PC{0,10}", offset: i32, limit: i32) {
            let sql = format!("x{sql}");
            let body = json!({"sql": sql, "project": project, "offset": offset, "limit": limit}).to_string();
            let query = QueryRequest::from_json(body.as_bytes()).unwrap();
            prop_assert_eq!((query.sql(), &*query.project), (&*sql, &*project));
            prop_assert_eq!((query.offset, query.limit), (offset.into(), limit.into()));
            let form = form_urlencoded::Serializer::new(String::new()).append_pair("sql", &sql).append_pair("project", &project).finish();
            let export = QueryRequest::from_form(None, form.as_bytes()).unwrap();
            prop_assert_eq!((export.sql(), &*export.project), (&*sql, &*project));
        }
    }
}
