//! Queries of both generations, which differ in how they respond to a failed query.

use std::time::Duration;

use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};

use crate::body::Body;
use crate::clock::{Clock, SystemClock, as_millis};
use crate::kylin::KylinVersion;
use crate::testing::kylin::Mode;
use crate::testing::kylin::api::call::Call;
use crate::testing::kylin::api::path::Params;
use crate::testing::kylin::api::response::{CallResult, Failure, ok, typed};
use crate::testing::kylin::api::sql::{self, Markers};
use crate::testing::kylin::data::running::RunningQuery;
use crate::testing::kylin::data::sessions::uuid;
use crate::testing::kylin::stream::{Piece, Streamed};

/// Responds to `POST /query` and `/query/prestate`, which keeps nothing on the server.
///
/// In Kylin 5, a failed query is a 200 with `isException`; only an error before the query begins is
/// an HTTP error.
pub(crate) async fn json(call: &Call) -> CallResult {
    let version = call.settings.version();
    if version == KylinVersion::V5 && !call.headers.contains_key(header::USER_AGENT) {
        // The query controller declares the header as required.
        return Err(Failure::refused("Missing request header 'User-Agent' for method parameter of type String"));
    }
    let body = call.json()?;
    let text = |name: &str| body[name].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let id = text("queryId").unwrap_or_else(uuid);
    let mut result = result(call, &id);
    let (sql, project) = (text("sql").unwrap_or_default(), text("project").unwrap_or_default());
    let query = RunningQuery::new(id, text("stopId"), sql, project, call.user_name());
    match (run(call, query).await, version) {
        (Ok(ran), _) => {
            result["duration"] = as_millis(ran.duration).into();
            let json = |node: &str, cell: &str| {
                result["columnMetas"] = json!([column("NODE"), column("SQL")]);
                result["results"] = json!([[node, cell]]);
                if version == KylinVersion::V5 {
                    result["resultRowCount"] = 1.into();
                }
                call.envelope().wrap(result).to_string()
            };
            Ok(ran.write("application/json;charset=UTF-8", json))
        }
        (Err(refusal @ (QueryFailure::Failed(_) | QueryFailure::TooMany)), KylinVersion::V5) => {
            result["isException"] = true.into();
            result["exceptionMessage"] = refusal.message(version).into();
            call.value(result)
        }
        (Err(refusal), _) => Err(refusal.failure(version)),
    }
}

/// Exports a result: the query runs again, and its result is a file.
pub(crate) async fn csv(call: &Call, params: &Params) -> CallResult {
    let text = |name: &str| params.value(name).unwrap_or_default().to_owned();
    let query = RunningQuery::new(uuid(), None, text("sql"), text("project"), call.user_name());
    let ran = run(call, query).await.map_err(|refusal| refusal.failure(call.settings.version()))?;
    let csv = |node: &str, cell: &str| format!("NODE,SQL\n{node},\"{}\"\n", cell.replace('"', "\"\""));
    let mut response = ran.write("text/csv;charset=utf-8", csv);
    let attachment = HeaderValue::from_static("attachment; filename=\"result.csv\"");
    response.headers_mut().insert(header::CONTENT_DISPOSITION, attachment);
    Ok(response)
}

/// Lists the queries of this node in 2.x-4.x. The other nodes list their own.
pub(crate) fn running(call: &Call) -> CallResult {
    let listed = |query: &RunningQuery| {
        json!({
            "queryId": query.id, "sql": query.sql, "username": query.user, "project": query.project,
            "status": "RUNNING", "server": call.node.name(),
        })
    };
    Ok(ok(&call.node.inner.running.list().iter().map(|query| listed(query)).collect()))
}

/// A query that ran to its end.
struct Ran {
    duration: Duration,
    node: String,
    sql: String,
    markers: Markers,
}

/// The reason why a query has no result.
#[derive(Debug)]
enum QueryFailure {
    /// The node does not run queries. The query was not executed.
    JobMode,
    /// The project or the text is missing or unknown. The query was not executed.
    Invalid(String),
    /// The limit of concurrent queries is reached. The query was not executed.
    TooMany,
    /// The query itself is wrong, or was stopped.
    Failed(String),
}

