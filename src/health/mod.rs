//! Whether an endpoint can serve: state machines that derive a [`HealthState`] from the outcomes of
//! requests and probes.
//!
//! # The state of a node
//!
//! Three facts decide which traffic an endpoint gets, as in HAProxy. They are independent of each
//! other. Discovery or the application makes the endpoint a member of the
//! [cluster](crate::Cluster). The operator sets the [`AdminState`](crate::endpoint::AdminState).
//! Requests, probes and time move the [`HealthState`]. A member gets:
//!
//! | | ready | drain | maintenance |
//! |---|---|---|---|
//! | **healthy** | new requests, bound sessions, probes | bound sessions, probes | nothing |
//! | **suspect** | new requests, bound sessions, probes | bound sessions, probes | nothing |
//! | **draining** | bound sessions, probes | bound sessions, probes | nothing |
//! | **unhealthy** | probes | probes | nothing |
//! | **ejected** | probes | probes | nothing |
//!
//! [`AdminState::admits`](crate::endpoint::AdminState::admits) is this table as a function.
//!
//! *On trial* means that a ready endpoint gets one new request at a time although it is draining,
//! or was ejected because it could not be reached. The first trial is due 1 s after the drain
//! began, or 250 ms after the ejection. Each trial that fails doubles the time until the next, up
//! to 30 s.
//!
//! The health of a member changes like this:
//!
//! | health | a request | a probe | time |
//! |---|---|---|---|
//! | **healthy** | timed out, or failures for which no rule ejects: suspect. Failures: ejected. Signs that the node is stopping: draining | failed: suspect. Refused while requests fail, or twice: draining. Failed `fall` times in a row: unhealthy | |
//! | **suspect** | succeeded: healthy. Else as above | succeeded: healthy. Else as above | |
//! | **draining** | succeeded on trial: healthy. Failures of bound sessions: ejected | succeeded, at least 1 s after the drain began: healthy. Failed `fall` times: unhealthy | 30 s after the trial was due, if none came: healthy |
//! | **ejected**, not reached | succeeded, on trial or of a bound session when the trial is due: healthy | succeeded: healthy; after failed returns it waits as trials do. Failed `fall` times: unhealthy | trial due: suspect |
//! | **ejected**, for its responses | nothing | refused: from now on as an endpoint that was not reached. Failed `fall` times: unhealthy | its time is over: healthy |
//! | **ejected**, by nginx's rule | succeeded after `fail_timeout`: healthy | succeeded, if no failure reached the node: healthy. Failed `fall` times: unhealthy | `fail_timeout` is over: suspect, and one request at a time |
//! | **unhealthy**, by probes | nothing: those in flight continue | succeeded `rise` times, or once if the node had refused: what it was before | |
//! | **unhealthy**, not verified or quarantined | nothing | the metastore check admits it | |
//!
//! Events from outside change health only in these cases:
//!
//! | event | what it changes |
//! |---|---|
//! | discovery adds an endpoint | it is healthy, begins its slow start, and is probed at once; with a metastore check it is verified first |
//! | discovery updates an endpoint, or the order | nothing: live state belongs to the id. At another address the node must be verified again |
//! | discovery removes an endpoint | it gets no more requests. Requests in flight continue; its live state ends with them, or continues if it returns before |
//! | discovery fails, or finds no node | nothing |
//! | the operator drains an endpoint or makes it ready | nothing |
//! | the operator begins maintenance | the results of probes are forgotten |
//! | the operator ends maintenance | slow start begins, and the node must be verified again. An ejection continues |
//!
//! These rules hold in every sequence of events:
//!
//! - While any ready endpoint responds, requests are served: [panic
//!   mode](crate::cluster::ClusterBuilder::panic_mode) uses it if health keeps requests from all
//!   endpoints.
//! - No request takes out the last endpoint that is healthy or suspect. An endpoint whose trial is
//!   due may be dead, so it does not count.
//! - An endpoint that responds again is back with the next successful probe. There are two
//!   exceptions: an ejection for responses lasts its full time, and after failed returns the
//!   endpoint waits for up to 30 s.
//! - Failures before a successful probe, or older than the [interval](Outlier::interval), eject
//!   nothing later.
//!
//! # Mechanisms
//!
//! | mechanism | default | effect |
//! |---|---|---|
//! | [`Outlier`] | on | failures in a row, or a success rate below that of the other endpoints, eject |
//! | nginx's rule | off; if it is set, it replaces [`Outlier`] | [`max_fails`](crate::Endpoint::max_fails) failures within [`fail_timeout`](crate::Endpoint::fail_timeout) eject; afterwards one request at a time tries the endpoint |
//! | [`HealthCheck`](crate::probe::HealthCheck) | off | a [`Probe`](crate::probe::Probe) at an interval reports the endpoint as healthy or unhealthy |
//! | [`MetastoreCheck`](crate::probe::MetastoreCheck) | off | a node of another metastore is quarantined, in panic mode too |
//! | failures for which no rule ejects: at the only endpoint, at all of them, or fewer than the rule needs | on | the endpoint is suspect, for the status and the log, and still serves: after one refused connection at the only endpoint, otherwise after five failures in a row |
//! | a request that timed out ([`Outcome::Slow`](crate::Outcome::Slow)) | on | the endpoint is suspect and is probed soon; it is never ejected, because a Kylin query may take minutes |
//!
//! An endpoint is draining while its node shows that it is stopping:
//!
//! - it refuses connections;
//! - successful responses to three different clients in a row close connections, which it kept open
//!   before;
//! - two different clients in a row get a 503 with `Retry-After`.
//!
//! An endpoint that refuses connections while it serves others keeps a smaller share.
//!
//! A successful probe also ends an ejection, by either rule, of an endpoint that [could not be
//! reached](crate::Outcome::Unreachable).
//!
//! An endpoint that is new or returns may ramp up with [`SlowStart`]. When no endpoint is eligible,
//! [`panic_mode`](crate::cluster::ClusterBuilder::panic_mode), which is on by default, uses the
//! endpoint that failed least recently.

