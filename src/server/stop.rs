use std::time::Duration;

use tokio::sync::watch;

/// Tells the accept loops and connections that the server stops, and how much time requests in
/// flight have.
#[derive(Debug, Clone)]
pub(super) struct StopSignal(watch::Receiver<Option<Duration>>);

impl StopSignal {
    pub(super) fn channel() -> (watch::Sender<Option<Duration>>, Self) {
        let (sender, receiver) = watch::channel(None);
        (sender, StopSignal(receiver))
    }

    /// Waits until the server stops. Returns the time for requests in flight, which is zero if the
    /// server was dropped.
    pub(super) async fn grace(&mut self) -> Duration {
        self.0.wait_for(Option::is_some).await.map_or(None, |grace| *grace).unwrap_or_default()
    }

    /// Waits until the server stops.
    pub(super) async fn stopped(&mut self) {
        self.grace().await;
    }

    /// Returns true if the server stops and this signal was not awaited since.
    pub(super) fn is_set(&self) -> bool {
        self.0.has_changed().unwrap_or(true)
    }
}
