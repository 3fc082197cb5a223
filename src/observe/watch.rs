use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::change::{
    ClusterChange, ClusterChanged, DiscoveryChanged, EndpointChange, EndpointChanged, FoundBy, StoreChanged,
};
use super::observers::call;
use super::{AttemptPhase, Observer};
use crate::clock::{Clock as _, SystemClock};
use crate::cluster::{Cluster, ClusterStatus, EndpointStatus};
use crate::discovery::{DiscoveryHandle, DiscoveryStatus, SourceState};
use crate::endpoint::AdminState;
use crate::health::Reason;
use crate::session::Sessions;

/// The interval at which states are read that only the passage of time changes, such as the end of
/// an ejection.
const INTERVAL: Duration = Duration::from_secs(1);

/// How long a source of nodes may take before it is reported, and how long a cluster may have no
/// endpoint at its start.
const START_TIME: Duration = Duration::from_secs(1);

/// Reports changes of state to an observer, until it is dropped.
///
/// A change of health, of membership or by the operator is reported at once. A change by the
/// passage of time is reported within a second. A state that ends before the task of the watch has
/// run is not reported.
///
/// ```
/// use kylin_lb::observe::{EndpointChanged, Observer, Watch};
///
/// struct Print;
///
/// impl Observer for Print {
///     fn endpoint_changed(&self, event: &EndpointChanged<'_>) {
///         println!("{} of {} is {}", event.endpoint.id, event.cluster, event.change);
///     }
/// }
///
/// # async fn run(cluster: kylin_lb::Cluster) {
/// let watch = Watch::new(Print).cluster("kylin", &cluster);
/// # drop(watch);
/// # }
/// ```
#[must_use = "a watch that is dropped reports nothing more"]
pub struct Watch {
    observer: Arc<dyn Observer>,
    /// The drop of the set aborts the tasks.
    tasks: JoinSet<()>,
}

impl Watch {
    /// Returns a watch that watches nothing yet.
    pub fn new(observer: impl Observer) -> Self {
        Watch { observer: Arc::new(observer), tasks: JoinSet::new() }
    }

    /// Reports changes of the endpoints of `cluster`, named `name` in events, from this call on.
    ///
    /// # Panics
    /// Panics if called outside of a tokio runtime.
    pub fn cluster<B: Send + Sync + 'static>(mut self, name: impl Into<String>, cluster: &Cluster<B>) -> Self {
        self.tasks.spawn(watch_cluster(Arc::clone(&self.observer), name.into(), cluster.clone(), cluster.status()));
        self
    }

    /// Reports whether the store of `sessions`, named `name` in events, is available.
    ///
    /// # Panics
    /// Panics if called outside of a tokio runtime.
    pub fn sessions(mut self, name: impl Into<String>, sessions: &Sessions) -> Self {
        self.tasks.spawn(watch_sessions(Arc::clone(&self.observer), name.into(), sessions.clone()));
        self
    }

    /// Reports the state of a source of nodes, named `name` in events.
    ///
    /// # Panics
    /// Panics if called outside of a tokio runtime.
    pub fn discovery(mut self, name: impl Into<String>, discovery: &DiscoveryHandle) -> Self {
        let (observer, name, mut changes) = (Arc::clone(&self.observer), name.into(), discovery.subscribe());
        self.tasks.spawn(async move {
            let tell = |status: &DiscoveryStatus| {
                call(&*observer, |observer| observer.discovery_changed(&DiscoveryChanged { source: &name, status }));
            };
            if timeout(START_TIME, changes.wait_for(|status| status.source != SourceState::Waiting)).await.is_err() {
                tell(&changes.borrow().clone());
            }
            let mut before = (SourceState::Waiting, 0, 0);
            loop {
                let status = changes.borrow_and_update().clone();
                let now = (status.source, status.endpoints, status.rejected);
                if std::mem::replace(&mut before, now) != now {
                    tell(&status);
                }
                if changes.changed().await.is_err() {
                    return;
                }
            }
        });
        self
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("watched", &self.tasks.len()).finish_non_exhaustive()
    }
}

async fn watch_sessions(observer: Arc<dyn Observer>, name: String, sessions: Sessions) {
    let (mut was_available, address) = (true, sessions.store_address());
    loop {
        // Enabled before the state is read, so that no change is missed in between.
        let mut changed = pin!(sessions.store_availability().notified());
        changed.as_mut().enable();
        let available = sessions.is_store_available();
        if std::mem::replace(&mut was_available, available) != available {
            let failure = sessions.last_store_failure().filter(|_| !available);
            let phase = |connects| if connects { AttemptPhase::Connect } else { AttemptPhase::Response };
            let event = StoreChanged {
                store: &name,
                address: address.as_deref(),
                available,
                error: failure.as_ref().map(|failure| &*failure.error),
                phase: failure.as_ref().and_then(|failure| failure.is_of_connecting).map(phase),
                pending_writes: sessions.pending_writes(),
            };
            call(&*observer, |observer| observer.store_changed(&event));
        }
        changed.await;
    }
}

