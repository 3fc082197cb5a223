use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Sleep, sleep};

use crate::clock::timer_in;
use crate::http1::writer::MessageWriter;

/// Measures how long the client has accepted nothing of what waits to be written.
#[derive(Default)]
pub(super) struct WriteTimeout {
    timer: Option<Pin<Box<Sleep>>>,
    /// How many writes the client had accepted when the timer was set.
    writes: usize,
}

impl WriteTimeout {
    /// Ready when the client has accepted nothing for `limit`.
    pub(super) fn poll(&mut self, writer: &MessageWriter, limit: Duration, cx: &mut Context<'_>) -> Poll<()> {
        if !writer.has_unwritten() {
            self.timer = None;
            return Poll::Pending;
        }
        let timer = match &mut self.timer {
            Some(timer) if self.writes == writer.writes() => timer,
            Some(timer) => {
                timer.as_mut().reset(timer_in(limit));
                timer
            }
            none => none.insert(Box::pin(sleep(limit))),
        };
        self.writes = writer.writes();
        timer.as_mut().poll(cx)
    }
}
