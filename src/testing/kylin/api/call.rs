//! One call of the REST interface, with everything that a handler needs to know.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method};
use serde_json::Value;

use crate::testing::kylin::api::path::Params;
use crate::testing::kylin::api::response::{CallResult, Envelope, Failure, ok};
use crate::testing::kylin::data::sessions::User;
use crate::testing::kylin::settings::Settings;
use crate::testing::kylin::{KylinNode, Metastore};

pub(crate) struct Call {
    pub(crate) node: KylinNode,
    pub(crate) settings: Arc<Settings>,
    pub(crate) method: Method,
    /// Normalised, without the leading `/kylin/api/`.
    pub(crate) path: String,
    pub(crate) params: Params,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// The user who calls; `None` if the path is open to everyone and the request has no
    /// credentials.
    pub(crate) user: Option<User>,
}

impl Call {
    pub(crate) fn envelope(&self) -> Envelope {
        Envelope::of(self.settings.version(), &self.headers)
    }

    /// Responds with `value`, wrapped as the client expects it.
    pub(crate) fn value(&self, value: Value) -> CallResult {
        Ok(ok(&self.envelope().wrap(value)))
    }

    /// Responds with a list, wrapped as the client expects it.
    pub(crate) fn list(&self, name: &str, items: Vec<Value>) -> CallResult {
        Ok(ok(&self.envelope().wrap_list(name, items)))
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

    /// Returns the metastore, unless the node cannot reach it.
    pub(crate) fn metastore(&self) -> Result<&Metastore, Failure> {
        if self.node.metastore_is_down(&self.settings) {
            return Err(Failure::metastore_down());
        }
        Ok(&self.settings.metastore)
    }
}
