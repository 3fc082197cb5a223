//! The calls about the nodes of the cluster and their health.

use http::StatusCode;
use serde_json::{Value, json};

use crate::testing::kylin::Mode;
use crate::testing::kylin::api::call::Call;
use crate::testing::kylin::api::response::{CallResult, Failure, json_response, ok};

/// Responds to `is_active_job_node` of 2.x-4.x: a bare boolean, or a 500 if no leader is elected.
pub(crate) fn is_active_job_node(call: &Call) -> CallResult {
    match call.settings.active_job_node {
        Some(active) => Ok(ok(&Value::Bool(active))),
        None => Err(Failure::internal("the job scheduler of this node elects no leader")),
    }
}

/// Responds to `/service_discovery/state/all` of 2.x-4.x: the nodes that service discovery knows.
pub(crate) fn discovered(call: &Call) -> CallResult {
    let servers = call.settings.metastore.servers();
    let without = |excluded: Option<Mode>| -> Vec<&str> {
        servers.iter().filter(|(_, mode)| Some(*mode) != excluded).map(|(address, _)| address.as_str()).collect()
    };
    let jobs = without(Some(Mode::Query));
    let leader = jobs.get(..1).unwrap_or_default();
    let data = json!({
        "allNodes": without(None),
        "jobNodes": jobs,
        "queryNodes": without(Some(Mode::Job)),
        "selectedLeaders": leader,
        "activeJobNodes": leader,
    });
    Ok(ok(&json!({"code": "000", "data": data, "msg": "get service discovery's state"})))
}

/// Responds to `/health` of Kylin 5.
pub(crate) fn health(call: &Call) -> CallResult {
    let (status, word) = match call.metastore() {
        Ok(_) => (StatusCode::OK, "UP"),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "DOWN"),
    };
    let components = json!({"metaStore": {"status": word}, "sparkSqlContext": {"status": "UP"}});
    Ok(json_response(status, &json!({"status": word, "components": components})))
}

/// Responds to `/system/servers` of Kylin 5.
pub(crate) fn servers(call: &Call) -> CallResult {
    let nodes = call.metastore()?.servers();
    if call.params.value("ext") == Some("true") {
        let extended =
            |(address, mode): &(String, Mode)| json!({"host": address, "mode": mode.as_str(), "secretName": null});
        return call.value(nodes.iter().map(extended).collect());
    }
    let addresses: Value = nodes.into_iter().map(|(address, _)| address).collect();
    let status = json!({"maintenance_mode": false, "maintenance_mode_reason": null});
    call.value(json!({"status": status, "servers": addresses}))
}
