use tokio::sync::watch;

/// How far the server is on its way to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum StopStage {
    Running,
    /// Connections end after the request in flight.
    Draining,
    /// The time of requests in flight is over.
    Cutting,
}

/// Tells the accept loop and the connections of a core that the server stops.
#[derive(Debug, Clone)]
pub(super) struct StopSignal(watch::Receiver<StopStage>);

impl StopSignal {
    pub(super) fn channel() -> (watch::Sender<StopStage>, Self) {
        let (sender, receiver) = watch::channel(StopStage::Running);
        (sender, StopSignal(receiver))
    }

    /// Waits until the server stops.
    pub(super) async fn stopped(&mut self) {
        self.reached(StopStage::Draining).await;
    }

    /// Waits until the time of requests in flight is over.
    pub(super) async fn cutting(mut self) {
        self.reached(StopStage::Cutting).await;
    }

    async fn reached(&mut self, stage: StopStage) {
        // Without a sender, the server is gone.
        _ = self.0.wait_for(|current| *current >= stage).await;
    }

    /// Returns true if the server stops and this signal was not awaited since.
    pub(super) fn is_set(&self) -> bool {
        self.0.has_changed().unwrap_or(true)
    }
}
