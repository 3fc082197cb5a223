//! The delay before reconnecting to a server that could not be reached.

use std::future::Future;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::time::timeout;

use super::Failure;
use crate::clock::{Clock, SystemClock};

/// Short, because most failures are a restart or a failover that ends soon.
const MIN_DELAY: Duration = Duration::from_millis(10);
/// Bounds how long it takes to notice that a server is reachable again.
const MAX_DELAY: Duration = Duration::from_millis(500);

/// Exponential back-off between connection attempts. During a delay, callers receive the last
/// failure at once; after it, the next caller may connect.
#[derive(Debug, Default)]
pub(crate) struct ReconnectBackoff(Mutex<Option<Delay>>);

#[derive(Debug)]
struct Delay {
    until: Instant,
    length: Duration,
    failure: Failure,
}

impl ReconnectBackoff {
    /// Returns `Ok` if an attempt may be made now.
    ///
    /// # Errors
    /// The failure of the last attempt, during the delay that follows it.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        match &*self.0.lock() {
            Some(delay) if SystemClock.now() < delay.until => Err(delay.failure.clone()),
            _ => Ok(()),
        }
    }

    /// Attempts to connect to `system` within `limit`. A success ends the delays; a failure starts
    /// the next one.
    ///
    /// # Errors
    /// The failure of this attempt, or that of the last one during the delay that follows it.
    pub(crate) async fn attempt<T>(
        &self,
        system: &'static str,
        limit: Duration,
        connect: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        self.check()?;
        let connected = timeout(limit, connect).await;
        let connected = connected.unwrap_or_else(|_| Err(Failure::unavailable(system, "no connection in time")));
        let connected = connected.map_err(Failure::of_connecting);
        match &connected {
            Ok(_) => self.reset(),
            Err(failure) => self.record_failure(failure.clone()),
        }
        connected
    }

    fn reset(&self) {
        *self.0.lock() = None;
    }

    /// Starts a delay of twice the last one. If several front ends lost a server at the same time,
    /// a jitter of a quarter keeps them apart.
    fn record_failure(&self, failure: Failure) {
        let mut delay = self.0.lock();
        let length = delay.as_ref().map_or(MIN_DELAY, |last| (last.length * 2).min(MAX_DELAY));
        let until = SystemClock.now() + length.mul_f64(0.75 + fastrand::f64() / 2.0);
        *delay = Some(Delay { until, length, failure });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_a_bound_and_a_success_ends_them() {
        let backoff = ReconnectBackoff::default();
        assert!(backoff.check().is_ok());
        let mut delays = Vec::new();
        for _ in 0..8 {
            backoff.record_failure(Failure::unavailable("redis", "gone"));
            delays.push(backoff.0.lock().as_ref().unwrap().length.as_millis());
        }
        assert_eq!(delays, [10, 20, 40, 80, 160, 320, 500, 500]);
        assert_eq!(backoff.check().unwrap_err().to_string(), "redis: gone");
        backoff.reset();
        assert!(backoff.check().is_ok());
    }
}
