//! The data that the nodes of one cluster share.
//!
//! A Kylin node itself has only caches, running queries and sessions. Users, projects, saved
//! queries and jobs are in the metastore. Nodes with the same [`Metastore`] are one cluster. Its
//! list of jobs shows whether a build was executed twice.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::clock::{Clock, SystemClock};
use crate::testing::kylin::NodeData;
use crate::testing::kylin::data::mode::Mode;
use crate::testing::kylin::data::sessions::{Sessions, User, uuid};

/// The URL whose identity hashes to [`COOKIE`]: the test vector of Kylin's test.
const URL: &str = "test_docker@jdbc,driverClassName=com.mysql.jdbc.Driver,\
                   url=jdbc:mysql://mysql:3306/kylin?useSSL=false,username=kylin,password=metastore-secret";
const COOKIE: &str = "ce8a5bd5b23fe84d1894dce1bd9399364ba5af3c7a25f025442c92244c729804";

/// The number of wrong passwords in a row after which Kylin 5 locks a user (`ManagedUser`), and for
/// how long (`UserLockRuleUtil`).
const MAX_WRONG_PASSWORDS: u32 = 3;
const LOCK_DURATION: Duration = Duration::from_secs(30);

/// The shared data of a cluster of [`KylinNode`](crate::testing::KylinNode)s. Clones refer to the
/// same metastore.
///
/// It starts with the users `ADMIN` (password `KYLIN`, an administrator) and `ANALYST` (password
/// `ANALYST`), and the project `learn_kylin` with a random uuid.
#[derive(Clone)]
pub struct Metastore {
    tables: Arc<Mutex<Tables>>,
    sessions: Sessions,
}

struct Tables {
    url: String,
    cookie: String,
    users: Vec<User>,
    wrong_passwords: HashMap<String, WrongPasswords>,
    projects: Vec<Project>,
    jobs: Vec<Job>,
    saved: Vec<SavedQuery>,
    /// The nodes of the cluster.
    nodes: Vec<Weak<NodeData>>,
    /// The addresses on which nodes listen.
    servers: Vec<(SocketAddr, Weak<NodeData>)>,
    down: bool,
}

/// A project of the metastore.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Project {
    /// The name that queries use.
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

/// The wrong passwords in a row for a user.
struct WrongPasswords {
    count: u32,
    last: Instant,
}

struct SavedQuery {
    id: String,
    owner: String,
    query: serde_json::Value,
}

impl Project {
    fn new(name: &str) -> Self {
        Project { name: name.to_owned(), uuid: uuid() }
    }
}

impl Metastore {
    /// Returns a metastore with the default users and project.
    pub fn new() -> Self {
        let tables = Tables {
            url: URL.to_owned(),
            cookie: COOKIE.to_owned(),
            users: vec![User::new("ADMIN", "KYLIN", true), User::new("ANALYST", "ANALYST", false)],
            wrong_passwords: HashMap::new(),
            projects: vec![Project::new("learn_kylin")],
            jobs: Vec::new(),
            saved: Vec::new(),
            nodes: Vec::new(),
            servers: Vec::new(),
            down: false,
        };
        Metastore { tables: Arc::new(Mutex::new(tables)), sessions: Sessions::default() }
    }

    /// Sets `kylin.metadata.url` and the name of Kylin 5's session cookie, which is the lower-case
    /// hexadecimal SHA-256 of the URL's identity. The default is the pair in Kylin's own unit test.
    #[must_use]
    pub fn identity(self, url: &str, cookie: &str) -> Self {
        let mut tables = self.tables.lock();
        (tables.url, tables.cookie) = (url.to_owned(), cookie.to_owned());
        drop(tables);
        self
    }

    /// Adds a user, or replaces the user with that name.
    #[must_use]
    pub fn user(self, name: &str, password: &str, admin: bool) -> Self {
        let mut tables = self.tables.lock();
        tables.users.retain(|user| !user.name.eq_ignore_ascii_case(name));
        tables.users.push(User::new(name, password, admin));
        drop(tables);
        self
    }

    /// Adds a project.
    #[must_use]
    pub fn project(self, name: &str) -> Self {
        self.tables.lock().projects.push(Project::new(name));
        self
    }

    /// Returns the projects.
    pub fn projects(&self) -> Vec<Project> {
        self.tables.lock().projects.clone()
    }

    /// Returns every submitted build of all nodes, in order.
    pub fn jobs(&self) -> Vec<Job> {
        self.tables.lock().jobs.clone()
    }

    /// Returns the number of submitted builds of `target`. More than one for a single request means
    /// that a build was executed twice.
    pub fn builds_of(&self, target: &str) -> usize {
        self.tables.lock().jobs.iter().filter(|job| job.target == target).count()
    }

