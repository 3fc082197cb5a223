//! Is an endpoint fit to serve? Outcomes of requests and of probes go in, its operational state comes out.
//!
//! Two axes decide what an endpoint gets, as in HAProxy, and neither touches the other. What the operator wants is its
//! [`AdminState`](crate::endpoint::AdminState); how it is doing is its [`HealthState`] state:
//!
//! | | ready | drain | maintain |
//! |---|---|---|---|
//! | **up** | new requests, bound sessions, probes | bound sessions, probes | nothing |
//! | **in doubt** | new requests, bound sessions, probes | bound sessions, probes | nothing |
//! | **down** | probes | probes | nothing |
//! | **ejected** | probes | probes | nothing |
//!
//! [`AdminState::admits`](crate::endpoint::AdminState::admits) is the table as a function. Who moves an endpoint between states:
//!
//! - nginx's rule, always there: [`max_fails`](crate::Endpoint::max_fails) failures within
//!   [`fail_timeout`](crate::Endpoint::fail_timeout) eject, and one request at a time tries whether it is well again;
//! - [`Outlier`], opt-in for a cluster: failures in a row, or a success rate below the others', eject for a time;
//! - [`HealthCheck`], opt-in: a [`Probe`] is sent regularly, and its results say whether an endpoint is down;
//! - `MetastoreCheck` (feature `kylin`), opt-in: a node whose metastore is not the others' is kept out, in panic mode, too;
//! - a request that timed out ([`Outcome::Slow`](crate::Outcome::Slow)) puts in doubt, and has the node probed soon. It
//!   never ejects: a Kylin query may take minutes.
//!
//! An endpoint that is new or comes back may ramp up by [`SlowStart`]. When nobody is left,
//! [`panic_mode`](crate::cluster::ClusterBuilder::panic_mode) serves from whoever failed least recently.

pub(crate) mod impaired;
pub(crate) mod outlier;
pub(crate) mod passive;
pub(crate) mod slow_start;
pub(crate) mod state;
pub(crate) mod verdict;

use http::StatusCode;

pub use outlier::Outlier;
pub use slow_start::SlowStart;

/// How an endpoint is doing, whatever the operator wants of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum HealthState {
    /// Nothing speaks against it.
    #[default]
    Healthy,
    /// Something does, but not enough to take it out: it serves, and is probed at the faster interval.
    Suspect,
    /// Probes say that it cannot serve, or no probe has succeeded yet where that is asked for; or it is a node of another
    /// cluster, or nobody has looked yet whether it is.
    Unhealthy,
    /// Taken out for a time because of its requests' failures.
    Ejected,
}

/// Why an endpoint is not simply up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// No probe has succeeded yet: see [`HealthCheck::wait_for_first_success`].
    #[error("no probe has succeeded yet")]
    Unproven,
    /// A probe failed, or as many as were needed.
    #[error("probe failed: {0}")]
    Probe(ProbeFailure),
    /// nginx's rule: [`max_fails`](crate::Endpoint::max_fails).
    #[error("as many failures as max_fails allows")]
    MaxFails,
    /// Too many failures in a row: [`Outlier::consecutive`].
    #[error("too many failures in a row")]
    Consecutive,
    /// A success rate below that of the others: [`Outlier::success_rate`].
    #[error("fewer requests succeed than on the others")]
    SuccessRate,
    /// A request timed out, and none has succeeded since.
    #[error("a request timed out")]
    Slow,
    /// Its metastore has not been compared with the others' yet: `MetastoreCheck`.
    #[error("its metastore has not been compared yet")]
    Unchecked,
    /// It is a node of another cluster: `MetastoreCheck`.
    #[error("it belongs to another cluster: {0}")]
    OtherMetastore(Mismatch),
}

/// What shows that a node belongs to another cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Mismatch {
    /// Its `kylin.metadata.url`.
    #[error("its metadata URL is another one")]
    MetadataUrl,
    /// The name of its session cookie, in which Kylin 5 has a digest of that URL.
    #[error("its session cookie is named after another metastore")]
    SessionCookie,
    /// A project of the same name as the others', with another id.
    #[error("a project of the same name has another id")]
    Project,
}

/// What was wrong with the answer to a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeFailure {
    /// No connection could be made.
    #[error("no connection")]
    Unreachable,
    /// The connection broke, or what came back is not HTTP.
    #[error("no valid answer")]
    Broken,
    /// No whole answer came in time.
    #[error("no answer in time")]
    Timeout,
    /// A status that is not among those expected.
    #[error("unexpected status {}", .0.as_u16())]
    Status(StatusCode),
    /// A body that is not what was expected.
    #[error("the body is not what was expected")]
    Body,
}
