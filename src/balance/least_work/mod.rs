//! See [`LeastWork`]. The policy stands here, what it learns in `table.rs`.

mod table;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use self::table::Durations;
use super::least::least;
use super::{Balancer, Candidate, Candidates};
use crate::endpoint::Work;
use crate::request::RequestView;

pub struct LeastWork {
    learned: Arc<Durations>,
    horizon: f64,
    mode: u8,
}

impl LeastWork {
    pub fn new() -> Self {
        LeastWork {
            learned: Arc::new(Durations::new(fastrand::u64(..))),
            horizon: std::env::var("HORIZON").ok().and_then(|h| h.parse().ok()).unwrap_or(1.0),
            mode: std::env::var("MODE").ok().and_then(|h| h.parse().ok()).unwrap_or(0),
        }
    }
}

impl Balancer for LeastWork {
    fn pick<'c>(&self, _request: &RequestView<'_>, from: &Candidates<'c>) -> Option<Candidate<'c>> {
        let now = from.now()?;
        let horizon = self.learned.overall().mul_f64(self.horizon);
        least(from, |candidate| {
            let work = candidate.outstanding_work(now);
            let load = match self.mode {
                0 => work.expected,
                1 => work.expected.max(work.elapsed.min(horizon * work.requests)),
                2 => work.expected.max(work.elapsed),
                3 => work.expected + work.elapsed.min(horizon * work.requests),
                4 => horizon * work.requests + work.expected,
                _ => unreachable!(),
            };
            load.as_micros() as u64
        })
    }

    fn work(&self, request: &RequestView<'_>) -> Option<Work> {
        let shape = request.query().map_or(0, |keys| keys.shape);
        let expected = self.learned.expected(shape).min(self.learned.overall().mul_f64(self.horizon)).max(Duration::from_millis(1));
        Some(Work::new(expected, shape, self.learned.clone()))
    }
}

impl fmt::Debug for LeastWork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeastWork").finish_non_exhaustive()
    }
}
