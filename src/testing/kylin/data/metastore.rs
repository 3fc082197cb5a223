//! The data that the nodes of one cluster share.
//!
//! A Kylin node has only caches, running queries and sessions of its own. Users, projects, saved queries and jobs are in
//! the metastore. Nodes with one [`Metastore`] are one cluster. Its list of jobs shows whether a build was executed twice.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::testing::kylin::NodeData;
use crate::testing::kylin::data::running::Running;
use crate::testing::kylin::data::sessions::{Sessions, uuid};
use crate::testing::kylin::settings::Mode;

/// The URL whose identity hashes to [`COOKIE`]: the test vector of Kylin's test.
const URL: &str = "test_docker@jdbc,driverClassName=com.mysql.jdbc.Driver,\
                   url=jdbc:mysql://mysql:3306/kylin?useSSL=false,username=kylin,password=metastore-secret";
const COOKIE: &str = "ce8a5bd5b23fe84d1894dce1bd9399364ba5af3c7a25f025442c92244c729804";

/// The shared data of a cluster of [`KylinNode`](crate::testing::KylinNode)s. Clones refer to one metastore.
///
/// It starts with the users `ADMIN` (password `KYLIN`, an administrator) and `ANALYST` (password `ANALYST`), and the
/// project `learn_kylin` with a random uuid.
#[derive(Clone)]
pub struct Metastore {
    shared: Arc<Shared>,
}

struct Shared {
    tables: Mutex<Tables>,
    sessions: Sessions,
    down: AtomicBool,
}

struct Tables {
    url: String,
    cookie: String,
    users: Vec<User>,
    projects: Vec<Project>,
    jobs: Vec<Job>,
    saved: Vec<SavedQuery>,
    servers: Vec<(SocketAddr, Weak<NodeData>)>,
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
    /// The id, which differs in every other metastore.
    pub uuid: String,
}

/// A submitted build.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Job {
    /// The job's id.
    pub id: String,
    /// The cube (2.x-4.x) or model (5.x) to build.
    pub target: String,
    /// The name of the node that accepted it.
    pub node: String,
    /// The user who submitted it.
    pub submitter: String,
    /// The header `x-request-id` of the request, if any.
    pub request_id: Option<String>,
}

#[derive(Debug, Clone)]
pub(crate) struct SavedQuery {
    pub(crate) id: String,
    pub(crate) owner: String,
    pub(crate) query: serde_json::Value,
}

impl Metastore {
    /// Returns a metastore with the default users and project.
    pub fn new() -> Self {
        let tables = Tables {
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
            shared: Arc::new(Shared { tables: Mutex::new(tables), sessions: Sessions::default(), down: false.into() }),
        }
    }

    /// Sets `kylin.metadata.url`, and the name of Kylin 5's session cookie, which is the lower-case hexadecimal SHA-256
    /// of the URL's identity. The default is the pair of Kylin's own unit test.
    #[must_use]
    pub fn identity(self, url: &str, cookie: &str) -> Self {
        let mut tables = self.shared.tables.lock();
        (tables.url, tables.cookie) = (url.to_owned(), cookie.to_owned());
        drop(tables);
        self
    }

    /// Adds a user, or replaces the one of that name.
    #[must_use]
    pub fn user(self, name: &str, password: &str, admin: bool) -> Self {
        let mut tables = self.shared.tables.lock();
        tables.users.retain(|user| !user.name.eq_ignore_ascii_case(name));
        tables.users.push(User::new(name, password, admin));
        drop(tables);
        self
    }

    /// Adds a project.
    #[must_use]
    pub fn project(self, name: &str) -> Self {
        self.shared.tables.lock().projects.push(Project { name: name.to_owned(), uuid: uuid() });
        self
    }

    /// Returns the projects.
    pub fn projects(&self) -> Vec<Project> {
        self.shared.tables.lock().projects.clone()
    }

    /// Returns every submitted build of all nodes, in order.
    pub fn jobs(&self) -> Vec<Job> {
        self.shared.tables.lock().jobs.clone()
    }

