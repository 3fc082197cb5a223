mod checker;

use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

pub use checker::HealthChecker;

use super::{Probe, validate_interval};
use crate::backend::Backend;
use crate::cluster::Cluster;
use crate::health::Thresholds;
use crate::setting::InvalidSetting;

/// Probes the endpoints of a cluster. [`start`](Self::start) starts the probing.
///
/// Endpoints that are ready or drained are probed, those in maintenance are not: see the table in
/// [`health`](crate::health). An endpoint that joins the cluster is probed at once. At the start,
/// the first probes are spread over the fast interval. After a failed probe, a failed request or a
/// timeout, the endpoint is probed at the fast interval. A node that cannot be reached is probed at
/// the [reconnect interval](Self::reconnect_interval). After a 404 to a plain proxy, the endpoint
/// is [probed at once](crate::proxy::RetryPolicy::on_stopping).
///
/// ```
/// use kylin_lb::probe::{HealthCheck, Probe};
/// use std::time::Duration;
/// # use kylin_lb::testing::Scripted;
/// # use kylin_lb::{Cluster, Endpoint};
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// # let node = Scripted::responding(http::StatusCode::OK, "");
/// let cluster = Cluster::builder().endpoint(Endpoint::new("q1", node)?).build()?;
/// let checker = HealthCheck::new(Probe::kylin()).interval(Duration::from_secs(5)).start(&cluster)?;
/// // Probing ends, and its results are forgotten, when this is dropped.
/// drop(checker);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct HealthCheck {
    probe: Probe,
    interval: Duration,
    /// `None` is the default: see [`fast`](Self::fast).
    fast_interval: Option<Duration>,
    /// `None` is the default: see [`reconnect`](Self::reconnect).
    reconnect_interval: Option<Duration>,
    jitter: f64,
    timeout: Duration,
    thresholds: Thresholds,
    concurrency: usize,
    wait: bool,
}

impl HealthCheck {
    /// Returns a check with `probe` and the defaults of the setters.
    pub fn new(probe: Probe) -> Self {
        let (fall, rise) = const { (NonZeroU32::new(3).unwrap(), NonZeroU32::new(2).unwrap()) };
        HealthCheck {
            probe,
            interval: Duration::from_secs(5),
            fast_interval: None,
            reconnect_interval: None,
            jitter: 0.1,
            timeout: Duration::from_secs(5),
            thresholds: Thresholds { fall, rise },
            concurrency: 4,
            wait: false,
        }
    }

    /// Sets the time from the end of a probe to the beginning of the next, from 1 ms to a day.
    /// Default: 5 s. With `fall` 3, a dead node is then unhealthy after at most 7 s.
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// Sets the interval while an endpoint is suspect or recovering, and after a request that
    /// failed or timed out, from 1 ms to the normal interval. Default: 1 s, or the normal interval
    /// if that is shorter.
    pub fn fast_interval(mut self, interval: Duration) -> Self {
        self.fast_interval = Some(interval);
        self
    }

    /// Sets the interval while the node cannot be reached or is starting after that, and after a
    /// request that did not reach it. The range is 1 ms to the fast interval. Default: 250 ms, or
    /// the fast interval if that is shorter. A refused connection costs little, and the endpoint
    /// serves soon after its node accepts connections again.
    ///
    /// An endpoint that was [ejected because it could not be reached](crate::Outcome::Unreachable)
    /// is readmitted by the first successful probe. If it fails again before a request has
    /// succeeded, it stays out for this time and longer, up to 30 s. A node that does not respond
    /// to connection attempts is probed at the fast interval.
    pub fn reconnect_interval(mut self, interval: Duration) -> Self {
        self.reconnect_interval = Some(interval);
        self
    }

    /// Sets the random variation of intervals as a fraction, 0 to 0.5, so that front ends do not
    /// probe in step. Default: 0.1.
    pub fn jitter(mut self, part: f64) -> Self {
        self.jitter = part;
        self
    }

