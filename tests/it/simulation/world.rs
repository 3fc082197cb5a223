//! The state that the parts of a run share: time, randomness, history, and the detected faults.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fastrand::Rng;
use kylin_lb::clock::Clock;

/// One run of a seed. Clones refer to the same run.
#[derive(Debug, Clone)]
pub(super) struct World {
    pub(super) seed: u64,
    shared: Arc<Mutex<Shared>>,
    is_broken: Arc<tokio::sync::Notify>,
}

#[derive(Debug, Default)]
struct Shared {
    history: Vec<String>,
    faults: Vec<String>,
    began: Option<tokio::time::Instant>,
    /// The clients' requests in flight.
    open: u64,
    /// The time since which no node has failed; `None` while one is failing.
    well_since: Option<tokio::time::Instant>,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        World { seed, shared: Arc::default(), is_broken: Arc::default() }
    }

    /// Returns a separate source of randomness for this part of the run.
    pub(super) fn rng(&self, part: u64) -> Rng {
        Rng::with_seed(self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(part))
    }

    pub(super) fn begin(&self) {
        let now = tokio::time::Instant::now();
        let mut shared = self.shared.lock().unwrap();
        (shared.began, shared.well_since) = (Some(now), Some(now));
    }

    pub(super) fn log(&self, what: impl AsRef<str>) {
        let mut shared = self.shared.lock().unwrap();
        let at = shared.began.map_or(Duration::ZERO, |began| began.elapsed());
        shared.history.push(format!("{:>7} ms  {}", at.as_millis(), what.as_ref()));
    }

    /// Records that an invariant does not hold.
    pub(super) fn broken(&self, what: impl AsRef<str>) {
        self.log(format!("BROKEN: {}", what.as_ref()));
        self.shared.lock().unwrap().faults.push(what.as_ref().to_owned());
        self.is_broken.notify_one();
    }

    /// Waits for the first invariant that does not hold.
    pub(super) async fn until_broken(&self) {
        self.is_broken.notified().await;
    }

    pub(super) fn check(&self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.broken(what());
        }
    }

    pub(super) fn history(&self) -> Vec<String> {
        self.shared.lock().unwrap().history.clone()
    }

    pub(super) fn faults(&self) -> Vec<String> {
        self.shared.lock().unwrap().faults.clone()
    }

    /// Sets whether all nodes and the store work from now on.
    pub(super) fn set_well(&self, well: bool) {
        self.shared.lock().unwrap().well_since = well.then(tokio::time::Instant::now);
    }

    /// Returns how long all nodes and the store have been working.
    pub(super) fn well_for(&self) -> Option<Duration> {
        Some(self.shared.lock().unwrap().well_since?.elapsed())
    }

    pub(super) fn open(&self) -> u64 {
        self.shared.lock().unwrap().open
    }

    /// Counts a request of a client until the result is dropped.
    pub(super) fn request(&self) -> Open {
        self.shared.lock().unwrap().open += 1;
        Open(self.clone())
    }
}

pub(super) struct Open(World);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.shared.lock().unwrap().open -= 1;
    }
}

/// The clock of tokio's timers, which is paused.
#[derive(Debug, Clone, Copy)]
pub(super) struct PausedClock;

impl Clock for PausedClock {
    fn now(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }

    fn unix(&self) -> u64 {
        1_767_225_600
    }
}

pub(super) async fn pause(rng: &mut Rng, millis: std::ops::Range<u64>) {
    tokio::time::sleep(Duration::from_millis(rng.u64(millis))).await;
}
