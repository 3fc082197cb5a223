//! What the nodes of one cluster share.
//!
//! A Kylin node keeps nothing of its own but caches, running queries and sessions: users, projects, saved queries and
//! jobs are in the metastore. Giving several nodes one [`Metastore`] makes them one cluster; the list of jobs in it is
//! where a test sees whether a build was executed twice.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::testing::kylin::Inner;
use crate::testing::kylin::data::running::Running;
use crate::testing::kylin::data::sessions::{Sessions, uuid};
use crate::testing::kylin::settings::Mode;

/// The URL whose identity hashes to [`COOKIE`]: the vector that Kylin's own test uses.
const URL: &str = "test_docker@jdbc,driverClassName=com.mysql.jdbc.Driver,\
                   url=jdbc:mysql://mysql:3306/kylin?useSSL=false,username=kylin,password=metastore-secret";
const COOKIE: &str = "ce8a5bd5b23fe84d1894dce1bd9399364ba5af3c7a25f025442c92244c729804";

/// The shared state of a cluster of [`KylinNode`](super::KylinNode)s. Clones are handles to the same one.
///
/// It begins with the users `ADMIN` (password `KYLIN`, an administrator) and `ANALYST` (password `ANALYST`), and the
/// project `learn_kylin` with a random uuid.
#[derive(Clone)]
pub struct Metastore {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    sessions: Sessions,
    down: AtomicBool,
}

struct State {
    url: String,
    cookie: String,
    users: Vec<User>,
    projects: Vec<Project>,
    jobs: Vec<Job>,
    saved: Vec<SavedQuery>,
    servers: Vec<(SocketAddr, Weak<Inner>)>,
    running: Vec<Weak<Running>>,
}

#[derive(Clone)]
pub(crate) struct User {
    pub(crate) name: Arc<str>,
    password: Arc<str>,
    pub(crate) admin: bool,
}

impl User {
    pub(crate) fn new(name: &str, password: &str, admin: bool) -> Self {
        User { name: name.into(), password: password.into(), admin }
    }
}

/// A project of the metastore.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Project {
    /// The name that queries give.
    pub name: String,
    /// The same on every node of the metastore, another in every other metastore.
    pub uuid: String,
}

/// One build that was submitted.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Job {
    /// The job's id.
    pub id: String,
    /// The cube (2.x-4.x) or model (5.x) that was to be built.
    pub target: String,
    /// The name of the node that took it.
    pub node: String,
    /// Who submitted it.
    pub submitter: String,
    /// The header `x-request-id` of the request, where it had one.
    pub request_id: Option<String>,
}

#[derive(Debug, Clone)]
pub(crate) struct SavedQuery {
    pub(crate) id: String,
    pub(crate) owner: String,
    pub(crate) query: serde_json::Value,
}

impl Metastore {
    /// A metastore with the default users and project.
    pub fn new() -> Self {
        let state = State {
            url: URL.to_owned(),
            cookie: COOKIE.to_owned(),
            users: vec![User::new("ADMIN", "KYLIN", true), User::new("ANALYST", "ANALYST", false)],
            projects: vec![Project { name: "learn_kylin".to_owned(), uuid: uuid() }],
            jobs: Vec::new(),
            saved: Vec::new(),
            servers: Vec::new(),
            running: Vec::new(),
        };
        Metastore {
            shared: Arc::new(Shared { state: Mutex::new(state), sessions: Sessions::default(), down: false.into() }),
        }
    }

    /// Sets `kylin.metadata.url`, and the name of Kylin 5's session cookie, which is the lower-case hexadecimal SHA-256
    /// of the URL's identity. The default is the pair of Kylin's own unit test.
    #[must_use]
    pub fn identity(self, url: &str, cookie: &str) -> Self {
        let mut state = self.shared.state.lock();
        (state.url, state.cookie) = (url.to_owned(), cookie.to_owned());
        drop(state);
        self
    }

    /// Adds a user, or replaces the one of that name.
    #[must_use]
    pub fn user(self, name: &str, password: &str, admin: bool) -> Self {
        let mut state = self.shared.state.lock();
        state.users.retain(|user| !user.name.eq_ignore_ascii_case(name));
        state.users.push(User::new(name, password, admin));
        drop(state);
        self
    }

    /// Adds a project.
    #[must_use]
    pub fn project(self, name: &str) -> Self {
        self.shared.state.lock().projects.push(Project { name: name.to_owned(), uuid: uuid() });
        self
    }

