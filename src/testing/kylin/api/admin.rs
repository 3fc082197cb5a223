//! The administration calls that a front end uses, or must close to clients.

use std::collections::BTreeMap;

use http::Response;
use serde_json::{Value, json};

use crate::body::Body;
use crate::testing::kylin::Mode;
use crate::testing::kylin::api::call::Call;
use crate::testing::kylin::api::response::{CallResult, Failure};

/// Responds with the version, which is the cheapest proof that a node is Kylin.
pub(crate) fn version(call: &Call) -> CallResult {
    let version = call.settings.dialect.facts().version;
    call.value(json!({"kylin.version": version, "kylin.version.commitId": "0000000000000000000000000000000000000000"}))
}

/// Responds with the few properties that every client may see.
pub(crate) fn public_config(call: &Call) -> CallResult {
    call.value(json!({"config": "kylin.web.timezone=UTC\nkylin.web.query-timeout=300000\n"}))
}

/// Responds with all properties, which include the metastore's URL and the password in it.
pub(crate) fn config(call: &Call) -> CallResult {
    let metastore = &call.settings.metastore;
    let list = |form: fn(&(String, Mode)) -> String| metastore.servers().iter().map(form).collect::<Vec<_>>().join(",");
    // The scheduler that elects a leader, or the one that locks each job in ZooKeeper, so that
    // several nodes may run jobs.
    let scheduler = if call.settings.active_job_node.is_some() { "100" } else { "2" };
    let mut properties = BTreeMap::from([
        ("kylin.job.scheduler.default".to_owned(), scheduler.to_owned()),
        ("kylin.metadata.url".to_owned(), metastore.url()),
        ("kylin.server.mode".to_owned(), call.settings.mode.as_str().to_owned()),
        ("kylin.server.cluster-servers".to_owned(), list(|(address, _)| address.clone())),
        (
            "kylin.server.cluster-servers-with-mode".to_owned(),
            list(|(address, mode)| format!("{address}:{}", mode.as_str())),
        ),
    ]);
    properties.extend(call.node.inner.overrides.lock().clone());
    let lines: String = properties.iter().map(|(key, value)| format!("{key}={value}\n")).collect();
    call.value(json!({"config": lines}))
}

/// Changes a property of this node.
pub(crate) fn set_config(call: &Call) -> CallResult {
    let change = call.json()?;
    let (Some(key), Some(value)) = (change["key"].as_str(), change["value"].as_str()) else {
        return Err(Failure::refused("key and value are needed"));
    };
    call.node.inner.overrides.lock().insert(key.to_owned(), value.to_owned());
    call.value(Value::Null)
}

/// Accepts the nodes' notifications about changed metadata. Kylin requires no login for this.
pub(crate) fn cache(call: &Call) -> CallResult {
    call.node.inner.counts.add(|stats| stats.cache_calls += 1);
    Ok(Response::new(Body::empty()))
}
