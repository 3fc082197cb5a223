//! Collects the evidence of one node about its metastore.

use std::time::Duration;

use http::header::SET_COOKIE;
use http::{HeaderValue, StatusCode};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::backend::node_client::{NodeClient, NodeResponse};
use crate::clock::timer_in;
use crate::cookie::CookieJar;
use crate::kylin::node::identity::Evidence;

const PROJECTS: &str = "/kylin/api/projects";
const CONFIG: &str = "/kylin/api/admin/config";

/// The time until credentials that a node rejected are sent again.
const LOGIN_PAUSE: Duration = Duration::from_secs(600);
/// After this many rejections in a row, no node gets the credentials, because Kylin 5 locks a user
/// after three.
const MAX_REJECTIONS: u32 = 2;

/// Credentials that all checks share. The nodes of one cluster count wrong passwords together.
pub(super) struct Login {
    authorization: HeaderValue,
    /// Locked while a node is checked, so that rejections are counted one by one.
    rejections: Mutex<Rejections>,
}

#[derive(Default)]
struct Rejections {
    in_a_row: u32,
    paused_until: Option<Instant>,
}

/// The state of a node that is kept from check to check.
#[derive(Default)]
pub(super) struct NodeSession {
    anonymous: CookieJar,
    logged_in: CookieJar,
    /// The time at which a node that rejected the credentials may get them again.
    login_paused_until: Option<Instant>,
}

/// The result of one check.
#[derive(Default)]
pub(super) struct Identification {
    pub(super) evidence: Evidence,
    /// Whether the node responded at all.
    pub(super) responded: bool,
    pub(super) login_rejected: bool,
}

/// Checks one node.
pub(super) async fn identify(client: &NodeClient, login: Option<&Login>, session: &mut NodeSession) -> Identification {
    let mut result = Identification::default();
    // To a request without credentials, Kylin 5 sends 401 with a session cookie, and Kylin 2.6 may
    // send the projects.
    let Ok(first) = client.get(PROJECTS, None, &mut session.anonymous).await else { return result };
    result.responded = true;
    learn(&mut result.evidence, PROJECTS, &first);
    if first.headers.contains_key(SET_COOKIE) {
        // A node sets no new cookie if it gets a valid one. The node may return to an earlier
        // metastore, so its last cookies are kept.
        session.anonymous.clear();
        session.anonymous.store(&first.headers);
    }
    if let Some(login) = login {
        result.login_rejected = login.identify(client, session, &mut result.evidence).await;
    }
    result
}

impl Login {
    pub(super) fn new(authorization: HeaderValue) -> Self {
        Login { authorization, rejections: Mutex::default() }
    }

    /// Collects the evidence that the node shows to the user, unless the login is paused. Returns
    /// whether the node rejects the login.
    async fn identify(&self, client: &NodeClient, session: &mut NodeSession, evidence: &mut Evidence) -> bool {
        let mut rejections = self.rejections.lock().await;
        let now = timer_in(Duration::ZERO);
        let is_paused = |until: Option<Instant>| until.is_some_and(|until| now < until);
        if is_paused(rejections.paused_until) || is_paused(session.login_paused_until) {
            return false;
        }
        for path in [CONFIG, PROJECTS] {
            let response = client.get(path, Some(&self.authorization), &mut session.logged_in).await;
            let Ok(response) = response else { return false };
            if response.status == StatusCode::UNAUTHORIZED {
                session.logged_in.clear();
                session.login_paused_until = Some(timer_in(LOGIN_PAUSE));
                rejections.in_a_row += 1;
                if rejections.in_a_row >= MAX_REJECTIONS {
                    rejections.paused_until = Some(timer_in(LOGIN_PAUSE));
                }
                return true;
            }
            // The node may have been unable to check the password.
            if response.status.is_server_error() {
                return false;
            }
            // Any other status accepts the password: 403 is for a user that is not an
            // administrator.
            *rejections = Rejections::default();
            learn(evidence, path, &response);
        }
        false
    }
}

fn learn(evidence: &mut Evidence, path: &str, response: &NodeResponse) {
    evidence.learn_cookies(&response.headers);
    if let (StatusCode::OK, Ok(body)) = (response.status, &response.body) {
        // Any other body is no evidence.
        let _ = if path == CONFIG { evidence.learn_config(body) } else { evidence.learn_projects(body) };
    }
}
