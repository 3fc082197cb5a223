//! The regular asking of every endpoint of a cluster.
//!
//! A task watches the membership and keeps one task per endpoint, which asks, waits and asks again. All of them end when the
//! handle is dropped; one that panics (in a host's backend) is replaced at the next interval.

use std::collections::HashMap;
use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{sleep_until, timeout_at};

use super::probe::{Finding, Hindrance, Probe};
use crate::backend::Backend;
use crate::clock::timer_in;
use crate::cluster::{Cluster, MembersWatch};
use crate::cookie::CookieJar;
use crate::endpoint::{AdminState, EndpointId, Live, Member};
use crate::health::ProbeFailure;
use crate::health::verdict::{Change, Thresholds};

/// How long a login that was refused is not tried again.
const LOGIN_PAUSE: Duration = Duration::from_secs(60);
const LONGEST_INTERVAL: Duration = Duration::from_secs(86_400);

/// How the endpoints of a cluster are probed. [`start`](Self::start) begins.
///
/// Endpoints that are ready or drained are probed, those in maintenance are not (the table in [`health`](super)). One that
/// joins the cluster is probed at once; at the start the first probes are spread over the fast interval. Whatever shakes the
/// trust in an endpoint - a failed probe, a failed request, a request that timed out - has it probed at the fast interval.
///
/// ```
/// use kylin_lb::probe::{HealthCheck, Probe};
/// use std::time::Duration;
/// # use kylin_lb::testing::Scripted;
/// # use kylin_lb::{Cluster, Endpoint};
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// # let node = Scripted::answering(http::StatusCode::OK, "");
/// let cluster = Cluster::builder().endpoint(Endpoint::new("q1", node)?).build()?;
/// let checker = HealthCheck::new(Probe::kylin_version()).interval(Duration::from_secs(5)).start(&cluster);
/// // Probing ends, and what the probes said is forgotten, when this is dropped.
/// drop(checker);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct HealthCheck {
    probe: Probe,
    interval: Duration,
    fast_interval: Duration,
    jitter: f64,
    timeout: Duration,
    thresholds: Thresholds,
    concurrency: usize,
    wait: bool,
}

impl HealthCheck {
    /// HealthCheck with `probe`: HAProxy's `fall` 3 and `rise` 2, every 5 s.
    pub fn new(probe: Probe) -> Self {
        HealthCheck {
            probe,
            interval: Duration::from_secs(5),
            fast_interval: Duration::from_secs(1),
            jitter: 0.1,
            timeout: Duration::from_secs(5),
            thresholds: Thresholds { fall: 3, rise: 2 },
            concurrency: 4,
            wait: false,
        }
    }

    /// How long after a probe has ended the next begins. Default 5 s: with `fall` 3 a node that is dead is out in 7 s. From
    /// 1 ms to a day.
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval.clamp(Duration::from_millis(1), LONGEST_INTERVAL);
        self
    }

    /// The interval while an endpoint is in doubt or on its way up, and the shortest after a failed request or one that
    /// timed out. Default 1 s; never longer than the interval.
    pub fn fast_interval(mut self, interval: Duration) -> Self {
        self.fast_interval = interval.max(Duration::from_millis(1));
        self
    }

    /// By which part of it an interval may be longer or shorter at random, so that front ends do not ask in step. Default
    /// 0.1; 0 to 0.5.
    pub fn jitter(mut self, part: f64) -> Self {
        self.jitter = if part.is_nan() { 0.1 } else { part.clamp(0.0, 0.5) };
        self
    }

    /// How long an answer may take, whole. Default 5 s, which is longer than most pauses of a JVM;
    /// [`Probe::timeout`] goes before it.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How many failures in a row take an endpoint down. Default 3; 0 counts as 1.
    pub fn fall(mut self, failures: u32) -> Self {
        self.thresholds.fall = failures.max(1);
        self
    }

    /// How many successes in a row bring it back. Default 2; 0 counts as 1.
    pub fn rise(mut self, successes: u32) -> Self {
        self.thresholds.rise = successes.max(1);
        self
    }

    /// How many probes may be under way at once, over all endpoints. Default 4; 0 counts as 1.
    pub fn concurrency(mut self, probes: usize) -> Self {
        self.concurrency = probes.clamp(1, Semaphore::MAX_PERMITS);
        self
    }

    /// Whether an endpoint may serve only after a first success: when checking begins, when it joins the cluster, and when it
    /// comes back from maintenance. Default: it serves until probes say otherwise.
    pub fn wait_for_first_success(mut self, wait: bool) -> Self {
        self.wait = wait;
        self
    }

    /// Begins to probe the endpoints of `cluster` and those that join it. Where a cluster is checked twice, the later one has
    /// the word.
    ///
    /// # Panics
    /// Outside of a tokio runtime, as [`tokio::spawn`] does.
    pub fn start<B: Backend>(self, cluster: &Cluster<B>) -> HealthChecker {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let fast_interval = self.fast_interval.min(self.interval);
        let room = Semaphore::new(self.concurrency);
        let checking = Arc::new(Checking { id, checks: HealthCheck { fast_interval, ..self }, room });
        let mut watch = Watch { checking, members: cluster.watch_members(), asked: HashMap::new() };
        watch.follow(true);
        HealthChecker { _task: Task(tokio::spawn(watch.run())) }
    }
}

/// Probing under way. Dropping it ends the probing; what the probes said is then forgotten, because nobody would ever take it
/// back.
#[must_use = "dropping the checker ends the probing"]
pub struct HealthChecker {
    _task: Task,
}

impl fmt::Debug for HealthChecker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HealthChecker").finish_non_exhaustive()
    }
}

