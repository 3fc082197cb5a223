//! Quarantines nodes that use another metastore.
//!
//! The node at a mistyped address, or a node that was reinstalled with another
//! `kylin.metadata.url`, responds like any Kylin. Users would sometimes see other projects, and
//! lose their logins.

mod decision;
mod identify;
mod verifier;

use std::time::Duration;

use http::HeaderValue;

use self::decision::Reference;
use self::verifier::Verifier;
use super::{InvalidProbe, validate_interval};
use crate::backend::Backend;
use crate::background::AbortOnDrop;
use crate::basic_auth;
use crate::cluster::Cluster;
use crate::endpoint::EndpointId;
use crate::kylin::MetadataUrl;
use crate::setting::InvalidSetting;

/// Compares the metastores of the endpoints of a cluster, and quarantines nodes that use another
/// one. [`start`](Self::start) starts the check.
///
/// # What is compared
///
/// | evidence | source | needs |
/// |---|---|---|
/// | `kylin.metadata.url`, without passwords and pool sizes | `GET /kylin/api/admin/config` (2.x to 4.x) | the [login](Self::login) of an administrator |
/// | the name of the session cookie, a digest of that URL | a response of Kylin 5 that makes a session: `GET /kylin/api/projects` | nothing |
/// | the ids of projects of the same name | `GET /kylin/api/projects` | a login |
///
/// The strongest evidence that two nodes both show decides. Two points are inferred. Kylin 5 makes
/// a session for a request without a login, as its Spring Security does (`auto-config` in kylin5
/// kylinSecurity.xml). The ids of projects tell metastores apart, except for a copy of a metastore,
/// which has the same ids.
///
/// # Which nodes are quarantined
///
/// Nodes are compared with the reference. An application can name it: a [metadata
/// URL](Self::reference), or [a node](Self::reference_node). Otherwise the reference is the
/// identity that most of the serving nodes share (at the start: most of all nodes). So nodes that
/// join do not outvote those that serve. A warning is logged in these cases:
///
/// - At a tie, no node is quarantined.
/// - If every node contradicts a named URL, the URL is considered a mistake, and the majority is
///   the reference.
/// - If a named node shows no identity, or is not in the cluster, the majority is the reference.
///
/// All nodes are checked when the check starts, and at an interval. An endpoint is also checked
/// when it joins, returns from maintenance or gets another address, and then serves only after the
/// check. A node that cannot be compared is not quarantined: one that is down, rejects the login,
/// or has no such path. The evidence of a node stays valid until the node shows other evidence.
///
/// A quarantined endpoint is [`HealthState::Unhealthy`](crate::health::HealthState::Unhealthy) for
/// [`Reason::Quarantined`](crate::health::Reason::Quarantined), and does not serve in panic mode
/// either. It serves again when a check finds the right metastore. The log shows the difference,
/// without passwords.
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
///     .endpoint(node("foreign", &other))
///     .build()?;
/// // The checks end, and all endpoints may serve, when this is dropped.
/// let checker = MetastoreCheck::new().login("ADMIN", "KYLIN")?.start(&cluster)?;
/// # let _ = checker;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct MetastoreCheck {
    /// Marked as sensitive, so that no `Debug` shows it.
    authorization: Option<HeaderValue>,
    reference: Reference,
    interval: Duration,
    timeout: Duration,
}

impl MetastoreCheck {
    /// Returns a check without a login whose reference is the majority.
    pub fn new() -> Self {
        MetastoreCheck {
            authorization: None,
            reference: Reference::Majority,
            interval: Duration::from_secs(60),
            timeout: Duration::from_secs(3),
        }
    }

    /// Sets HTTP Basic credentials: an administrator's to see the metadata URL, any user's to see
    /// projects.
    ///
    /// A node that rejects the credentials with 401 gets them again after ten minutes. After two
    /// such nodes in a row, no node gets them, because Kylin 5 locks a user after three wrong
    /// passwords.
    ///
    /// # Errors
    /// [`InvalidProbe::User`] if the user's name contains a colon (RFC 7617).
    pub fn login(mut self, user: &str, password: &str) -> Result<Self, InvalidProbe> {
        self.authorization = Some(basic_auth::authorization(user, password).ok_or(InvalidProbe::User)?);
        Ok(self)
    }

    /// Makes this metadata URL the reference, written as in `kylin.properties`. Default: the
    /// majority.
    pub fn reference(mut self, url: MetadataUrl) -> Self {
        self.reference = Reference::Url(url);
        self
    }

    /// Makes the identity of this endpoint the reference. Default: the majority.
    pub fn reference_node(mut self, id: EndpointId) -> Self {
        self.reference = Reference::Node(id);
        self
    }

    /// Sets the time between two checks, from 1 ms to a day. Default: 60 s, because a node changes
    /// its metastore only with a restart. If a node did not respond, the next check follows after
    /// at most 5 s.
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// Sets the timeout for each response. Default: 3 s. At the start, a node that hangs can delay
    /// the others by that time, unless more than half of the nodes agree.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Begins to check the endpoints of `cluster` and those that join it. No endpoint serves before
    /// its check. If a cluster is checked twice, the later check decides.
    ///
    /// # Errors
    /// [`InvalidSetting`] if a setting is out of range.
    ///
    /// # Panics
    /// Panics if called outside of a tokio runtime, as [`tokio::spawn`] does.
    pub fn start<B: Backend>(self, cluster: &Cluster<B>) -> Result<MetastoreChecker, InvalidSetting> {
        validate_interval(self.interval, "interval")?;
        InvalidSetting::unless(!self.timeout.is_zero(), "timeout", "over 0")?;
        let verifier = Verifier::new(self, cluster.clone());
        Ok(MetastoreChecker { _task: AbortOnDrop::spawn(verifier.run()) })
    }
}

impl Default for MetastoreCheck {
    fn default() -> Self {
        MetastoreCheck::new()
    }
}

/// A running [`MetastoreCheck`]. Dropping it ends the checks, and all endpoints may serve again.
#[derive(Debug)]
#[must_use = "dropping the checker ends the checks"]
pub struct MetastoreChecker {
    _task: AbortOnDrop,
}
