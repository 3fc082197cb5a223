//! The events of state: of endpoints, clusters, stores and sources of nodes.

use std::fmt;
use std::time::Duration;

use super::AttemptPhase;
use crate::cluster::{ClusterStatus, EndpointStatus};
use crate::discovery::DiscoveryStatus;
use crate::endpoint::AdminState;
use crate::health::{HealthState, ProbeFailure, Reason};

/// The state of an endpoint has changed.
#[derive(Debug)]
#[non_exhaustive]
pub struct EndpointChanged<'a> {
    /// The name of the cluster, as it was given to the [`Watch`](super::Watch).
    pub cluster: &'a str,
    /// The change.
    pub change: EndpointChange,
    /// The current state of the endpoint, or the last one if it was removed.
    pub endpoint: &'a EndpointStatus,
    /// The reason why the endpoint is, or was, not healthy.
    pub reason: Option<Reason>,
    /// The source of the change.
    pub found_by: FoundBy,
    /// The duration of the former state of health.
    pub lasted: Option<Duration>,
}

impl EndpointChanged<'_> {
    /// Returns the phase of an attempt or a probe whose failures are the reason.
    pub fn phase(&self) -> Option<AttemptPhase> {
        match self.reason? {
            Reason::Unreachable | Reason::Probe(ProbeFailure::Unreachable) => Some(AttemptPhase::Connect),
            Reason::Probe(ProbeFailure::Body) => Some(AttemptPhase::Body),
            Reason::Refusing => Some(AttemptPhase::Connect),
            Reason::Probe(_)
            | Reason::Closing
            | Reason::RetryAfter
            | Reason::Consecutive
            | Reason::SuccessRate
            | Reason::MaxFails
            | Reason::Slow => Some(AttemptPhase::Response),
            Reason::Failing | Reason::Unproven | Reason::Unverified | Reason::Quarantined(_) => None,
        }
    }
}

/// A change at an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EndpointChange {
    /// The endpoint was added to the cluster.
    Added,
    /// The endpoint was removed from the cluster.
    Removed,
    /// The endpoint has failures, but still serves.
    Suspect,
    /// Probes fail, or the endpoint is quarantined.
    Unhealthy,
    /// The endpoint was ejected, because requests fail.
    Ejected,
    /// The endpoint serves new sessions again after it was unhealthy, ejected or draining.
    Readmitted,
    /// A suspect endpoint is healthy again.
    Recovered,
    /// The operator made the endpoint ready.
    Ready,
    /// The operator drains the endpoint, or its node shows that it is stopping.
    Draining,
    /// A draining endpoint has no more requests in flight.
    Drained,
    /// The operator put the endpoint into maintenance.
    Maintenance,
    /// The node is slower than the others, so that the endpoint's weight is reduced.
    Slowed,
    /// The node is no longer slower than the others.
    Restored,
}

impl EndpointChange {
    /// Returns the name for logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            EndpointChange::Added => "added",
            EndpointChange::Removed => "removed",
            EndpointChange::Suspect => "suspect",
            EndpointChange::Unhealthy => "unhealthy",
            EndpointChange::Ejected => "ejected",
            EndpointChange::Readmitted => "readmitted",
            EndpointChange::Recovered => "recovered",
            EndpointChange::Ready => "ready",
            EndpointChange::Draining => "draining",
            EndpointChange::Drained => "drained",
            EndpointChange::Maintenance => "maintenance",
            EndpointChange::Slowed => "slowed",
            EndpointChange::Restored => "restored",
        }
    }

    /// Returns the change of health, if it is one.
    pub(super) fn of_health(before: HealthState, now: HealthState) -> Option<Self> {
        let is_out = |health| matches!(health, HealthState::Unhealthy | HealthState::Ejected | HealthState::Draining);
        match now {
            _ if before == now => None,
            HealthState::Ejected => Some(EndpointChange::Ejected),
            HealthState::Unhealthy => Some(EndpointChange::Unhealthy),
            HealthState::Draining => Some(EndpointChange::Draining),
            HealthState::Healthy | HealthState::Suspect if is_out(before) => Some(EndpointChange::Readmitted),
            HealthState::Healthy => Some(EndpointChange::Recovered),
            HealthState::Suspect => Some(EndpointChange::Suspect),
        }
    }

    pub(super) fn of_admin_state(state: AdminState) -> Self {
        match state {
            AdminState::Ready => EndpointChange::Ready,
            AdminState::Drain => EndpointChange::Draining,
            AdminState::Maintenance => EndpointChange::Maintenance,
        }
    }
}

