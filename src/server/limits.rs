use std::num::NonZeroU32;
use std::time::Duration;

use crate::http1::head::HeadLimits;

/// The limits on client connections.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) head_timeout: Duration,
    pub(super) send_timeout: Duration,
    pub(super) head: HeadLimits,
    pub(super) max_streams: NonZeroU32,
    pub(super) keep_alive: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            head_timeout: Duration::from_secs(60),
            send_timeout: Duration::from_secs(60),
            head: HeadLimits::default(),
            max_streams: const { NonZeroU32::new(128).unwrap() },
            keep_alive: true,
        }
    }
}