    /// Returns the number of submitted builds of `target`. More than one for one request is a build executed twice.
    pub fn builds_of(&self, target: &str) -> usize {
        self.shared.tables.lock().jobs.iter().filter(|job| job.target == target).count()
    }

    /// Makes the metastore unreachable for all its nodes, or reachable again.
    ///
    /// While it is down, metadata calls and password checks return 500 with a Kylin error, and Kylin 5's health is DOWN.
    /// Queries of an existing session still work.
    pub fn set_down(&self, down: bool) {
        self.shared.down.store(down, Ordering::SeqCst);
    }

    /// Returns whether the metastore is unreachable.
    pub fn is_down(&self) -> bool {
        self.shared.down.load(Ordering::SeqCst)
    }

    /// Makes the nodes write the placeholders of shared sessions, see
    /// [`KylinNode::writes_sessions_late`](crate::testing::KylinNode::writes_sessions_late).
    pub fn write_sessions(&self) {
        self.shared.sessions.write_all();
    }

    pub(crate) fn sessions(&self) -> &Sessions {
        &self.shared.sessions
    }

    pub(crate) fn url(&self) -> String {
        self.shared.tables.lock().url.clone()
    }

    pub(crate) fn cookie(&self) -> String {
        self.shared.tables.lock().cookie.clone()
    }

    /// Returns the user with this password. Kylin compares user names without case.
    pub(crate) fn check_password(&self, name: &str, password: &str) -> Option<User> {
        let tables = self.shared.tables.lock();
        tables.users.iter().find(|user| user.name.eq_ignore_ascii_case(name) && *user.password == *password).cloned()
    }

    pub(crate) fn has_project(&self, name: &str) -> bool {
        self.shared.tables.lock().projects.iter().any(|project| project.name.eq_ignore_ascii_case(name))
    }

    pub(crate) fn submit(&self, job: Job) {
        self.shared.tables.lock().jobs.push(job);
    }

    pub(crate) fn save_query(&self, owner: &str, query: serde_json::Value) {
        let saved = SavedQuery { id: uuid(), owner: owner.to_owned(), query };
        self.shared.tables.lock().saved.push(saved);
    }

    pub(crate) fn saved_queries(&self, owner: &str) -> Vec<SavedQuery> {
        self.shared.tables.lock().saved.iter().filter(|saved| saved.owner == owner).cloned().collect()
    }

    pub(crate) fn delete_query(&self, owner: &str, id: &str) {
        self.shared.tables.lock().saved.retain(|saved| saved.owner != owner || saved.id != id);
    }

    /// Returns the nodes that listen, each with its current role.
    pub(crate) fn servers(&self) -> Vec<(SocketAddr, Mode)> {
        // Another thread may hold the lock of a node's settings and wait for the tables: never hold both.
        let servers = self.shared.tables.lock().servers.clone();
        servers.iter().filter_map(|(addr, node)| Some((*addr, node.upgrade()?.settings.read().mode))).collect()
    }

    pub(in crate::testing::kylin) fn register(&self, addr: SocketAddr, node: Weak<NodeData>) {
        let mut tables = self.shared.tables.lock();
        tables.servers.retain(|(known, _)| *known != addr);
        tables.servers.push((addr, node));
    }

    pub(crate) fn unregister(&self, addr: SocketAddr) {
        self.shared.tables.lock().servers.retain(|(known, _)| *known != addr);
    }

    pub(crate) fn join(&self, running: &Arc<Running>) {
        let mut tables = self.shared.tables.lock();
        tables.running.retain(|node| node.strong_count() > 0);
        tables.running.push(Arc::downgrade(running));
    }

    /// Stops the query `id` on the node that runs it.
    pub(crate) fn stop_everywhere(&self, id: &str) {
        let nodes: Vec<_> = self.shared.tables.lock().running.iter().filter_map(Weak::upgrade).collect();
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
    /// Leaves out passwords, and the URL, which contains one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tables = self.shared.tables.lock();
        f.debug_struct("Metastore")
            .field("projects", &tables.projects)
            .field("jobs", &tables.jobs.len())
            .field("down", &self.is_down())
            .finish_non_exhaustive()
    }
}