pub(crate) mod impaired;
mod membership;
pub(crate) mod outcomes;
pub(crate) mod outlier;
pub(crate) mod passive;
pub(crate) mod probe_level;
mod reduced_share;
mod rise_fall;
pub(crate) mod slow_start;
pub(crate) mod state;
mod withdrawal;

use http::StatusCode;

pub(crate) use membership::{CheckerId, Membership};
pub use outlier::Outlier;
pub use probe_level::ProbeLevel;
pub(crate) use rise_fall::{Thresholds, Transition};
pub use slow_start::SlowStart;
pub(crate) use state::ProbePace;

/// The health of an endpoint according to requests and probes. The operator's
/// [`AdminState`](crate::endpoint::AdminState) is independent of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum HealthState {
    /// No failure is known.
    #[default]
    Healthy,
    /// There are failures for which no rule ejects the endpoint. It serves, and is probed at the
    /// fast interval.
    Suspect,
    /// Probes fail, a required first probe has not succeeded yet, or the endpoint is quarantined or
    /// not verified yet.
    Unhealthy,
    /// The node shows that it is stopping. The endpoint serves the sessions that are bound to it,
    /// and gets no new ones.
    Draining,
    /// Requests failed, and the endpoint is taken out of service for a time.
    Ejected,
}

impl HealthState {
    /// Returns the name for logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            HealthState::Healthy => "healthy",
            HealthState::Suspect => "suspect",
            HealthState::Unhealthy => "unhealthy",
            HealthState::Draining => "draining",
            HealthState::Ejected => "ejected",
        }
    }
}

/// The reason why an endpoint is not healthy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// No probe has succeeded yet: see
    /// [`HealthCheck::wait_for_first_success`](crate::probe::HealthCheck::wait_for_first_success).
    #[error("no probe has succeeded yet")]
    Unproven,
    /// The last probes failed.
    #[error("probe failed: {0}")]
    Probe(ProbeFailure),
    /// The number of failed requests reached the limit of nginx's rule:
    /// [`max_fails`](crate::Endpoint::max_fails).
    #[error("max_fails failures within fail_timeout")]
    MaxFails,
    /// Too many requests in a row could not reach the endpoint: [`Outlier::consecutive`].
    #[error("too many failed connections in a row")]
    Unreachable,
    /// Too many requests failed in a row: [`Outlier::consecutive`].
    #[error("too many failures in a row")]
    Consecutive,
    /// The success rate is below that of the other endpoints: [`Outlier::success_rate`].
    #[error("success rate below that of the other endpoints")]
    SuccessRate,
    /// Successful responses to different clients in a row closed their connections, which the node
    /// used to keep open.
    #[error("responses close their connections")]
    Closing,
    /// The node accepts no connection, and no request or probe has succeeded since.
    #[error("accepts no connections")]
    Refusing,
    /// The node responded with 503 and `Retry-After` to different clients in a row.
    #[error("responds with 503 and Retry-After")]
    RetryAfter,
    /// Requests fail, no rule ejects the endpoint for them, and no request or probe has succeeded
    /// since.
    #[error("requests fail, and none has succeeded since")]
    Failing,
    /// A request timed out, and no request or probe has succeeded since.
    #[error("a request timed out")]
    Slow,
    /// The metastore of the node is not verified yet:
    /// [`MetastoreCheck`](crate::probe::MetastoreCheck).
    #[error("the metastore is not verified yet")]
    Unverified,
    /// The node has another metastore: [`MetastoreCheck`](crate::probe::MetastoreCheck).
    #[error("quarantined: {0}")]
    Quarantined(Mismatch),
}

impl Reason {
    /// Returns whether errors of requests or probes are the reason.
    pub(crate) fn has_error(self) -> bool {
        match self {
            Reason::Probe(_)
            | Reason::MaxFails
            | Reason::Unreachable
            | Reason::Consecutive
            | Reason::SuccessRate
            | Reason::Refusing
            | Reason::Failing => true,
            Reason::Unproven
            | Reason::Closing
            | Reason::RetryAfter
            | Reason::Slow
            | Reason::Unverified
            | Reason::Quarantined(_) => false,
        }
    }
}

/// The difference by which a node shows that it has another metastore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Mismatch {
    /// Another `kylin.metadata.url`.
    #[error("the node has another metadata URL")]
    MetadataUrl,
    /// Another name of the session cookie, which is a digest of the metadata URL in Kylin 5.
    #[error("the node's session cookie has another name")]
    SessionCookie,
    /// A project of the same name with another id.
    #[error("a project of the same name has another id")]
    Project,
}

/// The reason why a probe failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeFailure {
    /// The node accepts no connection.
    #[error("no connection")]
    Unreachable,
    /// The connection broke, or the response is not valid HTTP.
    #[error("no valid response")]
    Broken,
    /// No complete response came in time.
    #[error("no response in time")]
    Timeout,
    /// The status is not an expected one.
    #[error("unexpected status {}", .0.as_u16())]
    Status(StatusCode),
    /// The body is not as expected.
    #[error("unexpected body")]
    Body,
}
