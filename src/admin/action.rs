//! The actions that change the state.

use std::num::NonZeroU32;
use std::sync::Arc;

use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Shared;
use super::refusal::Refusal;
use crate::endpoint::{AdminState, EndpointId};
use crate::request::ClientAddr;
use crate::session::BoxFuture;

/// nginx's limit for a weight.
const MAX_WEIGHT: u32 = 65_535;

/// The application's functions behind actions.
#[derive(Default)]
pub(super) struct Hooks {
    pub(super) reload: Option<Arc<Reload>>,
    pub(super) log_level: Option<Arc<SetLogLevel>>,
}

pub(super) type Reload = dyn Fn() -> BoxFuture<'static, Result<String, String>> + Send + Sync;
pub(super) type SetLogLevel = dyn Fn(&str) -> Result<(), String> + Send + Sync;

/// The body of an action.
#[derive(Debug, Deserialize)]
#[serde(tag = "action", rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum Action {
    Ready { endpoint: String, cluster: Option<String> },
    Drain { endpoint: String, cluster: Option<String> },
    Maintenance { endpoint: String, cluster: Option<String> },
    Weight { endpoint: String, cluster: Option<String>, weight: u32 },
    Reload {},
    LogLevel { level: String },
}

/// The result of an action.
#[derive(Debug, Serialize)]
pub(super) struct Done {
    /// The result, in one line.
    done: String,
    /// The endpoint as it is in the status.
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<Value>,
}

impl Shared {
    /// Performs an action of the operator at `peer`, and logs it.
    pub(super) async fn perform(&self, peer: ClientAddr, action: Action) -> Result<Done, Refusal> {
        match &action {
            Action::Ready { endpoint, cluster } => self.set_state(peer, endpoint, cluster, AdminState::Ready),
            Action::Drain { endpoint, cluster } => self.set_state(peer, endpoint, cluster, AdminState::Drain),
            Action::Maintenance { endpoint, cluster } => {
                self.set_state(peer, endpoint, cluster, AdminState::Maintenance)
            }
            Action::Weight { endpoint, cluster, weight } => {
                let in_range = NonZeroU32::new(*weight).filter(|weight| weight.get() <= MAX_WEIGHT);
                let weight = in_range
                    .ok_or_else(|| Refusal::new(StatusCode::BAD_REQUEST, "a weight is a number from 1 to 65535"))?;
                self.change(peer, endpoint, cluster, &format!("weight {weight}"), |found, id| {
                    found.set_weight(id, weight).is_ok()
                })
            }
            Action::Reload {} => {
                let reload = self.hooks.reload.as_ref().ok_or_else(|| not_offered("reload"))?;
                let reloaded = reload().await;
                log(peer, "reload", reloaded.is_ok());
                let done = reloaded.map_err(|error| Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, error))?;
                Ok(Done { done, endpoint: None })
            }
            Action::LogLevel { level } => {
                let set = self.hooks.log_level.as_ref().ok_or_else(|| not_offered("log-level"))?;
                // Logged before the level is set, because the new level may hide the line.
                tracing::warn!(peer = %shown(peer), ?level, "operator sets the log level");
                set(level).map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, error))?;
                log(peer, "log-level", true);
                *self.log_level.lock() = Some(level.clone());
                Ok(Done { done: format!("log level {level}"), endpoint: None })
            }
        }
    }

    fn set_state(
        &self,
        peer: ClientAddr,
        endpoint: &str,
        cluster: &Option<String>,
        state: AdminState,
    ) -> Result<Done, Refusal> {
        self.change(peer, endpoint, cluster, state.as_str(), |found, id| found.set_admin_state(id, state).is_ok())
    }

    fn change(
        &self,
        peer: ClientAddr,
        endpoint: &str,
        cluster: &Option<String>,
        what: &str,
        change: impl FnOnce(&dyn super::monitored::AnyCluster, &EndpointId) -> bool,
    ) -> Result<Done, Refusal> {
        let unknown = || Refusal::new(StatusCode::NOT_FOUND, format!("no endpoint is named {endpoint}"));
        let id: EndpointId = endpoint.parse().map_err(|_| unknown())?;
        let clusters = self.monitored.lock().clusters();
        let of_name = clusters.iter().filter(|(name, _)| cluster.as_ref().is_none_or(|cluster| **name == **cluster));
        let mut found =
            of_name.filter(|(_, cluster)| cluster.status().endpoints.iter().any(|endpoint| endpoint.id == id));
        let (name, cluster) = found.next().ok_or_else(unknown)?;
        if found.next().is_some() {
            let message = format!("several clusters have an endpoint named {endpoint}: name the cluster");
            return Err(Refusal::new(StatusCode::CONFLICT, message));
        }
        if !change(&**cluster, &id) {
            return Err(unknown());
        }
        tracing::info!(endpoint = id.as_str(), cluster = &**name, peer = %shown(peer), "operator: {what}");
        let now = super::status::endpoint(self, name, &id);
        Ok(Done { done: format!("{endpoint}: {what}"), endpoint: now })
    }
}

fn not_offered(verb: &str) -> Refusal {
    Refusal::new(StatusCode::NOT_IMPLEMENTED, format!("this front end does not offer {verb}"))
}

fn log(peer: ClientAddr, verb: &str, succeeded: bool) {
    tracing::info!(peer = %shown(peer), succeeded, "operator: {verb}");
}

fn shown(peer: ClientAddr) -> String {
    match peer {
        ClientAddr::Inet(address) => address.to_string(),
        ClientAddr::Unix => "unix".to_owned(),
    }
}
