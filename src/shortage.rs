//! Shortages of this process: no descriptors, ports or memory are left for another connection.
//!
//! They are failures of the front end, so they count against no node and no store. Each is counted,
//! and logged at most every 10 s.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::clock::{Clock, SystemClock};

/// The interval at which the log reports shortages.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

static COUNT: AtomicU64 = AtomicU64::new(0);
static LOGGED: Mutex<Option<Instant>> = Mutex::new(None);

/// The error numbers without a kind in the standard library.
mod errno {
    pub(super) const ENFILE: i32 = 23;
    pub(super) const EMFILE: i32 = 24;
    pub(super) const ENOBUFS: i32 = if cfg!(any(target_os = "linux", target_os = "android")) { 105 } else { 55 };
}

/// Returns whether a connection was not made, or not accepted, because this process or its machine
/// lacks a resource.
///
/// `EAGAIN` is not among them: at a unix socket it means that the backlog of the peer is full.
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::OutOfMemory)
        || matches!(error.raw_os_error(), Some(errno::EMFILE | errno::ENFILE | errno::ENOBUFS))
}

/// Returns the shortage of descriptors, if there is one now. Used for failures whose error does not
/// show it, because resolvers and store drivers report a shortage as an unreachable host.
pub(crate) fn of_descriptors() -> Option<io::Error> {
    // A pipe is the cheapest pair of descriptors.
    io::pipe().err().filter(is_shortage)
}

/// Counts a shortage that prevented `task`, and logs it.
pub(crate) fn report(task: &'static str, error: &dyn std::fmt::Display) {
    let total = COUNT.fetch_add(1, Ordering::Relaxed) + 1;
    let now = SystemClock.now();
    let mut logged = LOGGED.lock();
    if logged.is_none_or(|at| now.saturating_duration_since(at) >= LOG_INTERVAL) {
        *logged = Some(now);
        drop(logged);
        tracing::error!(task, %error, total, "the process is short of descriptors, ports or memory");
    }
}

/// Returns how many shortages this process has had.
pub(crate) fn count() -> u64 {
    COUNT.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn shortages_are_told_from_failures_of_a_peer() {
        // EMFILE, ENFILE, EADDRNOTAVAIL, ENOMEM, ENOBUFS.
        for number in [24, 23, 99, 12, 105] {
            let error = io::Error::from_raw_os_error(number);
            assert!(is_shortage(&error), "{error}");
        }
        // ECONNREFUSED, ETIMEDOUT, EHOSTUNREACH, ENETUNREACH, ECONNRESET, EADDRINUSE.
        for number in [111, 110, 113, 101, 104, 98] {
            let error = io::Error::from_raw_os_error(number);
            assert!(!is_shortage(&error), "{error}");
        }
    }
}
