//! One look at one node: what can be learned of its metastore.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use http::header::SET_COOKIE;
use parking_lot::Mutex as Lock;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::backend::Backend;
use crate::clock::timer_in;
use crate::cookie::CookieJar;
use crate::kylin::identity::Evidence;
use crate::probe::ask::{Login, Reply, get};

const PROJECTS: &str = "/kylin/api/projects";
const CONFIG: &str = "/kylin/api/admin/config";

/// How long a login that was refused is not tried again.
const PAUSE: Duration = Duration::from_secs(600);
/// After how many refusals in a row it is tried nowhere: Kylin 5 locks a user after three.
const MOST_REFUSALS: u32 = 2;

/// The login, which all looks share: nodes of one cluster count wrong passwords together.
pub(super) struct Logins {
    login: Option<Login>,
    /// Held while a node is asked with the login, so that refusals are counted one by one.
    turn: Mutex<()>,
    refusals: Lock<Refusals>,
}

#[derive(Default)]
struct Refusals {
    in_a_row: u32,
    paused_until: Option<Instant>,
}

impl Logins {
    pub(super) fn new(login: Option<Login>) -> Self {
        Logins { login, turn: Mutex::default(), refusals: Lock::default() }
    }

    fn may_be_tried(&self) -> bool {
        self.refusals.lock().paused_until.is_none_or(|until| timer_in(Duration::ZERO) >= until)
    }

    fn accepted(&self) {
        *self.refusals.lock() = Refusals::default();
    }

    fn refused(&self) {
        let mut refusals = self.refusals.lock();
        refusals.in_a_row += 1;
        if refusals.in_a_row >= MOST_REFUSALS {
            refusals.paused_until = Some(timer_in(PAUSE));
        }
    }
}

/// What is kept of a node from look to look.
#[derive(Default)]
pub(super) struct Visitor {
    anonymous: CookieJar,
    logged_in: CookieJar,
    no_login_until: Option<Instant>,
}

/// What came of a look.
pub(super) struct Round {
    pub(super) evidence: Evidence,
    /// The node did not answer at all.
    pub(super) silent: bool,
    /// It refused the login, which says nothing of its metastore.
    pub(super) refused: bool,
    pub(super) visitor: Visitor,
}

/// Looks at the node behind `backend`.
pub(super) async fn look<B: Backend>(
    backend: Arc<B>,
    host: Arc<str>,
    mut visitor: Visitor,
    logins: Arc<Logins>,
    timeout: Duration,
) -> Round {
    let mut evidence = Evidence::default();
    // Kylin 5 answers 401 with a session's cookie, Kylin 2.6 may answer with the projects.
    let Ok(first) = get(&*backend, &host, PROJECTS, None, &mut visitor.anonymous, timeout).await else {
        return Round { evidence, silent: true, refused: false, visitor };
    };
    learn_projects(&mut evidence, &first);
    if first.headers.contains_key(SET_COOKIE) {
        // Whoever shows the cookie of a session gets no new one, so those of metastores that the node had before must go: it
        // might have them again.
        visitor.anonymous = CookieJar::default();
        visitor.anonymous.store(&first.headers);
    }
    let mut refused = false;
    if let Some(login) = &logins.login {
        let _turn = logins.turn.lock().await;
        let now = timer_in(Duration::ZERO);
        if logins.may_be_tried() && visitor.no_login_until.is_none_or(|until| now >= until) {
            for path in [CONFIG, PROJECTS] {
                let Ok(reply) = get(&*backend, &host, path, Some(login), &mut visitor.logged_in, timeout).await else {
                    break;
                };
                if reply.status == StatusCode::UNAUTHORIZED {
                    refused = true;
                    break;
                }
                // Any other answer to a login is no word against it: 403 is for one who is no administrator.
                logins.accepted();
                match path {
                    CONFIG => learn_config(&mut evidence, &reply),
                    _ => learn_projects(&mut evidence, &reply),
                }
            }
            if refused {
                logins.refused();
                visitor.logged_in = CookieJar::default();
                visitor.no_login_until = Some(timer_in(PAUSE));
            }
        }
    }
    Round { evidence, silent: false, refused, visitor }
}

fn learn_projects(evidence: &mut Evidence, reply: &Reply) {
    evidence.learn_cookies(&reply.headers);
    if let Some(body) = reply.body.as_ref().filter(|_| reply.status == StatusCode::OK) {
        // What is no list of projects is no sign.
        let _ = evidence.learn_projects(body);
    }
}

fn learn_config(evidence: &mut Evidence, reply: &Reply) {
    evidence.learn_cookies(&reply.headers);
    if let Some(body) = reply.body.as_ref().filter(|_| reply.status == StatusCode::OK) {
        let _ = evidence.learn_config(body);
    }
}
