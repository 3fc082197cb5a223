use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Records how long connecting took, for an observer. The body of an observed request carries it
/// through all attempts.
#[derive(Debug, Clone, Default)]
pub(crate) struct ConnectTimer(Arc<AtomicU64>);

impl ConnectTimer {
    #[cfg_attr(not(feature = "client"), allow(dead_code, reason = "only `HttpBackend` makes connections"))]
    pub(crate) fn set(&self, connecting: Duration) {
        let nanoseconds = u64::try_from(connecting.as_nanos()).unwrap_or(u64::MAX);
        // 0 means no connection.
        self.0.store(nanoseconds.max(1), Ordering::Relaxed);
    }

    /// Returns the time and clears it; `None` if no connection was made.
    pub(crate) fn take(&self) -> Option<Duration> {
        // Nearly all requests use an open connection, and need no write.
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            _ => Some(Duration::from_nanos(self.0.swap(0, Ordering::Relaxed))),
        }
    }
}