/// Runs `query` with the checks in Kylin's order: role, project, text, limit, and then the query
/// itself.
async fn run(call: &Call, query: RunningQuery) -> Result<Ran, QueryFailure> {
    if call.settings.mode == Mode::Job {
        return Err(QueryFailure::JobMode);
    }
    if query.project.is_empty() {
        return Err(QueryFailure::Invalid("Project name could not be empty, please specify it.".to_owned()));
    }
    if !call.settings.metastore.has_project(&query.project) {
        return Err(QueryFailure::Invalid(format!("Cannot find project '{}'.", query.project)));
    }
    if query.sql.trim().is_empty() {
        return Err(QueryFailure::Invalid("SQL should not be empty.".to_owned()));
    }
    let started_at = SystemClock.now();
    let sql = query.sql.clone();
    let switches = call.node.faults().switches();
    let guard = call.node.start(query, switches.concurrent_queries).ok_or(QueryFailure::TooMany)?;
    call.node.inner.counts.ran_sql(&sql);

    let markers = sql::markers(&sql);
    let wait = switches.query_latency + Duration::from_millis(markers.sleep_ms);
    if !wait.is_zero() {
        let work = async move {
            tokio::select! {
                () = tokio::time::sleep(wait) => Some(guard),
                () = guard.stopped() => None,
            }
        };
        let guard = match switches.queries_outlive_clients {
            true => tokio::spawn(work).await.unwrap_or_default(),
            false => work.await,
        };
        // A query that is over counts as running until here.
        if guard.is_none() {
            return Err(QueryFailure::Failed("Query is stopped by an administrator.".to_owned()));
        }
    }
    if markers.fails {
        return Err(QueryFailure::Failed(format!("Encountered \"SYNTAX ERROR\" while executing SQL: \"{sql}\"")));
    }
    if !sql::reads(&sql) {
        return Err(QueryFailure::Failed(format!("Not Supported SQL: \"{sql}\"")));
    }
    Ok(Ran { duration: SystemClock.now() - started_at, node: call.node.name().to_owned(), sql, markers })
}

impl QueryFailure {
    fn message(self, version: KylinVersion) -> String {
        match (self, version) {
            (QueryFailure::JobMode, KylinVersion::V4) => "Query is not allowed in 'job' mode.".to_owned(),
            (QueryFailure::JobMode, KylinVersion::V5) => "Query is not available on a job node.".to_owned(),
            (QueryFailure::TooMany, _) => "Too many concurrent query requests.".to_owned(),
            (QueryFailure::Invalid(message) | QueryFailure::Failed(message), _) => message,
        }
    }

    /// Returns the HTTP error. Only 2.x-4.x distinguish a refused query (400) from a failed one
    /// (500).
    fn failure(self, version: KylinVersion) -> Failure {
        match (&self, version) {
            (QueryFailure::Failed(_), _) | (QueryFailure::Invalid(_) | QueryFailure::TooMany, KylinVersion::V5) => {
                Failure::internal(self.message(version))
            }
            (QueryFailure::JobMode, KylinVersion::V5) => {
                Failure::internal(self.message(version)).with_code("KE-040023202")
            }
            (_, KylinVersion::V4) => Failure::refused(self.message(version)),
        }
    }
}

impl Ran {
    /// Writes the result with `form`, which gets the two cells: the node, and the text of the query
    /// or a filler. A filler is streamed.
    fn write(self, content_type: &'static str, form: impl FnOnce(&str, &str) -> String) -> Response<Body> {
        const FILLER: &str = "@filler@";
        let Markers { repeat_bytes, repeat_bytes_chunked, .. } = self.markers;
        let Some(length) = repeat_bytes.or(repeat_bytes_chunked) else {
            return typed(StatusCode::OK, content_type, form(&self.node, &self.sql));
        };
        let text = form(&self.node, FILLER);
        let (before, after) = text.split_once(FILLER).unwrap_or((&text, ""));
        let piece = |text: &str| Piece::Bytes(text.to_owned().into());
        let pieces = [piece(before), Piece::Filler(length), piece(after)];
        typed(StatusCode::OK, content_type, Body::new(Streamed::new(pieces, repeat_bytes.is_some())))
    }
}

/// Returns a result without rows.
fn result(call: &Call, id: &str) -> Value {
    let mut result = json!({
        "columnMetas": [],
        "results": [],
        "duration": 0,
        "totalScanBytes": 0,
        "hitExceptionCache": false,
        "storageCacheUsed": false,
        "isException": false,
        "exceptionMessage": null,
        "pushDown": false,
    });
    let own = match call.settings.version() {
        KylinVersion::V4 => json!({
            "cube": "CUBE[name=kylin_sales_cube]",
            "affectedRowCount": 0,
            "totalScanCount": 0,
            "traceUrl": null,
            "partial": false,
        }),
        KylinVersion::V5 => json!({
            "totalScanRows": 0,
            "resultRowCount": 0,
            "storageCacheType": null,
            "queryId": id,
            "server": format!("{}:7070", call.node.name()),
            "engineType": "NATIVE",
            "appMasterURL": "/kylin/sparder/SQL/execution/?id=0",
            "traces": [],
        }),
    };
    if let (Some(result), Value::Object(own)) = (result.as_object_mut(), own) {
        result.extend(own);
    }
    result
}

fn column(name: &str) -> Value {
    json!({
        "isNullable": 1, "displaySize": 256, "label": name, "name": name, "schemaName": null,
        "catelogName": null, "tableName": null, "precision": 256, "scale": 0,
        "columnType": 12, "columnTypeName": "VARCHAR", "signed": true, "autoIncrement": false,
        "caseSensitive": true, "searchable": false, "currency": false, "readOnly": true,
    })
}
