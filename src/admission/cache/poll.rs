//! Asks a node for the last job of each project.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Request, StatusCode, Uri};
use tokio::time::Instant;

use super::projects::Project;
use crate::backend::Backend;
use crate::backend::node_client::NodeClient;
use crate::clock::timer_in;
use crate::cluster::Cluster;
use crate::cookie::CookieJar;
use crate::endpoint::{AdminState, Member};
use crate::kylin::node::jobs;

/// The time between two checks of a project.
pub(super) const INTERVAL: Duration = Duration::from_secs(10);

/// The timeout for a node's response.
const TIMEOUT: Duration = Duration::from_secs(3);

/// The time until credentials that a node rejected are sent again, because Kylin 5 locks a user
/// after three wrong passwords.
const LOGIN_PAUSE: Duration = Duration::from_secs(600);

/// The maximum number of nodes that are asked for one project.
const MAX_NODES: usize = 3;

/// Kylin 2.x-4.x produces only the first type, Kylin 5 only the others.
const ACCEPT: HeaderValue = HeaderValue::from_static(
    "application/json, application/vnd.apache.kylin-v4-public+json;q=0.9, application/vnd.apache.kylin-v4+json;q=0.8",
);

/// The reason why builds cannot be followed.
#[derive(Debug, thiserror::Error)]
pub(super) enum PollError {
    #[error("the cluster has no node to ask")]
    NoNode,
    #[error("{endpoint} rejects the login of the cache, which is not sent again for ten minutes")]
    Login { endpoint: String },
    #[error("{endpoint} does not let the login of the cache see the jobs of project {project}")]
    Denied { endpoint: String, project: String },
    #[error("{endpoint} has no list of jobs at /kylin/api/jobs: {what}")]
    NoList { endpoint: String, what: String },
    #[error("{endpoint} does not respond: {what}")]
    Unreachable { endpoint: String, what: String },
}

/// Asks the same node for as long as it responds. So only one session is created. A node that
/// learns of a build later than others then does not look like a change.
pub(super) struct Poller {
    authorization: HeaderValue,
    /// The uid of the endpoint that is asked, and its cookies.
    node: Option<u64>,
    cookies: CookieJar,
    /// The time until which the login is not sent, and the endpoint that rejected it.
    paused: Option<(Instant, String)>,
}

impl Poller {
    pub(super) fn new(authorization: HeaderValue) -> Self {
        Poller { authorization, node: None, cookies: CookieJar::default(), paused: None }
    }

    /// Returns the last change in the list of the project's jobs.
    pub(super) async fn last_change<B: Backend>(
        &mut self,
        cluster: &Cluster<B>,
        project: &Project,
    ) -> Result<String, PollError> {
        if let Some((until, endpoint)) = &self.paused
            && timer_in(Duration::ZERO) < *until
        {
            return Err(PollError::Login { endpoint: endpoint.clone() });
        }
        let mut members = cluster.members();
        members.retain(|(member, _)| {
            member.settings.admin_state != AdminState::Maintenance && !member.live.health.is_quarantined()
        });
        // Unhealthy nodes come last, because they may still respond.
        members.sort_by_key(|(member, _)| (member.is_withheld(false, true), Some(member.live.uid) != self.node));
        let mut last_error = PollError::NoNode;
        for (member, backend) in members.into_iter().take(MAX_NODES) {
            match self.ask(&member, backend, project).await {
                Err(PollError::Login { endpoint }) => {
                    self.paused = Some((timer_in(LOGIN_PAUSE), endpoint.clone()));
                    return Err(PollError::Login { endpoint });
                }
                Err(error) => last_error = error,
                last_change => return last_change,
            }
        }
        Err(last_error)
    }

    async fn ask<B: Backend>(
        &mut self,
        member: &Member,
        backend: Arc<B>,
        project: &Project,
    ) -> Result<String, PollError> {
        let endpoint = member.settings.id.to_string();
        if self.node != Some(member.live.uid) {
            self.node = Some(member.live.uid);
            self.cookies.clear();
        }
        let mut request = Request::new(Bytes::new());
        let target = Uri::try_from(jobs::target(&project.name));
        *request.uri_mut() =
            target.map_err(|error| PollError::NoList { endpoint: endpoint.clone(), what: error.to_string() })?;
        let headers = request.headers_mut();
        headers.insert(header::AUTHORIZATION, self.authorization.clone());
        headers.insert(header::ACCEPT, ACCEPT);
        if let Some(cookies) = self.cookies.header() {
            headers.insert(header::COOKIE, cookies);
        }
        let client = NodeClient::new(backend, &member.settings.placement, TIMEOUT);
        let unreachable = |what: String| PollError::Unreachable { endpoint: endpoint.clone(), what };
        let response = client.send(request).await.map_err(|error| unreachable(error.to_string()))?;
        self.cookies.store(&response.headers);
        match response.status {
            StatusCode::OK => {
                let body = response.body.map_err(|error| unreachable(error.to_string()))?;
                let change = jobs::last_change(&body);
                change.ok_or(PollError::NoList { endpoint, what: "the response is no list of jobs".into() })
            }
            StatusCode::UNAUTHORIZED => {
                self.cookies.clear();
                Err(PollError::Login { endpoint })
            }
            StatusCode::FORBIDDEN => Err(PollError::Denied { endpoint, project: project.name.to_string() }),
            status => Err(PollError::NoList { endpoint, what: status.to_string() }),
        }
    }
}
