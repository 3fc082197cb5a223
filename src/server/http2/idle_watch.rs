use std::mem::take;
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

/// The time without a request in flight after which a connection is listed as idle.
const IDLE_DELAY: Duration = Duration::from_millis(50);

/// Lists a connection as idle, so that the server can close it when it needs its permit.
pub(super) struct IdleWatch {
    stats: Arc<StreamStats>,
    stop: StopSignal,
    key: Option<ClientKey>,
    entry: Option<IdleEntry>,
    /// Runs while no request is in flight, until the entry is made.
    delay: Option<Pin<Box<Sleep>>>,
    /// Whether a request was in flight at the last poll.
    was_busy: bool,
    /// The number of requests that had arrived when `entry` or `delay` was made.
    requests: usize,
}

impl IdleWatch {
    pub(super) fn new<H>(client: &Client<H>, stats: &Arc<StreamStats>) -> Self {
        IdleWatch::of(client.stop.clone(), client.key, Arc::clone(stats))
    }

    fn of(stop: StopSignal, key: Option<ClientKey>, stats: Arc<StreamStats>) -> Self {
        IdleWatch { stats, stop, key, entry: None, delay: None, was_busy: false, requests: 0 }
    }

    /// Polls until the server needs the permit of the connection. It must be called after each poll
    /// of the connection.
    pub(super) fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let requests = self.stats.requests();
        let has_new = requests != self.requests;
        self.requests = requests;
        if has_new || !self.stats.is_idle() {
            self.entry = None;
        }
        if !self.stats.is_idle() {
            self.was_busy = true;
            return Poll::Pending;
        }
        let was_busy = take(&mut self.was_busy);
        let entry = match &mut self.entry {
            Some(entry) => entry,
            None => {
                let delay = self.delay.get_or_insert_with(|| Box::pin(sleep(IDLE_DELAY)));
                if has_new || was_busy {
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

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::time::advance;

    use super::*;
    use crate::body::Body;
    use crate::buffer::BufferBudget;

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_listed_only_after_the_delay_since_its_last_request() {
        let (_stage, stop) = StopSignal::channel(Arc::default());
        let stats = Arc::new(StreamStats::new(BufferBudget::process().reservation(None)));
        let mut watch = IdleWatch::of(stop, None, Arc::clone(&stats));
        for long in [Duration::ZERO, IDLE_DELAY / 2, IDLE_DELAY, 10 * IDLE_DELAY] {
            let mut is_listed = async || {
                assert!(poll_fn(|cx| Poll::Ready(watch.poll_closed(cx))).await.is_pending());
                watch.entry.is_some()
            };
            assert!(!is_listed().await);
            advance(IDLE_DELAY / 2).await;
            let (_, in_flight) = stats.start_request(Body::empty());
            assert!(!is_listed().await);
            advance(long).await;
            drop(in_flight);
            assert!(!is_listed().await, "at the end of a request of {long:?}");
            advance(IDLE_DELAY - Duration::from_millis(1)).await;
            assert!(!is_listed().await, "before the delay after a request of {long:?}");
            advance(Duration::from_millis(1)).await;
            assert!(is_listed().await);
            let (_, in_flight) = stats.start_request(Body::empty());
            assert!(!is_listed().await);
            drop(in_flight);
        }
    }
}