impl fmt::Display for EndpointChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The source of a change of an endpoint's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FoundBy {
    /// Requests of clients.
    Requests,
    /// Probes.
    Probes,
    /// The [metastore check](crate::probe::MetastoreCheck).
    MetastoreCheck,
    /// The operator or the application, by
    /// [`Cluster::set_admin_state`](crate::Cluster::set_admin_state).
    Operator,
    /// The membership or a setting of the endpoint, changed by a reload, a source of nodes, or the
    /// application.
    Configuration,
}

impl FoundBy {
    /// Returns the name for logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            FoundBy::Requests => "requests",
            FoundBy::Probes => "probes",
            FoundBy::MetastoreCheck => "metastore_check",
            FoundBy::Operator => "operator",
            FoundBy::Configuration => "configuration",
        }
    }

    pub(super) fn of(reason: Option<Reason>) -> Self {
        match reason {
            Some(Reason::Probe(_) | Reason::Unproven) => FoundBy::Probes,
            Some(Reason::Unverified | Reason::Quarantined(_)) => FoundBy::MetastoreCheck,
            Some(_) => FoundBy::Requests,
            None => FoundBy::Operator,
        }
    }
}

/// A cluster has lost its last healthy endpoint, or has one again.
#[derive(Debug)]
#[non_exhaustive]
pub struct ClusterChanged<'a> {
    /// The name of the cluster, as it was given to the [`Watch`](super::Watch).
    pub cluster: &'a str,
    /// The change.
    pub change: ClusterChange,
    /// The cluster with all its endpoints.
    pub status: &'a ClusterStatus,
    /// How long no endpoint could serve, if one can again.
    pub lasted: Option<Duration>,
}

/// A change at a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ClusterChange {
    /// No endpoint is up, that is, ready and healthy or suspect. Clients are refused or, in [panic
    /// mode](crate::cluster::ClusterBuilder::panic_mode), reach an endpoint that failed.
    Unavailable,
    /// An endpoint is up again.
    Available,
}

/// A session store became unavailable or available.
#[derive(Debug)]
#[non_exhaustive]
pub struct StoreChanged<'a> {
    /// The name of the store, as it was given to the [`Watch`](super::Watch).
    pub store: &'a str,
    /// The [address](crate::session::SessionStore::address) of the store, if it has one.
    pub address: Option<&'a str>,
    /// Whether the store is available now.
    pub available: bool,
    /// The error, with its causes, that made the store unavailable. It contains no credentials.
    /// `None` if the store is available, or did not respond in time.
    pub error: Option<&'a str>,
    /// The phase in which that error occurred: a new connection, or the response. `None` if that is
    /// unknown, as after a timeout.
    pub phase: Option<AttemptPhase>,
    /// The number of writes that wait for the store.
    pub pending_writes: usize,
}

/// The state of a source of nodes, or the membership, has changed.
#[derive(Debug)]
#[non_exhaustive]
pub struct DiscoveryChanged<'a> {
    /// The name of the source, as it was given to the [`Watch`](super::Watch).
    pub source: &'a str,
    /// The current status. A source that has not responded within a second is reported once with
    /// [`Waiting`](crate::discovery::SourceState::Waiting).
    pub status: &'a DiscoveryStatus,
}
