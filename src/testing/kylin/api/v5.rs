//! What is peculiar to Kylin 5 and Kyligence Enterprise 4.

use http::{StatusCode, header};
use serde_json::{Value, json};

use crate::testing::kylin::api::access::Access;
use crate::testing::kylin::api::call::Call;
use crate::testing::kylin::api::catalog;
use crate::testing::kylin::api::path::Params;
use crate::testing::kylin::api::query::{self, Ask, Refusal};
use crate::testing::kylin::api::response::{self, Answer, Failure};

pub(crate) fn access(path: &str) -> Access {
    let open = matches!(path, "health" | "prometheus" | "admin/public_config" | "admin/version")
        || path == "epoch/maintenance_mode"
        || path.split('/').any(|segment| segment.starts_with("cache"));
    if open {
        return Access::Everyone;
    }
    if path.starts_with("admin") { Access::Admin } else { Access::SignedIn }
}

pub(crate) async fn route(call: &Call, method: &str, segments: &[&str]) -> Option<Answer> {
    Some(match (method, segments) {
        ("POST", ["query"] | ["query", "prestate"]) => match demand_user_agent(call) {
            Ok(()) => query::answer(call).await,
            Err(refused) => Err(refused),
        },
        ("POST", ["query", "format", "csv"]) => {
            let form = Params::parse(&String::from_utf8_lossy(&call.body));
            query::csv(call, &form).await
        }
        ("DELETE", ["query", id]) => {
            // Kylin 5 tells all nodes by itself.
            call.settings.metastore.stop_everywhere(id);
            call.value(Value::Null)
        }
        ("GET", ["health"]) => Ok(health(call)),
        ("GET", ["system" | "query", "servers"]) => servers(call),
        ("GET", ["epoch", "maintenance_mode"]) => call.value(Value::Bool(false)),
        ("GET", ["monitor", "status"]) => monitor(call),
        ("POST", ["models", model, "segments"]) => catalog::build_model(call, model),
        _ => return None,
    })
}

/// A query that fails is an HTTP 200 with `isException`; only what is thrown before it begins is an HTTP error.
pub(crate) async fn query(call: &Call, ask: Ask) -> Answer {
    let ran = match query::run(call, ask).await {
        Ok(ran) => ran,
        Err(Refusal::Failed(message)) => return exception(call, &message),
        Err(Refusal::TooMany) => return exception(call, TOO_MANY),
        Err(refusal) => return Err(failure(refusal)),
    };
    let millis = u64::try_from(ran.duration.as_millis()).unwrap_or(u64::MAX);
    Ok(ran.json(|columns, rows| {
        let mut data = result(call);
        data["columnMetas"] = columns;
        data["results"] = rows;
        data["resultRowCount"] = 1.into();
        data["duration"] = millis.into();
        data["queryId"] = ran.id.as_str().into();
        call.shape().wrap(data)
    }))
}

/// The error of a query outside of `POST /query`.
pub(crate) fn failure(refusal: Refusal) -> Failure {
    match refusal {
        Refusal::JobMode => Failure::internal("Query is not available on a job node.").with_code("KE-040023202"),
        Refusal::TooMany => Failure::internal(TOO_MANY),
        Refusal::Invalid(message) | Refusal::Failed(message) => Failure::internal(message),
    }
}

const TOO_MANY: &str = "Too many concurrent query requests.";

fn exception(call: &Call, message: &str) -> Answer {
    let mut data = result(call);
    data["isException"] = true.into();
    data["exceptionMessage"] = message.into();
    call.value(data)
}

/// A result with no rows yet.
fn result(call: &Call) -> Value {
    json!({
        "columnMetas": [],
        "results": [],
        "duration": 0,
        "totalScanRows": 0,
        "totalScanBytes": 0,
        "resultRowCount": 0,
        "hitExceptionCache": false,
        "storageCacheUsed": false,
        "storageCacheType": null,
        "queryId": crate::testing::kylin::data::sessions::uuid(),
        "server": format!("{}:7070", call.node.name()),
        "engineType": "NATIVE",
        "isException": false,
        "exceptionMessage": null,
        "pushDown": false,
        "appMasterURL": "/kylin/sparder/SQL/execution/?id=0",
        "traces": [],
    })
}

/// The query controller declares the header as required.
fn demand_user_agent(call: &Call) -> Result<(), Failure> {
    if call.headers.contains_key(header::USER_AGENT) {
        return Ok(());
    }
    Err(Failure::refused("Missing request header 'User-Agent' for method parameter of type String"))
}

fn health(call: &Call) -> http::Response<crate::body::Body> {
    let (status, word) = match call.metastore() {
        Ok(_) => (StatusCode::OK, "UP"),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "DOWN"),
    };
    let components = json!({"metaStore": {"status": word}, "sparkSqlContext": {"status": "UP"}});
    response::json(status, &json!({"status": word, "components": components}))
}

fn servers(call: &Call) -> Answer {
    let nodes = call.metastore()?.servers();
    let extended = call.params.value("ext") == Some("true");
    let servers: Vec<Value> = nodes
        .iter()
        .map(|(addr, mode)| match extended {
            true => json!({"host": addr.to_string(), "mode": mode.as_str(), "secretName": null}),
            false => addr.to_string().into(),
        })
        .collect();
    match extended {
        true => call.value(Value::Array(servers)),
        false => call.value(json!({
            "status": {"maintenance_mode": false, "maintenance_mode_reason": null},
            "servers": servers,
        })),
    }
}

fn monitor(call: &Call) -> Answer {
    let nodes = call.metastore()?.servers();
    let good: Vec<Value> =
        nodes.iter().map(|(addr, _)| json!({"instance": addr.to_string(), "status": "GOOD"})).collect();
    call.value(json!({
        "active_instances": nodes.len(), "query_status": "GOOD", "job_status": "GOOD", "job": good, "query": good,
    }))
}
