//! The paths of the REST interface in both generations.

use http::Response;
use serde_json::Value;

use crate::body::Body;
use crate::kylin::KylinVersion::{V4, V5};
use crate::testing::kylin::api::access::{self, Access};
use crate::testing::kylin::api::call::Call;
use crate::testing::kylin::api::path::Params;
use crate::testing::kylin::api::response::CallResult;
use crate::testing::kylin::api::{admin, catalog, query, servers};
use crate::testing::kylin::dialect::{Dialect, Facts};

/// Returns the access that a path requires. For 2.x-4.x it comes from `kylinSecurity.xml` of 3.1.3,
/// for the paths that this node has.
pub(crate) fn access(dialect: Dialect, path: &str) -> Access {
    let (open, admin) = match dialect.generation() {
        V4 => (
            path.starts_with("user/authentication")
                || path.ends_with("/metrics")
                || path.starts_with("streaming_coordinator/")
                || path == "service_discovery/state/is_active_job_node"
                || path == "projects" && dialect.facts().opens_projects,
            path == "query/runningQueries" || path.starts_with("query/") && path.ends_with("/stop"),
        ),
        V5 => (matches!(path, "health" | "prometheus" | "epoch/maintenance_mode"), false),
    };
    let always_open = matches!(path, "admin/public_config" | "admin/version")
        || path.split('/').any(|segment| segment.starts_with("cache"));
    if open || always_open {
        Access::Everyone
    } else if admin || path.starts_with("admin") {
        Access::Admin
    } else {
        Access::SignedIn
    }
}

/// Responds to a call that its client may make. Returns `None` if there is no such path.
pub(crate) async fn route(call: &Call) -> Option<CallResult> {
    let segments: Vec<&str> = call.path.split('/').collect();
    let Facts { has_version_path, has_service_discovery, .. } = call.settings.dialect.facts();
    Some(match (call.settings.version(), call.method.as_str(), segments.as_slice()) {
        (V4, "GET", ["query", "runningQueries"]) => query::running(call),
        (V4, "PUT", ["query", id, "stop"]) => {
            // An unknown id gets the same response, so a client cannot tell that the query runs on
            // another node.
            call.node.inner.running.stop(id);
            Ok(Response::new(Body::empty()))
        }
        (_, _, ["service_discovery", ..]) if !has_service_discovery => return None,
        (_, _, ["admin", "version"]) if !has_version_path => return None,
        (V4, "GET", ["service_discovery", "state", "is_active_job_node"]) => servers::is_active_job_node(call),
        (V4, "GET", ["service_discovery", "state", "all"]) => servers::discovered(call),
        (V5, "POST", ["query", "format", "csv"]) => {
            query::csv(call, &Params::parse(&String::from_utf8_lossy(&call.body))).await
        }
        (V5, "DELETE", ["query", id]) => {
            // Kylin 5 notifies all nodes by itself.
            call.settings.metastore.stop_everywhere(id);
            call.value(Value::Null)
        }
        (V5, "GET", ["health"]) => servers::health(call),
        (V5, "GET", ["system" | "query", "servers"]) => servers::servers(call),
        (V5, "GET", ["epoch", "maintenance_mode"]) => call.value(Value::Bool(false)),
        (V5, "POST", ["models", model, "segments"]) => catalog::build_model(call, model),
        (_, "GET" | "POST", ["user", "authentication"]) => access::authentication(call),
        (_, "POST", ["query"] | ["query", "prestate"]) => query::json(call).await,
        (_, "GET", ["query", "format", "csv"]) => query::csv(call, &call.params).await,
        (_, "GET", ["projects"]) => catalog::projects(call),
        (_, "GET", ["tables_and_columns"] | ["query", "tables_and_columns"]) => catalog::tables_and_columns(call),
        (_, "GET", ["cubes"]) => catalog::cubes(call),
        (_, "GET", ["models"]) => catalog::models(call),
        (_, "GET", ["jobs"]) => catalog::jobs(call),
        (_, "PUT", ["cubes", cube, "build" | "rebuild" | "build2" | "rebuild2"]) => catalog::build(call, cube),
        (_, "GET", ["saved_queries"]) => catalog::saved_queries(call),
        (_, "POST", ["saved_queries"]) => catalog::save_query(call),
        (_, "DELETE", ["saved_queries", id]) => catalog::delete_query(call, id),
        (_, "GET", ["admin", "version"]) => admin::version(call),
        (_, "GET", ["admin", "public_config"]) => admin::public_config(call),
        (V4, "GET", ["admin", "config"]) => admin::config(call),
        (V4, "PUT", ["admin", "config"]) => admin::set_config(call),
        (_, "PUT" | "POST", ["cache", ..]) => admin::cache(call),
        _ => return None,
    })
}