    /// Sets the timeout for a whole response. Default: 5 s, which is longer than most pauses of a
    /// JVM. [`Probe::timeout`] overrides it.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets how many failures in a row make an endpoint unhealthy. Default: 3, as in HAProxy.
    pub fn fall(mut self, failures: NonZeroU32) -> Self {
        self.thresholds.fall = failures;
        self
    }

    /// Sets how many successes in a row make an endpoint healthy again. Default: 2, as in HAProxy.
    /// If the node had accepted no connection, one suffices.
    pub fn rise(mut self, successes: NonZeroU32) -> Self {
        self.thresholds.rise = successes;
        self
    }

    /// Sets how many probes may be in flight at once, over all endpoints. Default: 4, so that
    /// probes cause no burst of load.
    pub fn concurrency(mut self, probes: NonZeroUsize) -> Self {
        self.concurrency = probes.get();
        self
    }

    /// Sets whether an endpoint may serve only after a first success: when checking begins, when it
    /// joins the cluster, and when it returns from maintenance. Default: false, so that it serves
    /// until probes fail.
    pub fn wait_for_first_success(mut self, wait: bool) -> Self {
        self.wait = wait;
        self
    }

    /// Begins to probe the endpoints of `cluster` and those that join it. If a cluster is checked
    /// twice, the later check decides.
    ///
    /// # Errors
    /// [`InvalidSetting`] if a setting is out of range.
    ///
    /// # Panics
    /// Panics if called outside of a tokio runtime, as [`tokio::spawn`] does.
    pub fn start<B: Backend>(self, cluster: &Cluster<B>) -> Result<HealthChecker, InvalidSetting> {
        validate_interval(self.interval, "interval")?;
        let (fast, reconnect) = (self.fast(), self.reconnect());
        validate_interval(fast, "fast_interval")?;
        InvalidSetting::unless(fast <= self.interval, "fast_interval", "at most the interval")?;
        validate_interval(reconnect, "reconnect_interval")?;
        InvalidSetting::unless(reconnect <= fast, "reconnect_interval", "at most the fast interval")?;
        InvalidSetting::unless((0.0..=0.5).contains(&self.jitter), "jitter", "0 to 0.5")?;
        InvalidSetting::unless(!self.timeout.is_zero(), "timeout", "over 0")?;
        InvalidSetting::unless(self.probe.own_timeout() != Some(Duration::ZERO), "Probe::timeout", "over 0")?;
        Ok(checker::start(self, cluster))
    }

    fn fast(&self) -> Duration {
        self.fast_interval.unwrap_or(self.interval.min(Duration::from_secs(1)))
    }

    fn reconnect(&self) -> Duration {
        self.reconnect_interval.unwrap_or(self.fast().min(Duration::from_millis(250)))
    }
}

impl Default for HealthCheck {
    /// Returns a check with [`Probe::kylin`], which works with every version of Kylin.
    fn default() -> Self {
        HealthCheck::new(Probe::kylin())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Scripted;

    #[test]
    fn settings_that_make_no_sense_are_errors() {
        let cluster: Cluster<Scripted> = Cluster::builder().build().unwrap();
        let check = || HealthCheck::new(Probe::tcp());
        let (zero, week) = (Duration::ZERO, Duration::from_secs(7 * 86_400));
        for (check, name) in [
            (check().interval(zero), "interval"),
            (check().interval(week), "interval"),
            (check().fast_interval(zero), "fast_interval"),
            (check().reconnect_interval(zero), "reconnect_interval"),
            (check().interval(Duration::from_millis(999)).fast_interval(Duration::from_secs(1)), "fast_interval"),
            (check().reconnect_interval(Duration::from_millis(1001)), "reconnect_interval"),
            (
                check().interval(Duration::from_millis(9)).reconnect_interval(Duration::from_millis(10)),
                "reconnect_interval",
            ),
            (check().jitter(0.6), "jitter"),
            (check().jitter(f64::NAN), "jitter"),
            (check().timeout(zero), "timeout"),
            (HealthCheck::new(Probe::tcp().timeout(zero)), "Probe::timeout"),
        ] {
            assert_eq!(check.start(&cluster).unwrap_err().name, name);
        }
    }
}