/// A task that ends with its handle.
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Checking {
    /// Tells the words of this checker from those of others.
    id: u64,
    checks: HealthCheck,
    room: Semaphore,
}

/// Follows the membership.
struct Watch<B> {
    checking: Arc<Checking>,
    members: MembersWatch<B>,
    /// By the endpoint's uid.
    asked: HashMap<u64, Asked<B>>,
}

struct Asked<B> {
    live: Arc<Live>,
    backend: Arc<B>,
    task: Task,
}

impl<B: Backend> Watch<B> {
    async fn run(mut self) {
        loop {
            self.follow(false);
            // A look at times all the same, for tasks that a panic of the host's backend has ended.
            let _ = timeout_at(timer_in(self.checking.checks.interval), self.members.changed()).await;
        }
    }

    /// Begins with endpoints that are new or to be asked again, stops with those that are not.
    fn follow(&mut self, at_start: bool) {
        let members = self.members.members();
        let wanted = |member: &Member| member.settings.admin_state != AdminState::Maintenance;
        let checker = self.checking.id;
        self.asked.retain(|uid, asked| {
            let present = members.iter().find(|(member, _)| member.live.uid == *uid);
            if present.is_none() {
                asked.live.health.detach(checker, asked.live.now_ms());
            }
            present.is_some_and(|(member, _)| wanted(member))
        });
        let count = u32::try_from(members.len()).unwrap_or(u32::MAX).max(1);
        for (turn, (member, backend)) in (0..).zip(members) {
            let Member { settings, live, .. } = &*member;
            let before = self.asked.get(&live.uid);
            let goes_on =
                before.is_some_and(|asked| Arc::ptr_eq(&asked.backend, &backend) && !asked.task.0.is_finished());
            if goes_on || !wanted(&member) {
                continue;
            }
            if before.is_none() {
                live.health.attach(checker, self.checking.checks.wait, live.now_ms());
            }
            let first = if at_start {
                self.checking.checks.fast_interval.mul_f64(turn as f64 / f64::from(count))
            } else {
                Duration::ZERO
            };
            let asking = Asking {
                checking: Arc::clone(&self.checking),
                id: settings.id.clone(),
                host: Arc::clone(&settings.placement),
                live: Arc::clone(live),
                backend: Arc::clone(&backend),
            };
            let task = Task(tokio::spawn(asking.run(first)));
            self.asked.insert(live.uid, Asked { live: Arc::clone(live), backend, task });
        }
    }
}

impl<B> Drop for Watch<B> {
    fn drop(&mut self) {
        // Those in maintenance are not asked, but have a verdict all the same.
        let members = self.members.members();
        for live in members.iter().map(|(member, _)| &member.live).chain(self.asked.values().map(|asked| &asked.live)) {
            live.health.detach(self.checking.id, live.now_ms());
        }
    }
}

/// Asks one endpoint, again and again.
struct Asking<B> {
    checking: Arc<Checking>,
    id: EndpointId,
    host: Arc<str>,
    live: Arc<Live>,
    backend: Arc<B>,
}

impl<B: Backend> Asking<B> {
    async fn run(self, first: Duration) {
        let checks = &self.checking.checks;
        let mut cookies = CookieJar::default();
        sleep_until(timer_in(first)).await;
        loop {
            let pause = {
                // The semaphore is never closed.
                let _room = self.checking.room.acquire().await;
                // What roused us until now is answered by this probe.
                let _ = pin!(self.live.health.wake.notified()).enable();
                let finding = checks.probe.ask(&*self.backend, &self.host, &mut cookies, checks.timeout).await;
                self.hear(finding)
            };
            let (soonest, until) = (timer_in(checks.fast_interval), timer_in(pause.next));
            if pause.may_be_short && timeout_at(until, self.live.health.wake.notified()).await.is_ok() {
                sleep_until(soonest.min(until)).await;
            } else {
                sleep_until(until).await;
            }
        }
    }

    /// Takes a finding into account and says when to ask again.
    fn hear(&self, finding: Finding) -> Pause {
        let checks = &self.checking.checks;
        match finding {
            Finding::Well => self.observe(Ok(())),
            Finding::Ill(failure) => self.observe(Err(failure)),
            Finding::Nothing(Hindrance::Limit) => {}
            Finding::Nothing(Hindrance::Login) => {
                tracing::warn!(endpoint = %self.id, "the probe's login was refused, which says nothing of the endpoint");
                return Pause { next: self.jittered(checks.interval.max(LOGIN_PAUSE)), may_be_short: false };
            }
        }
        let soon = self.live.health.is_open();
        let next = self.jittered(if soon { checks.fast_interval } else { checks.interval });
        Pause { next, may_be_short: !soon }
    }

    fn observe(&self, result: Result<(), ProbeFailure>) {
        let Asking { id, live, checking, .. } = self;
        match (live.health.observe(checking.id, checking.checks.thresholds, result, live.now_ms()), result) {
            (Change::Fell, Err(reason)) => tracing::warn!(endpoint = %id, %reason, "endpoint down"),
            (Change::Doubted, Err(reason)) => tracing::info!(endpoint = %id, %reason, "endpoint in doubt"),
            (Change::Rose, _) => tracing::info!(endpoint = %id, "endpoint up"),
            _ => {}
        }
    }

    fn jittered(&self, interval: Duration) -> Duration {
        let jitter = self.checking.checks.jitter;
        interval.mul_f64(1.0 - jitter + 2.0 * jitter * fastrand::f64())
    }
}

/// How long to wait for the next probe.
struct Pause {
    next: Duration,
    /// May passive events cut it down to the fast interval?
    may_be_short: bool,
}
