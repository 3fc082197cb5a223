use std::num::NonZeroU32;
use std::time::Duration;

use crate::body::{ReadAhead, Spool};
use crate::buffer::BufferBudget;
use crate::http1::head::HeadLimits;

/// The limits on client connections.
#[derive(Debug, Clone)]
pub(super) struct Limits {
    pub(super) head_timeout: Duration,
    pub(super) send_timeout: Duration,
    pub(super) head: HeadLimits,
    pub(super) max_streams: NonZeroU32,
    pub(super) keep_alive: bool,
    pub(super) buffers: BufferBudget,
}

impl Limits {
    /// Returns a spool for what is read of a response ahead of its client.
    pub(super) fn spool(&self, ahead: ReadAhead) -> Spool {
        Spool::new(self.buffers.reservation(ahead.client), ahead.max.get())
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            head_timeout: Duration::from_secs(60),
            send_timeout: Duration::from_secs(60),
            head: HeadLimits::default(),
            max_streams: const { NonZeroU32::new(128).unwrap() },
            keep_alive: true,
            buffers: BufferBudget::process(),
        }
    }
}
