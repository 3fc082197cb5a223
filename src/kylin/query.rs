//! What a query request says: its SQL, its project, and the keys under which it is placed and measured.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde_json::value::RawValue;
use thiserror::Error;

use super::class::Sql;
use super::sql;
use crate::hash::Key64;
use crate::request::QueryKeys;

/// Ends a field of a key; no byte of UTF-8 is like it.
const END: &[u8] = &[0xff];

/// A query as it was sent, borrowed from the request.
///
/// What Kylin would read in another way than this does is an error, never a guess: a field that comes twice, text behind
/// the object, a body that is not UTF-8. A request that cannot be read counts as a write.
#[derive(Clone, Default)]
pub struct QueryRequest<'b> {
    sql: Cow<'b, str>,
    project: Cow<'b, str>,
    offset: i64,
    limit: i64,
    accept_partial: bool,
    execute_as: Option<Cow<'b, str>>,
    query_id: Option<Cow<'b, str>>,
    stop_id: Option<Cow<'b, str>>,
    params: &'b str,
    toggles: &'b str,
}

/// Why a query request could not be read. Says where, and never shows what was there.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum QueryError {
    /// The body is not the JSON of a query.
    #[error("body is not a query in JSON: line {line} column {column}")]
    Json {
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
    },
    /// A field is not of its type.
    #[error("{0} of the query is not a number")]
    Number(&'static str),
    /// There is no SQL in it.
    #[error("the query has no SQL")]
    NoSql,
    /// A parameter of a form comes more than once, and which one counts depends on who reads it.
    #[error("parameter {0} comes twice")]
    Twice(&'static str),
    /// The body of a form is not UTF-8.
    #[error("form is not UTF-8")]
    Utf8,
}

/// The fields as apache/kylin 3.1.3 SQLRequest.java:33-43 and its Kylin 5 successor name them.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire<'b> {
    #[serde(borrow)]
    sql: Option<Text<'b>>,
    #[serde(borrow)]
    project: Option<Text<'b>>,
    #[serde(borrow)]
    offset: Option<&'b RawValue>,
    #[serde(borrow)]
    limit: Option<&'b RawValue>,
    #[serde(borrow)]
    accept_partial: Option<&'b RawValue>,
    #[serde(borrow)]
    execute_as: Option<Text<'b>>,
    #[serde(borrow)]
    query_id: Option<Text<'b>>,
    #[serde(borrow)]
    stop_id: Option<Text<'b>>,
    #[serde(borrow)]
    params: Option<&'b RawValue>,
    #[serde(borrow)]
    backdoor_toggles: Option<&'b RawValue>,
}

/// Borrowed where the string has no escapes; serde does not borrow inside an `Option<Cow>` by itself.
#[derive(Deserialize)]
struct Text<'b>(#[serde(borrow)] Cow<'b, str>);

