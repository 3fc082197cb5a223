use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Sleep;

use super::BodyError;

/// A limit on the time that a source may be silent. The timer is made when a reader first has to wait.
pub(super) struct Stall {
    limit: Option<Duration>,
    timer: Option<Pin<Box<Sleep>>>,
    waiting: bool,
}

impl Stall {
    pub(super) const NEVER: Stall = Stall { limit: None, timer: None, waiting: false };

    pub(super) fn after(limit: Duration) -> Self {
        Stall { limit: Some(limit), ..Stall::NEVER }
    }

    /// Waits until the limit is reached. Called when the source is pending.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<BodyError> {
        let Some(limit) = self.limit else { return Poll::Pending };
        let timer = match &mut self.timer {
            Some(timer) => {
                if !self.waiting {
                    timer.set(tokio::time::sleep(limit));
                }
                timer
            }
            none => none.insert(Box::pin(tokio::time::sleep(limit))),
        };
        self.waiting = true;
        timer.as_mut().poll(cx).map(|()| BodyError::Stalled(limit))
    }

    /// Starts the time anew. Called when the source was ready.
    pub(super) fn progress(&mut self) {
        self.waiting = false;
    }
}
