//! The administration calls that a front end meets, or must keep outsiders from.

use std::collections::BTreeMap;

use http::Response;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::body::Body;
use crate::testing::kylin::api::call::Call;
use crate::testing::kylin::api::response::{Answer, Failure, ok};

/// Properties changed with `PUT /admin/config`: on this node and on no other, which is how clusters drift apart.
#[derive(Default)]
pub(crate) struct Overrides(Mutex<BTreeMap<String, String>>);

/// The cheapest answer that proves a node to be Kylin.
pub(crate) fn version(call: &Call) -> Answer {
    call.value(json!({
        "kylin.version": call.settings.reported_version,
        "kylin.version.commitId": "0000000000000000000000000000000000000000",
    }))
}

/// The few properties that everybody may see.
pub(crate) fn public_config(call: &Call) -> Answer {
    call.value(json!({"config": "kylin.web.timezone=UTC\nkylin.web.query-timeout=300000\n"}))
}

/// All properties: with the metastore's URL and the password inside it.
pub(crate) fn config(call: &Call) -> Answer {
    let metastore = &call.settings.metastore;
    let servers = metastore.servers();
    let names: Vec<String> = servers.iter().map(|(addr, _)| addr.to_string()).collect();
    let with_mode: Vec<String> = servers.iter().map(|(addr, mode)| format!("{addr}:{}", mode.as_str())).collect();
    let mut properties = BTreeMap::from([
        ("kylin.metadata.url".to_owned(), metastore.url()),
        ("kylin.server.mode".to_owned(), call.settings.mode.as_str().to_owned()),
        ("kylin.server.cluster-servers".to_owned(), names.join(",")),
        ("kylin.server.cluster-servers-with-mode".to_owned(), with_mode.join(",")),
    ]);
    properties.extend(call.node.inner.overrides.0.lock().clone());
    let lines: String = properties.iter().map(|(key, value)| format!("{key}={value}\n")).collect();
    call.value(json!({"config": lines}))
}

/// Changes a property of this node.
pub(crate) fn set_config(call: &Call) -> Answer {
    let change = call.json()?;
    let (Some(key), Some(value)) = (change["key"].as_str(), change["value"].as_str()) else {
        return Err(Failure::refused("key and value are needed"));
    };
    call.node.inner.overrides.0.lock().insert(key.to_owned(), value.to_owned());
    call.value(Value::Null)
}

/// What nodes tell each other about changed metadata. Kylin asks no login for it.
pub(crate) fn cache(call: &Call) -> Answer {
    call.node.inner.counts.add(|stats| stats.cache_calls += 1);
    Ok(Response::new(Body::empty()))
}

/// `is_active_job_node`: a bare boolean, or a 500 where no leader is elected.
pub(crate) fn is_active_job_node(call: &Call) -> Answer {
    match call.settings.active_job_node {
        Some(active) => Ok(ok(&Value::Bool(active))),
        None => Err(Failure::internal("the job scheduler of this node elects no leader")),
    }
}

/// Which nodes service discovery knows.
pub(crate) fn discovered(call: &Call) -> Answer {
    let servers = call.settings.metastore.servers();
    let those = |keep: fn(&str) -> bool| -> Vec<String> {
        servers.iter().filter(|(_, mode)| keep(mode.as_str())).map(|(addr, _)| addr.to_string()).collect()
    };
    let jobs = those(|mode| mode != "query");
    let data = json!({
        "allNodes": those(|_| true),
        "jobNodes": jobs,
        "queryNodes": those(|mode| mode != "job"),
        "selectedLeaders": jobs.first().into_iter().collect::<Vec<_>>(),
        "activeJobNodes": jobs.first().into_iter().collect::<Vec<_>>(),
    });
    Ok(ok(&json!({"code": "000", "data": data, "msg": "get service discovery's state"})))
}