    /// The projects.
    pub fn projects(&self) -> Vec<Project> {
        self.shared.state.lock().projects.clone()
    }

    /// Every build that was submitted, in order, by whichever node.
    pub fn jobs(&self) -> Vec<Job> {
        self.shared.state.lock().jobs.clone()
    }

    /// How many builds of `target` were submitted. More than one for one admin_state is a build executed twice.
    pub fn builds_of(&self, target: &str) -> usize {
        self.shared.state.lock().jobs.iter().filter(|job| job.target == target).count()
    }

    /// Makes the metastore unreachable for all its nodes, or reachable again. While it is down, metadata calls and
    /// everything that has to check a password answer 500 with a Kylin error, and Kylin 5's health is DOWN; queries of
    /// a session that exists go on.
    pub fn set_down(&self, down: bool) {
        self.shared.down.store(down, Ordering::SeqCst);
    }

    /// True while it is unreachable.
    pub fn is_down(&self) -> bool {
        self.shared.down.load(Ordering::SeqCst)
    }

    /// Has the nodes write what they have left unwritten of shared sessions, see
    /// [`KylinNode::writes_sessions_late`](super::KylinNode::writes_sessions_late).
    pub fn write_sessions(&self) {
        self.shared.sessions.write_all();
    }

    pub(crate) fn sessions(&self) -> &Sessions {
        &self.shared.sessions
    }

    pub(crate) fn url(&self) -> String {
        self.shared.state.lock().url.clone()
    }

    pub(crate) fn cookie(&self) -> String {
        self.shared.state.lock().cookie.clone()
    }

    /// Kylin's user names do not tell case apart.
    pub(crate) fn check_password(&self, name: &str, password: &str) -> Option<User> {
        let state = self.shared.state.lock();
        state.users.iter().find(|user| user.name.eq_ignore_ascii_case(name) && *user.password == *password).cloned()
    }

    pub(crate) fn has_project(&self, name: &str) -> bool {
        self.shared.state.lock().projects.iter().any(|project| project.name.eq_ignore_ascii_case(name))
    }

    pub(crate) fn submit(&self, job: Job) {
        self.shared.state.lock().jobs.push(job);
    }

    pub(crate) fn save_query(&self, owner: &str, query: serde_json::Value) {
        let saved = SavedQuery { id: uuid(), owner: owner.to_owned(), query };
        self.shared.state.lock().saved.push(saved);
    }

    pub(crate) fn saved_queries(&self, owner: &str) -> Vec<SavedQuery> {
        self.shared.state.lock().saved.iter().filter(|saved| saved.owner == owner).cloned().collect()
    }

    pub(crate) fn delete_query(&self, owner: &str, id: &str) {
        self.shared.state.lock().saved.retain(|saved| saved.owner != owner || saved.id != id);
    }

    /// The nodes that listen, each with its role at this moment.
    pub(crate) fn servers(&self) -> Vec<(SocketAddr, Mode)> {
        // A node's settings may be locked by somebody who waits for our state: never hold both.
        let servers = self.shared.state.lock().servers.clone();
        servers.iter().filter_map(|(addr, node)| Some((*addr, node.upgrade()?.settings.read().mode))).collect()
    }

    pub(in crate::testing::kylin) fn register(&self, addr: SocketAddr, node: Weak<Inner>) {
        let mut state = self.shared.state.lock();
        state.servers.retain(|(known, _)| *known != addr);
        state.servers.push((addr, node));
    }

    pub(crate) fn unregister(&self, addr: SocketAddr) {
        self.shared.state.lock().servers.retain(|(known, _)| *known != addr);
    }

    pub(crate) fn join(&self, running: &Arc<Running>) {
        let mut state = self.shared.state.lock();
        state.running.retain(|node| node.strong_count() > 0);
        state.running.push(Arc::downgrade(running));
    }

    /// Stops the query `id` on whichever node runs it.
    pub(crate) fn stop_everywhere(&self, id: &str) {
        let nodes: Vec<_> = self.shared.state.lock().running.iter().filter_map(Weak::upgrade).collect();
        for node in nodes {
            node.stop(id);
        }
    }
}

impl Default for Metastore {
    fn default() -> Self {
        Metastore::new()
    }
}

impl fmt::Debug for Metastore {
    /// Leaves passwords and the URL, which has one inside, out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.shared.state.lock();
        f.debug_struct("Metastore")
            .field("projects", &state.projects)
            .field("jobs", &state.jobs.len())
            .field("down", &self.is_down())
            .finish_non_exhaustive()
    }
}
