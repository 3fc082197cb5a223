//! What is peculiar to Kylin and KAP 2.x-4.x.

use serde_json::{Value, json};

use crate::testing::kylin::api::access::Access;
use crate::testing::kylin::api::admin;
use crate::testing::kylin::api::call::Call;
use crate::testing::kylin::api::query::{self, Ask, Refusal};
use crate::testing::kylin::api::response;
use crate::testing::kylin::api::response::{Answer, Failure};
use crate::testing::kylin::settings::Mode;

/// `kylinSecurity.xml` of 3.1.3, as far as the node has the paths.
pub(crate) fn access(path: &str) -> Access {
    let open = path.starts_with("user/authentication")
        || path.ends_with("/metrics")
        || path.split('/').any(|segment| segment.starts_with("cache"))
        || path.starts_with("streaming_coordinator/")
        || matches!(path, "service_discovery/state/is_active_job_node" | "admin/public_config" | "admin/version");
    if open {
        return Access::Everyone;
    }
    let stop = path.starts_with("query/") && path.ends_with("/stop");
    if stop || path == "query/runningQueries" || path.starts_with("admin") {
        return Access::Admin;
    }
    Access::SignedIn
}

pub(crate) async fn route(call: &Call, method: &str, segments: &[&str]) -> Option<Answer> {
    Some(match (method, segments) {
        ("POST", ["query"] | ["query", "prestate"]) => query::answer(call).await,
        ("GET", ["query", "runningQueries"]) => running(call),
        ("PUT", ["query", id, "stop"]) => {
            // An unknown id is answered alike: nobody can tell that the query runs on another node.
            call.node.inner.running.stop(id);
            Ok(http::Response::new(crate::body::Body::empty()))
        }
        ("GET", ["service_discovery", "state", "is_active_job_node"]) => admin::is_active_job_node(call),
        ("GET", ["service_discovery", "state", "all"]) => admin::discovered(call),
        _ => return None,
    })
}

pub(crate) async fn query(call: &Call, ask: Ask) -> Answer {
    let ran = query::run(call, ask).await.map_err(failure)?;
    let millis = u64::try_from(ran.duration.as_millis()).unwrap_or(u64::MAX);
    Ok(ran.json(|columns, rows| {
        call.shape().wrap(json!({
            "columnMetas": columns,
            "results": rows,
            "cube": "CUBE[name=kylin_sales_cube]",
            "affectedRowCount": 0,
            "isException": false,
            "exceptionMessage": null,
            "duration": millis,
            "totalScanCount": 0,
            "totalScanBytes": 0,
            "hitExceptionCache": false,
            "storageCacheUsed": false,
            "traceUrl": null,
            "pushDown": false,
            "partial": false,
        }))
    }))
}

/// A typo in the SQL is an HTTP 500; what was refused unexecuted is a 400.
pub(crate) fn failure(refusal: Refusal) -> Failure {
    match refusal {
        Refusal::JobMode => Failure::refused(format!("Query is not allowed in '{}' mode.", Mode::Job.as_str())),
        Refusal::TooMany => Failure::refused("Too many concurrent query requests."),
        Refusal::Invalid(message) => Failure::refused(message),
        Refusal::Failed(message) => Failure::internal(message),
    }
}

/// The queries of this node; the other nodes have to be asked for theirs.
fn running(call: &Call) -> Answer {
    let queries: Vec<Value> = call
        .node
        .inner
        .running
        .list()
        .iter()
        .map(|query| {
            json!({
                "queryId": query.id, "sql": query.sql, "username": query.user, "project": query.project,
                "status": "RUNNING", "server": call.node.name(),
            })
        })
        .collect();
    Ok(response::ok(&Value::Array(queries)))
}