    /// Makes the metastore unreachable for all its nodes, or reachable again.
    ///
    /// While it is down, metadata calls and password checks return 500 with a Kylin error, and
    /// Kylin 5's health is DOWN. Queries of an existing session still work.
    pub fn set_down(&self, down: bool) {
        self.tables.lock().down = down;
    }

    /// Returns whether the metastore is unreachable.
    pub(crate) fn is_down(&self) -> bool {
        self.tables.lock().down
    }

    /// Makes the nodes write the placeholders of shared sessions: see
    /// [`KylinNode::writes_sessions_late`](crate::testing::KylinNode::writes_sessions_late).
    pub fn write_sessions(&self) {
        self.sessions.write_all();
    }

    pub(crate) fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    pub(crate) fn url(&self) -> String {
        self.tables.lock().url.clone()
    }

    pub(crate) fn cookie(&self) -> String {
        self.tables.lock().cookie.clone()
    }

    /// Returns the user with this password. Kylin ignores case in user names.
    pub(crate) fn check_password(&self, name: &str, password: &str) -> Option<User> {
        let tables = &mut *self.tables.lock();
        let user = tables.users.iter().find(|user| user.name.eq_ignore_ascii_case(name))?;
        let key = user.name.to_ascii_lowercase();
        if *user.password == *password {
            tables.wrong_passwords.remove(&key);
            return Some(user.clone());
        }
        let now = SystemClock.now();
        let wrong = tables.wrong_passwords.entry(key).or_insert(WrongPasswords { count: 0, last: now });
        (wrong.count, wrong.last) = (wrong.count + 1, now);
        None
    }

    /// Returns whether Kylin 5 refuses any password of the user, as all its nodes then do.
    pub(crate) fn is_locked(&self, name: &str) -> bool {
        let tables = self.tables.lock();
        let wrong = tables.wrong_passwords.get(&name.to_ascii_lowercase());
        wrong.is_some_and(|wrong| wrong.count >= MAX_WRONG_PASSWORDS && SystemClock.now() - wrong.last < LOCK_DURATION)
    }

    pub(crate) fn has_project(&self, name: &str) -> bool {
        self.tables.lock().projects.iter().any(|project| project.name.eq_ignore_ascii_case(name))
    }

    pub(crate) fn submit(&self, job: Job) {
        self.tables.lock().jobs.push(job);
    }

    pub(crate) fn save_query(&self, owner: &str, query: serde_json::Value) {
        let saved = SavedQuery { id: uuid(), owner: owner.to_owned(), query };
        self.tables.lock().saved.push(saved);
    }

    /// Returns the saved queries of `owner`, each with its id.
    pub(crate) fn saved_queries(&self, owner: &str) -> Vec<(String, serde_json::Value)> {
        let tables = self.tables.lock();
        let own = tables.saved.iter().filter(|saved| saved.owner == owner);
        own.map(|saved| (saved.id.clone(), saved.query.clone())).collect()
    }

    pub(crate) fn delete_query(&self, owner: &str, id: &str) {
        self.tables.lock().saved.retain(|saved| saved.owner != owner || saved.id != id);
    }

    /// Returns the addresses of the nodes that listen, each with its current role.
    pub(crate) fn servers(&self) -> Vec<(String, Mode)> {
        // Another thread may hold the lock of a node's settings and wait for the tables, so both
        // must never be held.
        let servers = self.tables.lock().servers.clone();
        servers
            .iter()
            .filter_map(|(addr, node)| Some((addr.to_string(), node.upgrade()?.settings.read().mode)))
            .collect()
    }

    pub(in crate::testing::kylin) fn register(&self, addr: SocketAddr, node: Weak<NodeData>) {
        let mut tables = self.tables.lock();
        tables.servers.retain(|(known, _)| *known != addr);
        tables.servers.push((addr, node));
    }

    pub(crate) fn unregister(&self, addr: SocketAddr) {
        self.tables.lock().servers.retain(|(known, _)| *known != addr);
    }

    pub(in crate::testing::kylin) fn join(&self, node: &Arc<NodeData>) {
        let mut tables = self.tables.lock();
        tables.nodes.retain(|node| node.strong_count() > 0);
        tables.nodes.push(Arc::downgrade(node));
    }

    /// Stops the query `id` on the node that runs it.
    pub(crate) fn stop_everywhere(&self, id: &str) {
        let nodes: Vec<_> = self.tables.lock().nodes.iter().filter_map(Weak::upgrade).collect();
        for node in nodes {
            node.running.stop(id);
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
        let tables = self.tables.lock();
        f.debug_struct("Metastore")
            .field("projects", &tables.projects)
            .field("jobs", &tables.jobs.len())
            .field("down", &tables.down)
            .finish_non_exhaustive()
    }
}
