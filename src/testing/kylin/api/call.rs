//! One call of the REST interface: everything that a handler may look at.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method};
use serde_json::Value;

use crate::kylin::KylinVersion;
use crate::testing::kylin::KylinNode;
use crate::testing::kylin::api::access::{self, Access};
use crate::testing::kylin::api::admin;
use crate::testing::kylin::api::catalog;
use crate::testing::kylin::api::path::Params;
use crate::testing::kylin::api::query;
use crate::testing::kylin::api::response::{Answer, Failure, Shape, ok};
use crate::testing::kylin::api::v4;
use crate::testing::kylin::api::v5;
use crate::testing::kylin::data::metastore::User;
use crate::testing::kylin::settings::Settings;

pub(crate) struct Call {
    pub(crate) node: KylinNode,
    pub(crate) settings: Arc<Settings>,
    pub(crate) method: Method,
    /// Normalised, without the `/kylin/api/` before it.
    pub(crate) path: String,
    pub(crate) params: Params,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// Who calls; nobody where the path is open to everyone and no credentials came.
    pub(crate) user: Option<User>,
}

impl Call {
    pub(crate) fn shape(&self) -> Shape {
        Shape::of(self.settings.version, &self.headers)
    }

    /// `value`, wrapped as the client expects it.
    pub(crate) fn value(&self, value: Value) -> Answer {
        Ok(ok(&self.shape().wrap(value)))
    }

    /// A list, wrapped as the client expects it.
    pub(crate) fn list(&self, name: &str, items: Vec<Value>) -> Answer {
        Ok(ok(&self.shape().wrap_list(name, items)))
    }

    pub(crate) fn user_name(&self) -> &str {
        self.user.as_ref().map_or("anonymous", |user| &user.name)
    }

    pub(crate) fn json(&self) -> Result<Value, Failure> {
        if self.body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&self.body)
            .map_err(|error| Failure::refused(format!("Could not read JSON document: {error}")))
    }

    /// Fails when the node's metastore cannot be reached.
    pub(crate) fn metastore(&self) -> Result<&crate::testing::kylin::Metastore, Failure> {
        if self.node.metastore_is_down(&self.settings) {
            return Err(Failure::metastore_down());
        }
        Ok(&self.settings.metastore)
    }
}

/// Answers a call of somebody who may make it; `None` when there is no such path.
pub(crate) async fn route(call: &Call) -> Option<Answer> {
    let segments: Vec<&str> = call.path.split('/').collect();
    let segments = segments.as_slice();
    let method = call.method.as_str();
    let own = match call.settings.version {
        KylinVersion::V4 => v4::route(call, method, segments).await,
        KylinVersion::V5 => v5::route(call, method, segments).await,
    };
    if own.is_some() {
        return own;
    }
    Some(match (method, segments) {
        ("GET" | "POST", ["user", "authentication"]) => access::authentication(call),
        ("GET", ["query", "format", "csv"]) => query::csv(call, &call.params).await,
        ("GET", ["projects"]) => catalog::projects(call),
        ("GET", ["tables_and_columns"] | ["query", "tables_and_columns"]) => catalog::tables_and_columns(call),
        ("GET", ["cubes"]) => catalog::cubes(call),
        ("GET", ["models"]) => catalog::models(call),
        ("GET", ["jobs"]) => catalog::jobs(call),
        ("PUT", ["cubes", cube, "build" | "rebuild" | "build2" | "rebuild2"]) => catalog::build(call, cube),
        ("GET", ["saved_queries"]) => catalog::saved_queries(call),
        ("POST", ["saved_queries"]) => catalog::save_query(call),
        ("DELETE", ["saved_queries", id]) => catalog::delete_query(call, id),
        ("GET", ["admin", "version"]) => admin::version(call),
        ("GET", ["admin", "public_config"]) => admin::public_config(call),
        ("GET", ["admin", "config"]) => admin::config(call),
        ("PUT", ["admin", "config"]) => admin::set_config(call),
        ("PUT" | "POST", ["cache", ..]) => admin::cache(call),
        _ => return None,
    })
}

/// Who may make a call.
pub(crate) fn access(dialect: KylinVersion, path: &str) -> Access {
    match dialect {
        KylinVersion::V4 => v4::access(path),
        KylinVersion::V5 => v5::access(path),
    }
}