async fn watch_cluster<B>(observer: Arc<dyn Observer>, name: String, cluster: Cluster<B>, mut before: ClusterStatus) {
    let (mut members, health) = (cluster.watch_members(), cluster.health_changes());
    let mut differ = Differ { observer: &*observer, name: &name, drained: Vec::new(), lost: None };
    if !before.endpoints.iter().any(EndpointStatus::is_up) {
        differ.start_without(&cluster).await;
    }
    loop {
        // Enabled before the state is read, so that no change is missed in between.
        let mut changed = pin!(health.changed());
        changed.as_mut().enable();
        members.mark_seen();
        let now = cluster.status();
        differ.compare(&before, &now);
        before = now;
        tokio::select! {
            () = changed => {}
            () = members.changed() => {}
            () = sleep(INTERVAL) => {}
        }
    }
}

/// Finds the differences between two states of a cluster.
struct Differ<'a> {
    observer: &'a dyn Observer,
    name: &'a str,
    /// The endpoints that were reported as drained.
    drained: Vec<crate::endpoint::EndpointId>,
    /// The time since which no endpoint could serve.
    lost: Option<Instant>,
}

impl Differ<'_> {
    /// Gives a cluster that starts without an endpoint the time to find one.
    async fn start_without<B>(&mut self, cluster: &Cluster<B>) {
        let found = async {
            while !cluster.status().endpoints.iter().any(EndpointStatus::is_up) {
                sleep(START_TIME / 20).await;
            }
        };
        if timeout(START_TIME, found).await.is_err() {
            self.lose(&cluster.status());
        }
    }

    fn compare(&mut self, before: &ClusterStatus, now: &ClusterStatus) {
        for endpoint in &now.endpoints {
            match before.endpoints.iter().find(|old| old.id == endpoint.id) {
                None => self.tell(EndpointChange::Added, endpoint, None, FoundBy::Configuration, None),
                Some(old) => self.compare_endpoint(old, endpoint),
            }
        }
        let removed = |old: &&EndpointStatus| now.endpoints.iter().all(|endpoint| endpoint.id != old.id);
        for old in before.endpoints.iter().filter(removed) {
            self.tell(EndpointChange::Removed, old, None, FoundBy::Configuration, None);
        }
        self.drained.retain(|id| {
            now.endpoints.iter().any(|endpoint| endpoint.id == *id && endpoint.admin_state == AdminState::Drain)
        });
        match (self.lost, now.endpoints.iter().any(EndpointStatus::is_up)) {
            (None, false) => self.lose(now),
            (Some(since), true) => {
                self.lost = None;
                let returned = now.endpoints.iter().filter(|endpoint| endpoint.is_up()).map(|endpoint| endpoint.since);
                // An endpoint that the operator has made ready was healthy before.
                let returned = returned.filter(|at| *at >= since).min().unwrap_or_else(|| SystemClock.now());
                let lasted = returned.saturating_duration_since(since);
                self.tell_cluster(ClusterChange::Available, now, Some(lasted));
            }
            _ => {}
        }
    }

    fn lose(&mut self, now: &ClusterStatus) {
        // A change by the operator does not change the health, so the cluster is lost now.
        let are_ready = now.endpoints.iter().all(|endpoint| endpoint.admin_state == AdminState::Ready);
        let last = now.endpoints.iter().map(|endpoint| endpoint.since).max().filter(|_| are_ready);
        self.lost = Some(last.unwrap_or_else(|| SystemClock.now()));
        self.tell_cluster(ClusterChange::Unavailable, now, None);
    }

    fn compare_endpoint(&mut self, old: &EndpointStatus, endpoint: &EndpointStatus) {
        let set_by = if endpoint.admin_state_is_set { FoundBy::Operator } else { FoundBy::Configuration };
        if old.admin_state != endpoint.admin_state {
            let change = EndpointChange::of_admin_state(endpoint.admin_state);
            self.tell(change, endpoint, None, set_by, None);
        }
        let is_drained = endpoint.admin_state == AdminState::Drain && endpoint.in_flight + endpoint.waiting == 0;
        if is_drained && !self.drained.contains(&endpoint.id) {
            self.drained.push(endpoint.id.clone());
            self.tell(EndpointChange::Drained, endpoint, None, set_by, None);
        }
        if old.slow != endpoint.slow {
            let change = if endpoint.slow { EndpointChange::Slowed } else { EndpointChange::Restored };
            self.tell(change, endpoint, None, FoundBy::Requests, None);
        }
        if let Some(change) = EndpointChange::of_health(old.health, endpoint.health) {
            let reason = endpoint.reason.filter(|_| change != EndpointChange::Readmitted).or(old.reason);
            let lasted = endpoint.since.checked_duration_since(old.since);
            self.tell(change, endpoint, reason, FoundBy::of(reason), lasted);
        }
    }

    fn tell(
        &self,
        change: EndpointChange,
        endpoint: &EndpointStatus,
        reason: Option<Reason>,
        found_by: FoundBy,
        lasted: Option<Duration>,
    ) {
        let event = EndpointChanged { cluster: self.name, change, endpoint, reason, found_by, lasted };
        call(self.observer, |observer| observer.endpoint_changed(&event));
    }

    fn tell_cluster(&self, change: ClusterChange, status: &ClusterStatus, lasted: Option<Duration>) {
        let event = ClusterChanged { cluster: self.name, change, status, lasted };
        call(self.observer, |observer| observer.cluster_changed(&event));
    }
}
