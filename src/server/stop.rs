use std::time::Duration;

use tokio::sync::watch;

/// Tells the loops and connections of a server that it is to stop, and how much time there is.
#[derive(Debug, Clone)]
pub(super) struct Stop(watch::Receiver<Option<Duration>>);

impl Stop {
    pub(super) fn channel() -> (watch::Sender<Option<Duration>>, Self) {
        let (sender, receiver) = watch::channel(None);
        (sender, Stop(receiver))
    }

    /// Ends when the server is to stop, with the time for requests in flight: none when the server was dropped.
    pub(super) async fn grace(&mut self) -> Duration {
        self.0.wait_for(Option::is_some).await.map_or(None, |grace| *grace).unwrap_or_default()
    }

    /// Ends when the server is to stop.
    pub(super) async fn stopped(&mut self) {
        self.grace().await;
    }

    /// True from then on, until that was awaited.
    pub(super) fn is_set(&self) -> bool {
        self.0.has_changed().unwrap_or(true)
    }
}