impl<'b> QueryRequest<'b> {
    /// Reads the body of `POST /query` or `POST /query/prestate`. The caller bounds its length; nesting is bounded here.
    ///
    /// ```
    /// use kylin_lb::kylin::query::QueryRequest;
    ///
    /// let body = br#"{"sql": "select 1", "project": "learn_kylin", "limit": 50000}"#;
    /// let query = QueryRequest::from_json(body)?;
    /// assert_eq!((query.sql(), query.project(), query.limit()), ("select 1", "learn_kylin", 50000));
    /// # Ok::<(), kylin_lb::kylin::query::QueryError>(())
    /// ```
    ///
    /// # Errors
    /// [`QueryError`] for what is not such a body.
    pub fn from_json(body: &'b [u8]) -> Result<Self, QueryError> {
        let wire: Wire<'b> = serde_json::from_slice(body)
            .map_err(|error| QueryError::Json { line: error.line(), column: error.column() })?;
        let text = |text: Option<Text<'b>>| text.map(|Text(text)| text);
        let raw = |raw: Option<&'b RawValue>| raw.map_or("", RawValue::get);
        let number = |name, raw: Option<&'b RawValue>| match raw.map_or("0", RawValue::get).trim_matches('"').trim() {
            "null" | "" => Ok(0),
            digits => digits.parse().map_err(|_| QueryError::Number(name)),
        };
        let request = QueryRequest {
            sql: text(wire.sql).unwrap_or_default(),
            project: text(wire.project).unwrap_or_default(),
            offset: number("offset", wire.offset)?,
            limit: number("limit", wire.limit)?,
            accept_partial: matches!(raw(wire.accept_partial), "true" | "\"true\""),
            execute_as: text(wire.execute_as),
            query_id: text(wire.query_id),
            stop_id: text(wire.stop_id),
            params: raw(wire.params),
            toggles: raw(wire.backdoor_toggles),
        };
        request.with_sql()
    }

    /// Reads an export: `GET /query/format/csv?sql=…&project=…`, where the parameters are the `query` of the target, or
    /// `POST /query/format/csv`, where they are a form in the `body`. A servlet sees both as one, so both are read.
    ///
    /// # Errors
    /// [`QueryError`] for parameters that are missing, come twice or are not UTF-8.
    pub fn from_form(query: Option<&'b str>, body: &'b [u8]) -> Result<Self, QueryError> {
        let body = std::str::from_utf8(body).map_err(|_| QueryError::Utf8)?;
        let mut request = QueryRequest::default();
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
                    return Err(QueryError::Twice(name));
                }
            }
        }
        let number = |name, value: Option<Cow<'_, str>>| match value.as_deref().map_or("", str::trim) {
            "" => Ok(0),
            digits => digits.parse().map_err(|_| QueryError::Number(name)),
        };
        request.offset = number("offset", offset)?;
        request.limit = number("limit", limit)?;
        request.sql = sql.unwrap_or_default();
        request.project = project.unwrap_or_default();
        request.with_sql()
    }

    fn with_sql(self) -> Result<Self, QueryError> {
        if self.sql.trim().is_empty() { Err(QueryError::NoSql) } else { Ok(self) }
    }

    /// The SQL; never blank.
    pub fn sql(&self) -> &str {
        &self.sql
    }

    /// The project, as it was written; empty when there is none.
    pub fn project(&self) -> &str {
        &self.project
    }

    /// The first row wanted.
    pub fn offset(&self) -> i64 {
        self.offset
    }

    /// How many rows are wanted; 0 for all.
    pub fn limit(&self) -> i64 {
        self.limit
    }

    /// May the result be partial?
    pub fn accept_partial(&self) -> bool {
        self.accept_partial
    }

    /// The id that the client gives the query (Kylin 5).
    pub fn query_id(&self) -> Option<&str> {
        self.query_id.as_deref()
    }

    /// The id by which the client may stop the query (Kylin 5).
    pub fn stop_id(&self) -> Option<&str> {
        self.stop_id.as_deref()
    }

    /// Does the SQL change anything?
    pub fn effect(&self) -> Sql {
        if sql::is_read_only(&self.sql) { Sql::ReadOnly } else { Sql::Writes }
    }

    /// The keys of this query when `user` sends it.
    ///
    /// The affinity key follows the key of Kylin's query cache (apache/kylin 3.1.3 SQLRequest.java, `getCacheKey`): the SQL with
    /// no-break spaces made plain but nothing else changed, the project in upper case, offset, limit, acceptPartial, toggles, the
    /// user, and the parameters of a prepared statement.
    pub fn keys(&self, user: &str) -> QueryKeys {
        let mut key = Key64::new();
        for field in [user, self.execute_as.as_deref().unwrap_or_default()] {
            key.update(field.as_bytes());
            key.update(END);
        }
        self.feed_project(&mut key);
        let mut pieces = self.sql.split('\u{a0}');
        key.update(pieces.next().unwrap_or_default().as_bytes());
        for piece in pieces {
            key.update(b" ");
            key.update(piece.as_bytes());
        }
        key.update(END);
        key.update(&self.offset.to_le_bytes());
        key.update(&self.limit.to_le_bytes());
        key.update(&[u8::from(self.accept_partial)]);
        for field in [self.toggles, self.params] {
            // A null is like a field that is not there.
            key.update(if field == "null" { b"" } else { field.as_bytes() });
            key.update(END);
        }
        let mut fingerprint = Key64::new();
        self.feed_project(&mut fingerprint);
        sql::feed_shape(&self.sql, &mut |piece| fingerprint.update(piece));
        QueryKeys::new(key.finish(), fingerprint.finish())
    }

    fn feed_project(&self, key: &mut Key64) {
        sql::feed_upper(&self.project, &mut |piece| key.update(piece));
        key.update(END);
    }
}

