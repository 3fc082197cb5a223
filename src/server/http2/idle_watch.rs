use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Sleep, sleep};

use super::StreamStats;
use crate::clock::timer_in;
use crate::request::ClientKey;
use crate::server::client::Client;
use crate::server::stop::{IdleEntry, StopSignal};

/// The time for which a connection has no request in flight before it is listed as idle.
const IDLE_DELAY: Duration = Duration::from_millis(50);

/// Lists a connection as idle, so that the server can close it when it needs its permit.
pub(super) struct IdleWatch {
    stats: Arc<StreamStats>,
    stop: StopSignal,
    key: Option<ClientKey>,
    entry: Option<IdleEntry>,
    /// Runs while no request is in flight, until the entry is made.
    delay: Option<Pin<Box<Sleep>>>,
    /// The requests that had arrived when `entry` or `delay` was made.
    requests: usize,
}

impl IdleWatch {
    pub(super) fn new<H>(client: &Client<H>, stats: &Arc<StreamStats>) -> Self {
        let (stats, stop) = (Arc::clone(stats), client.stop.clone());
        IdleWatch { stats, stop, key: client.key, entry: None, delay: None, requests: 0 }
    }

    /// Ready when the server needs the permit of the connection. Polled whenever the connection was polled.
    pub(super) fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let requests = self.stats.requests();
        let has_new = requests != self.requests;
        self.requests = requests;
        if has_new || !self.stats.is_idle() {
            self.entry = None;
        }
        if !self.stats.is_idle() {
            return Poll::Pending;
        }
        let entry = match &mut self.entry {
            Some(entry) => entry,
            None => {
                let delay = self.delay.get_or_insert_with(|| Box::pin(sleep(IDLE_DELAY)));
                if has_new {
                    delay.as_mut().reset(timer_in(IDLE_DELAY));
                }
                ready!(delay.as_mut().poll(cx));
                self.delay = None;
                self.entry.insert(self.stop.enter_idle(self.key))
            }
        };
        entry.poll_closed(cx)
    }
}
