//! Running a query, alike in both dialects; they differ in how they say what came of it.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};

use crate::body::Body;
use crate::clock::{Clock, SystemClock};
use crate::kylin::KylinVersion;
use crate::testing::kylin::api::call::Call;
use crate::testing::kylin::api::path::Params;
use crate::testing::kylin::api::response::{Answer, Failure, typed};
use crate::testing::kylin::api::sql::{self, Markers};
use crate::testing::kylin::api::v4;
use crate::testing::kylin::api::v5;
use crate::testing::kylin::data::running::RunningQuery;
use crate::testing::kylin::data::sessions::uuid;
use crate::testing::kylin::settings::Mode;
use crate::testing::kylin::stream::{Piece, Streamed};

/// What a client asks for.
pub(crate) struct Ask {
    pub(crate) sql: String,
    pub(crate) project: String,
    /// Kylin 5: the id that the client chose for its query.
    id: Option<String>,
    stop_id: Option<String>,
}

/// A query that ran to its end.
pub(crate) struct Ran {
    pub(crate) id: String,
    pub(crate) duration: Duration,
    node: String,
    cell: Cell,
}

/// The second cell of the result.
enum Cell {
    Text(String),
    Filler { length: u64, announced: bool },
}

/// Why a query has no result.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// The node does not answer queries. Not executed.
    JobMode,
    /// Project or text is missing or unknown. Not executed.
    Invalid(String),
    /// As many queries run as may. Not executed.
    TooMany,
    /// The query itself is wrong, or was stopped.
    Failed(String),
}

/// Stands where the filler goes while a result is being written.
const HOLE: &str = "@filler@";

impl Ask {
    pub(crate) fn parse(call: &Call) -> Result<Self, Failure> {
        let body = call.json()?;
        let text = |name: &str| body[name].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        Ok(Ask {
            sql: text("sql").unwrap_or_default(),
            project: text("project").unwrap_or_default(),
            id: text("queryId"),
            stop_id: text("stopId"),
        })
    }
}

/// Runs `ask` in the order in which Kylin checks: role, project, text, room, and then the query itself.
pub(crate) async fn run(call: &Call, ask: Ask) -> Result<Ran, Refusal> {
    if call.settings.mode == Mode::Job {
        return Err(Refusal::JobMode);
    }
    if ask.project.is_empty() {
        return Err(Refusal::Invalid("Project name could not be empty, please specify it.".to_owned()));
    }
    if !call.settings.metastore.has_project(&ask.project) {
        return Err(Refusal::Invalid(format!("Cannot find project '{}'.", ask.project)));
    }
    if ask.sql.trim().is_empty() {
        return Err(Refusal::Invalid("SQL should not be empty.".to_owned()));
    }
    let inner = &call.node.inner;
    let begun = SystemClock.now();
    let id = ask.id.unwrap_or_else(uuid);
    let user = call.user_name().to_owned();
    let query = RunningQuery::new(id.clone(), ask.stop_id, ask.sql.clone(), ask.project, user);
    let slot = inner.running.start(query, inner.faults.concurrent_queries(), &inner.counts).ok_or(Refusal::TooMany)?;
    inner.counts.ran_sql(&ask.sql);

    let markers = sql::markers(&ask.sql);
    let wait = inner.faults.query_latency() + Duration::from_millis(markers.sleep_ms);
    if !wait.is_zero() {
        let work = async move {
            tokio::select! {
                () = tokio::time::sleep(wait) => Some(slot),
                () = slot.stopped() => None,
            }
        };
        let slot = match inner.faults.queries_outlive_clients() {
            true => tokio::spawn(work).await.unwrap_or_default(),
            false => work.await,
        };
        // What is over counts as running until here.
        if slot.is_none() {
            return Err(Refusal::Failed("Query is stopped by an administrator.".to_owned()));
        }
    }
    if markers.fails {
        return Err(Refusal::Failed(format!("Encountered \"SYNTAX ERROR\" while executing SQL: \"{}\"", ask.sql)));
    }
    if !sql::reads(&ask.sql) {
        return Err(Refusal::Failed(format!("Not Supported SQL: \"{}\"", ask.sql)));
    }
    Ok(Ran { id, duration: SystemClock.now() - begun, node: inner.name.clone(), cell: Cell::of(ask.sql, markers) })
}

/// `POST /query` and `/query/prestate`, which keeps nothing on the server and so is the same.
pub(crate) async fn answer(call: &Call) -> Answer {
    let ask = Ask::parse(call)?;
    match call.settings.version {
        KylinVersion::V4 => v4::query(call, ask).await,
        KylinVersion::V5 => v5::query(call, ask).await,
    }
}

/// The export: the query runs anew and its result comes as a file.
pub(crate) async fn csv(call: &Call, params: &Params) -> Answer {
    let text = |name: &str| params.value(name).unwrap_or_default().to_owned();
    let ask = Ask { sql: text("sql"), project: text("project"), id: None, stop_id: None };
    let ran = run(call, ask).await.map_err(|refusal| match call.settings.version {
        KylinVersion::V4 => v4::failure(refusal),
        KylinVersion::V5 => v5::failure(refusal),
    })?;
    let mut response = ran.write(|node, cell| format!("NODE,SQL\n{node},\"{}\"\n", cell.replace('"', "\"\"")));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/csv;charset=utf-8"));
    headers.insert(header::CONTENT_DISPOSITION, HeaderValue::from_static("attachment; filename=\"result.csv\""));
    Ok(response)
}

impl Ran {
    /// Writes the result as JSON: `form` is given the columns and the rows.
    pub(crate) fn json(&self, form: impl FnOnce(Value, Value) -> Value) -> Response<Body> {
        let mut response = self.write(|node, cell| form(columns(), json!([[node, cell]])).to_string());
        let json = HeaderValue::from_static("application/json;charset=UTF-8");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        response
    }

    /// Writes the result as `form` has it, the second cell streamed where it is long.
    fn write(&self, form: impl FnOnce(&str, &str) -> String) -> Response<Body> {
        let Cell::Filler { length, announced } = self.cell else {
            let Cell::Text(cell) = &self.cell else { return Response::new(Body::empty()) };
            return typed(StatusCode::OK, "text/plain", form(&self.node, cell));
        };
        let whole = Bytes::from(form(&self.node, HOLE));
        let at = whole.windows(HOLE.len()).position(|window| window == HOLE.as_bytes()).unwrap_or(0);
        let pieces = [
            Piece::Bytes(whole.slice(..at)),
            Piece::Filler(length),
            Piece::Bytes(whole.slice((at + HOLE.len()).min(whole.len())..)),
        ];
        Response::new(Body::new(Streamed::new(pieces, announced)))
    }
}

impl Cell {
    fn of(sql: String, markers: Markers) -> Self {
        match (markers.repeat_bytes, markers.repeat_bytes_chunked) {
            (Some(length), _) => Cell::Filler { length, announced: true },
            (None, Some(length)) => Cell::Filler { length, announced: false },
            (None, None) => Cell::Text(sql),
        }
    }
}

fn columns() -> Value {
    let column = |name: &str| {
        json!({
            "isNullable": 1, "displaySize": 256, "label": name, "name": name, "schemaName": null,
            "catelogName": null, "tableName": null, "precision": 256, "scale": 0,
            "columnType": 12, "columnTypeName": "VARCHAR", "signed": true, "autoIncrement": false,
            "caseSensitive": true, "searchable": false, "currency": false, "readOnly": true,
        })
    };
    json!([column("NODE"), column("SQL")])
}
