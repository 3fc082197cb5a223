use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use crate::clock::timer_in;

/// How long a connection is idle before it is parked.
pub(in crate::server) const PARK_DELAY: Duration = Duration::from_millis(50);

/// The delay for a connection that had several requests within [`PARK_DELAY`] and will probably
/// have more.
const BUSY_PARK_DELAY: Duration = Duration::from_secs(1);

/// Limits the wait for the next request.
///
/// The timer is not reset for each request, because a reset costs more than an expiry once per many
/// requests.
pub(super) struct IdleTimer<'t> {
    timer: Pin<&'t mut Sleep>,
    /// The number of requests that were served when the timer was set; `None` if it must be set
    /// again.
    set_at: Option<usize>,
    /// Measured from the time when the timer is set, because a previous request may have taken
    /// longer.
    park_delay: Duration,
    /// The time at which the head of the next request must be complete. Computed on the first use
    /// after a request.
    deadline: Option<Instant>,
    head_timeout: Duration,
    requests: usize,
}

/// The reason why the wait is over.
pub(super) enum Expired {
    /// No byte of a request has arrived for a while. Its head must be complete at this time.
    Idle(Instant),
    /// The head was not complete in time.
    Head,
}

impl<'t> IdleTimer<'t> {
    pub(super) fn new(timer: Pin<&'t mut Sleep>, deadline: Instant, head_timeout: Duration) -> Self {
        IdleTimer { timer, set_at: None, park_delay: PARK_DELAY, deadline: Some(deadline), head_timeout, requests: 0 }
    }

    pub(super) fn request_served(&mut self) {
        self.requests = self.requests.wrapping_add(1);
        self.deadline = None;
    }

    pub(super) fn end_within(&mut self, limit: Duration) {
        (self.set_at, self.deadline) = (None, Some(timer_in(limit)));
    }

    /// Polls until the wait is over. `is_quiet` says that no byte of a request has arrived.
    pub(super) fn poll(&mut self, is_quiet: bool, cx: &mut Context<'_>) -> Poll<Expired> {
        loop {
            let Some(requests) = self.set_at else {
                let deadline = self.deadline();
                self.timer.as_mut().reset(if is_quiet { timer_in(self.park_delay).min(deadline) } else { deadline });
                self.set_at = Some(self.requests);
                continue;
            };
            ready!(self.timer.as_mut().poll(cx));
            if requests != self.requests {
                (self.set_at, self.park_delay) = (None, BUSY_PARK_DELAY);
            } else if self.timer.deadline() >= self.deadline() {
                return Poll::Ready(Expired::Head);
            } else if is_quiet {
                return Poll::Ready(Expired::Idle(self.deadline()));
            } else {
                self.set_at = None;
            }
        }
    }

    fn deadline(&mut self) -> Instant {
        *self.deadline.get_or_insert_with(|| timer_in(self.head_timeout))
    }
}
