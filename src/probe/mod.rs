//! Active checks: requests of the crate itself that test the health and the metastore of each node.

mod health_check;
mod kylin;
mod levels;
mod matcher;
mod metastore;
mod request;
mod spec;

use std::time::Duration;

pub use health_check::{HealthCheck, HealthChecker};
pub use matcher::ResponseMatcher;
pub use metastore::{MetastoreCheck, MetastoreChecker};
pub use spec::{InvalidProbe, Probe};

use crate::setting::InvalidSetting;

/// The maximum interval. A longer one is probably a mistake.
const MAX_INTERVAL: Duration = Duration::from_secs(86_400);

/// Checks that an interval is from 1 ms to a day.
fn validate_interval(interval: Duration, name: &'static str) -> Result<(), InvalidSetting> {
    let valid = (Duration::from_millis(1)..=MAX_INTERVAL).contains(&interval);
    InvalidSetting::unless(valid, name, "1 ms to a day")
}

/// Lengthens or shortens `interval` at random by up to `part` of it, so that front ends do not send
/// in step.
fn jittered(interval: Duration, part: f64) -> Duration {
    interval.mul_f64(1.0 - part + 2.0 * part * fastrand::f64())
}
