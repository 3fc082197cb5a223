use std::num::NonZeroU32;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use super::BodyError;
use crate::clock::timer_in;

/// A limit on the time that a source may be silent. The timer is made when a reader first has to
/// wait.
pub(super) struct Stall {
    limit: Option<Duration>,
    timer: Option<Pin<Box<Sleep>>>,
    waiting: bool,
    /// Limits all waits together, if they are limited.
    pace: Option<Box<Pace>>,
}

/// The total of a body's waits.
struct Pace {
    min_rate: NonZeroU32,
    received: u64,
    waited: Duration,
    since: Instant,
}

impl Stall {
    pub(super) const NEVER: Stall = Stall { limit: None, timer: None, waiting: false, pace: None };

    pub(super) fn after(limit: Duration) -> Self {
        Stall { limit: Some(limit), ..Stall::NEVER }
    }

    /// Limits all waits together to `limit`, plus the time that the received bytes take at
    /// `min_rate` bytes a second.
    pub(super) fn paced(limit: Duration, min_rate: NonZeroU32) -> Self {
        let pace = Pace { min_rate, received: 0, waited: Duration::ZERO, since: timer_in(Duration::ZERO) };
        Stall { pace: Some(Box::new(pace)), ..Stall::after(limit) }
    }

    /// Waits until the limit is reached. Called when the source is pending.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<BodyError> {
        let Some(limit) = self.limit else { return Poll::Pending };
        if !self.waiting {
            let remaining = self.pace.as_mut().map_or(limit, |pace| pace.start_wait(limit));
            let deadline = timer_in(remaining);
            match &mut self.timer {
                Some(timer) => timer.as_mut().reset(deadline),
                none => *none = Some(Box::pin(sleep_until(deadline))),
            }
        }
        self.waiting = true;
        let Some(timer) = &mut self.timer else { return Poll::Pending };
        timer.as_mut().poll(cx).map(|()| BodyError::Stalled(limit))
    }

    /// Ends the wait. Called when the source was ready with `bytes`.
    pub(super) fn progress(&mut self, bytes: usize) {
        if let Some(pace) = &mut self.pace {
            pace.received += bytes as u64;
            if self.waiting {
                pace.waited += pace.since.elapsed();
            }
        }
        self.waiting = false;
    }
}

impl Pace {
    /// Starts a wait, and returns how long it may take.
    fn start_wait(&mut self, limit: Duration) -> Duration {
        self.since = timer_in(Duration::ZERO);
        let allowed = limit.saturating_add(Duration::from_secs(self.received / u64::from(self.min_rate.get())));
        limit.min(allowed.saturating_sub(self.waited))
    }
}
