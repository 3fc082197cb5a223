//! The calls that list and change the content of the metastore: projects, tables, cubes, models,
//! jobs, saved queries.

use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};

use crate::kylin::KylinVersion;
use crate::testing::kylin::Job;
use crate::testing::kylin::api::call::Call;
use crate::testing::kylin::api::response::{CallResult, Failure};
use crate::testing::kylin::data::sessions::uuid;

const CUBE: &str = "kylin_sales_cube";
const MODEL: &str = "kylin_sales_model";
const LAST_MODIFIED: u64 = 1_600_000_000_000;

/// Lists the projects, each with its uuid, which differs between metastores.
pub(crate) fn projects(call: &Call) -> CallResult {
    let projects = call.metastore()?.projects().into_iter().map(|project| {
        json!({
            "uuid": project.uuid, "name": project.name, "description": "", "owner": "ADMIN",
            "last_modified": LAST_MODIFIED, "version": call.settings.dialect.facts().version,
            "realizations": [{"name": CUBE, "type": "CUBE", "realization": CUBE}],
        })
    });
    call.list("projects", projects.collect())
}

/// Lists one table: enough for a SQL client to show something.
pub(crate) fn tables_and_columns(call: &Call) -> CallResult {
    let metastore = call.metastore()?;
    let project = call.params.value("project").unwrap_or("");
    if !metastore.has_project(project) {
        return Err(Failure::refused(format!("Cannot find project '{project}'.")));
    }
    let columns = [(1, "TRANS_ID", -5, "BIGINT"), (2, "PART_DT", 91, "DATE"), (3, "PRICE", 3, "DECIMAL(19,4)")];
    let columns = columns.map(|(position, name, sql_type, type_name)| {
        json!({
            "table_CAT": "defaultCatalog", "table_SCHEM": "DEFAULT", "table_NAME": "KYLIN_SALES",
            "column_NAME": name, "data_TYPE": sql_type, "type_NAME": type_name, "column_SIZE": -1,
            "nullable": 1, "ordinal_POSITION": position, "is_NULLABLE": "YES",
        })
    });
    call.value(json!([{
        "table_CAT": "defaultCatalog", "table_SCHEM": "DEFAULT", "table_NAME": "KYLIN_SALES", "table_TYPE": "TABLE",
        "columns": columns,
    }]))
}

pub(crate) fn cubes(call: &Call) -> CallResult {
    call.metastore()?;
    let cube = json!({
        "uuid": "2fbca32a-a33e-4b69-83dd-0bb8b1f8c53b", "name": CUBE, "project": "learn_kylin", "model": MODEL,
        "status": "READY", "segments": [], "last_modified": LAST_MODIFIED, "version": call.settings.dialect.facts().version,
    });
    call.list("cubes", vec![cube])
}

pub(crate) fn models(call: &Call) -> CallResult {
    call.metastore()?;
    let model = json!({
        "uuid": "0928468a-9fab-4185-9a14-6f2e7c74823f", "name": MODEL, "fact_table": "DEFAULT.KYLIN_SALES",
        "lookups": [], "dimensions": [], "metrics": [], "last_modified": LAST_MODIFIED,
    });
    call.list("models", vec![model])
}

/// Lists the jobs, the last one first.
pub(crate) fn jobs(call: &Call) -> CallResult {
    let limit = if call.settings.version() == KylinVersion::V4 { "limit" } else { "page_size" };
    let limit = call.params.value(limit).and_then(|limit| limit.parse().ok()).unwrap_or(usize::MAX);
    call.list("jobs", call.metastore()?.jobs().iter().rev().take(limit).map(job).collect())
}

/// Responds to `PUT /cubes/{cube}/build`. Each call submits a job, although the method is PUT.
pub(crate) fn build(call: &Call, target: &str) -> CallResult {
    let submitted = submit(call, target)?;
    call.value(job(&submitted))
}

/// Responds to `POST /models/{model}/segments` of Kylin 5.
pub(crate) fn build_model(call: &Call, target: &str) -> CallResult {
    let submitted = submit(call, target)?;
    call.value(json!({"jobs": [{"job_id": submitted.id, "job_name": "INC_BUILD"}]}))
}

pub(crate) fn saved_queries(call: &Call) -> CallResult {
    let saved = call.metastore()?.saved_queries(call.user_name()).into_iter().map(|(id, query)| {
        json!({
            "id": id, "name": query["name"], "project": query["project"], "sql": query["sql"],
            "description": query["description"],
        })
    });
    call.list("queries", saved.collect())
}

/// Saves a query. A repeated call saves it a second time.
pub(crate) fn save_query(call: &Call) -> CallResult {
    call.metastore()?.save_query(call.user_name(), call.json()?);
    call.value(Value::Null)
}

pub(crate) fn delete_query(call: &Call, id: &str) -> CallResult {
    call.metastore()?.delete_query(call.user_name(), id);
    call.value(Value::Null)
}

fn submit(call: &Call, target: &str) -> Result<Job, Failure> {
    let metastore = call.metastore()?;
    if !call.user.as_ref().is_some_and(|user| user.admin) {
        return Err(Failure::refused("Access is denied").with_status(StatusCode::FORBIDDEN));
    }
    let submitted = Job {
        id: uuid(),
        target: target.to_owned(),
        node: call.node.name().to_owned(),
        submitter: call.user_name().to_owned(),
        request_id: request_id(&call.headers).map(str::to_owned),
    };
    metastore.submit(submitted.clone());
    call.node.inner.counts.add(|stats| stats.builds += 1);
    Ok(submitted)
}

pub(crate) fn request_id(headers: &HeaderMap) -> Option<&str> {
    headers.get("x-request-id").and_then(|id| id.to_str().ok())
}

/// Returns a job with the keys of both generations.
fn job(job: &Job) -> Value {
    json!({
        "uuid": job.id, "id": job.id,
        "name": format!("BUILD CUBE - {}", job.target), "job_name": "INC_BUILD",
        "type": "BUILD", "related_cube": job.target, "display_cube_name": job.target, "target_subject": job.target,
        "job_status": "PENDING", "progress": 0.0, "submitter": job.submitter, "steps": [],
        "exec_start_time": 0, "last_modified": LAST_MODIFIED,
    })
}
