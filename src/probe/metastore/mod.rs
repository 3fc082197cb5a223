//! Keeps nodes of other clusters out.
//!
//! An address that was mistyped, or a node that was set up anew with another `kylin.metadata.url`, answers like any Kylin. Its users
//! would see other projects now and then, and lose their logins.

mod judge;
mod round;
mod watch;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::AbortHandle;

use self::judge::Judge;
use self::watch::Watch;
use super::InvalidProbe;
use super::ask::Login;
use crate::backend::Backend;
use crate::cluster::Cluster;
use crate::kylin::identity::Evidence;
use crate::kylin::metadata_url::MetadataUrl;

const LONGEST_INTERVAL: Duration = Duration::from_secs(86_400);

/// Compares the metastores of the endpoints of a cluster, and keeps those out that belong to another one.
/// [`start`](Self::start) begins.
///
/// # What is compared
///
/// | sign | where from | needs |
/// |---|---|---|
/// | `kylin.metadata.url`, without passwords and pool sizes | `GET /kylin/api/admin/config` (2.x to 4.x) | an administrator's [login](Self::login) |
/// | the name of the session cookie, a digest of that URL | any answer of Kylin 5 that makes a session: `GET /kylin/api/projects` | nothing |
/// | the ids of projects of the same name | `GET /kylin/api/projects` | a login |
///
/// The strongest sign that two nodes both give decides. That Kylin 5 makes a session for a request without a login is inferred from
/// its Spring Security (`auto-config` in kylin5 kylinSecurity.xml: what was asked for is kept in a session), that projects' ids tell
/// metastores apart likewise: a metastore that was copied has the same. Where only these are at hand, a copy is not found out.
///
/// # Who is kept out
///
/// An endpoint serves only after it was looked at: all of them when this starts, and each that joins later. What cannot be known
/// keeps nobody out: a node that is down, that refuses the login, that has no such path. What was learned of a node holds until
/// it says otherwise.
///
/// The measure is the [`reference`](Self::reference) where one is set. Otherwise it is what most nodes have when this starts - at a
/// tie, the first in the order of configuration - and it stays that as long as one node has it: any number of nodes of another
/// cluster may join, they do not become the majority. Only when none is left that has it the nodes are counted anew. A reference
/// that every node contradicts is taken for a mistake: a warning says so, and the nodes are counted. So never all are kept out.
///
/// An endpoint that is kept out is [`HealthState::Unhealthy`](super::HealthState::Unhealthy) for
/// [`Reason::OtherMetastore`](super::Reason::OtherMetastore), gets nothing in panic mode either, and is let in when it is
/// right. The log says what differs, without passwords.
///
/// ```
/// use kylin_lb::probe::MetastoreCheck;
/// # use kylin_lb::testing::kylin::{KylinNode, Metastore};
/// # use kylin_lb::{Cluster, Endpoint};
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// # let (metastore, other) = (Metastore::new(), Metastore::new());
/// # let node = |name, metastore| Endpoint::new(name, KylinNode::new(name).metastore(metastore)).unwrap();
/// let cluster = Cluster::builder()
///     .endpoint(node("q1", &metastore))
///     .endpoint(node("q2", &metastore))
///     .endpoint(node("stranger", &other))
///     .build()?;
/// // Ends, and everybody may serve, when this is dropped.
/// let checker = MetastoreCheck::new().login("ADMIN", "KYLIN")?.start(&cluster);
/// # let _ = checker;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct MetastoreCheck {
    login: Option<Login>,
    reference: Option<Evidence>,
    interval: Duration,
    fast_interval: Duration,
    jitter: f64,
    timeout: Duration,
    concurrency: usize,
}

impl MetastoreCheck {
    /// Compares every minute what nodes show without a login, by the measure of the majority.
    pub fn new() -> Self {
        MetastoreCheck {
            login: None,
            reference: None,
            interval: Duration::from_secs(60),
            fast_interval: Duration::from_secs(5),
            jitter: 0.1,
            timeout: Duration::from_secs(3),
            concurrency: 4,
        }
    }

    /// Logs in with HTTP Basic: as an administrator to see the metadata URL, as anybody to see projects. It is never shown. Where a
    /// node answers it with 401 it is not tried there again for ten minutes, and after two of these in a row nowhere: Kylin 5
    /// locks a user after three wrong passwords.
    ///
    /// # Errors
    /// [`InvalidProbe::User`] when the user's name contains a colon (RFC 7617).
    pub fn login(mut self, user: &str, password: &str) -> Result<Self, InvalidProbe> {
        self.login = Some(Login::new(user, password)?);
        Ok(self)
    }

    /// Sets what the nodes' metastore has to be, as `kylin.properties` names it. Default: what most of them have.
    pub fn reference(mut self, url: MetadataUrl) -> Self {
        let mut evidence = Evidence::default();
        evidence.learn_url(url);
        self.reference = Some(evidence);
        self
    }

    /// How long after a look at a node the next begins. Default 60 s: a node changes its metastore when it is restarted at the
    /// earliest. From 10 ms to a day.
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval.clamp(Duration::from_millis(10), LONGEST_INTERVAL);
        self
    }

    /// The interval while a node does not answer at all: it is looked at soon after it has come up. Default 5 s; never longer than
    /// the interval.
    pub fn fast_interval(mut self, interval: Duration) -> Self {
        self.fast_interval = interval.max(Duration::from_millis(10));
        self
    }

    /// By which part of it an interval may be longer or shorter at random. Default 0.1; 0 to 0.5.
    pub fn jitter(mut self, part: f64) -> Self {
        self.jitter = if part.is_nan() { 0.1 } else { part.clamp(0.0, 0.5) };
        self
    }

    /// How long each answer may take, whole. Default 3 s. A node that is silent at the start can hold the others up for that
    /// long, unless more than half of them agree before.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How many nodes may be looked at at once. Default 4; 0 counts as 1.
    pub fn concurrency(mut self, nodes: usize) -> Self {
        self.concurrency = nodes.max(1);
        self
    }

    /// Begins to look at the endpoints of `cluster` and those that join it. None serves before. Where this is started twice for a
    /// cluster, the later one has the word.
    ///
    /// # Panics
    /// Outside of a tokio runtime, as [`tokio::spawn`] does.
    pub fn start<B: Backend>(self, cluster: &Cluster<B>) -> MetastoreChecker {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        cluster.set_verifier(id);
        let judge = Judge::new(self.reference.clone());
        let settings = MetastoreCheck { fast_interval: self.fast_interval.min(self.interval), ..self };
        let watch = Watch::new(id, settings, judge, cluster.clone());
        MetastoreChecker { task: tokio::spawn(watch.run()).abort_handle() }
    }
}

impl Default for MetastoreCheck {
    fn default() -> Self {
        MetastoreCheck::new()
    }
}

/// Comparing under way. Dropping it ends the comparing, and everybody may serve.
#[must_use = "dropping the checker ends the comparing"]
pub struct MetastoreChecker {
    task: AbortHandle,
}

impl Drop for MetastoreChecker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for MetastoreChecker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetastoreChecker").finish_non_exhaustive()
    }
}