impl fmt::Debug for QueryRequest<'_> {
    /// Leaves the SQL and its parameters out: they hold what users look for.
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
        QueryRequest::from_json(body.as_bytes()).unwrap().keys("ADMIN")
    }

    #[test]
    fn reads_what_clients_of_both_dialects_send() {
        let body = r#"{"sql":"select \"A\"","project":"P","offset":1,"limit":"500","acceptPartial":true,"backdoorToggles":{},
            "params":[{"className":"java.lang.Integer","value":"1"}],"enableStatementCache":true,"queryId":"q","stopId":"s",
            "user_defined_tag":null,"unknown":[[[]]]}"#;
        let query = QueryRequest::from_json(body.as_bytes()).unwrap();
        assert_eq!((query.sql(), query.project()), ("select \"A\"", "P"));
        assert_eq!((query.offset(), query.limit(), query.accept_partial()), (1, 500, true));
        assert_eq!((query.query_id(), query.stop_id()), (Some("q"), Some("s")));
        assert_eq!(query.effect(), Sql::ReadOnly);
        let plain = QueryRequest::from_json(br#"{"sql":"drop table x","project":null,"limit":null}"#).unwrap();
        assert_eq!((plain.project(), plain.limit(), plain.effect()), ("", 0, Sql::Writes));
        assert!(matches!(plain.sql, Cow::Borrowed(_)));
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_no_query() {
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
        // Deep nesting is either refused or passed over; it must not end the process.
        let _ = QueryRequest::from_json(deep.as_bytes());
    }

    #[test]
    fn errors_do_not_show_the_body() {
        for body in [r#"{"sql":"secret""#, r#"{"sql":["secret"]}"#, r#"{"sql":"x","limit":"secret"}"#] {
            let error = QueryRequest::from_json(body.as_bytes()).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("secret"), "{error}");
        }
        let query = QueryRequest::from_json(br#"{"sql":"select 'secret'"}"#).unwrap();
        assert!(!format!("{query:?}").contains("secret"));
    }

    #[test]
    fn exports_are_read_from_target_and_body() {
        let query = QueryRequest::from_form(Some("sql=select+1%2C%272%27&project=P&limit=5"), b"").unwrap();
        assert_eq!((query.sql(), query.project(), query.limit()), ("select 1,'2'", "P", 5));
        let query = QueryRequest::from_form(None, b"project=P&sql=drop%20table%20x").unwrap();
        assert_eq!(query.effect(), Sql::Writes);
        assert_eq!(QueryRequest::from_form(Some("sql=select+1"), b"sql=drop").unwrap_err(), QueryError::Twice("sql"));
        assert_eq!(QueryRequest::from_form(Some("project=P"), b"").unwrap_err(), QueryError::NoSql);
        assert_eq!(QueryRequest::from_form(None, b"sql=\xff").unwrap_err(), QueryError::Utf8);
    }

    #[test]
    fn the_affinity_key_is_the_cache_key() {
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
        assert_ne!(query.keys("MODELER").affinity, base);
    }

    #[test]
    fn the_shape_forgets_literals_but_not_the_project() {
        let base = keys(r#"{"sql":"select 1 from t limit 5","project":"learn"}"#).fingerprint;
        assert_eq!(keys(r#"{"sql":"SELECT  2 FROM t LIMIT 50","project":"LEARN","limit":3}"#).fingerprint, base);
        assert_ne!(keys(r#"{"sql":"select 1 from t limit 5","project":"other"}"#).fingerprint, base);
        assert_ne!(keys(r#"{"sql":"select 1 from u limit 5","project":"learn"}"#).fingerprint, base);
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
    }

    proptest! {
        #[test]
        fn no_body_makes_it_panic(body in prop::collection::vec(any::<u8>(), 0..80), text in "[{}\\[\\]\",:a-z1 ]{0,60}") {
            let _ = QueryRequest::from_json(&body);
            let _ = QueryRequest::from_json(text.as_bytes());
            let _ = QueryRequest::from_form(Some(&text), &body);
        }

        #[test]
        fn what_a_client_writes_is_read(sql in "\\PC{0,40}", project in "\\PC{0,10}", offset: i32, limit: i32) {
            let sql = format!("x{sql}");
            let body = json!({"sql": sql, "project": project, "offset": offset, "limit": limit}).to_string();
            let query = QueryRequest::from_json(body.as_bytes()).unwrap();
            prop_assert_eq!((query.sql(), query.project()), (&*sql, &*project));
            prop_assert_eq!((query.offset(), query.limit()), (offset.into(), limit.into()));
            let form = form_urlencoded::Serializer::new(String::new()).append_pair("sql", &sql).append_pair("project", &project).finish();
            let export = QueryRequest::from_form(None, form.as_bytes()).unwrap();
            prop_assert_eq!((export.sql(), export.project()), (&*sql, &*project));
        }
    }
}
