use std::time::Duration;

use crate::clock::{InvalidDuration, at_least};

/// The timeouts of a backend for its node. `Timeouts` in a request's extensions override those of
/// the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timeouts {
    /// The timeout for establishing a connection. Default: 5 s. Within one data centre a connection
    /// takes milliseconds, and another node is available.
    pub connect: Duration,
    /// The timeout from the last byte of the request to the head of the response. Default: 310 s,
    /// because a Kylin 5 query may take 300 s (`kylin.query.timeout-seconds`).
    pub head: Duration,
    /// The timeout between two pieces of the response's body. Default: 60 s, because a node starts
    /// to respond when the result is complete.
    pub body: Duration,
}

impl Timeouts {
    /// Returns an error if any of the timeouts is below 1 ms.
    #[cfg_attr(not(feature = "client"), allow(dead_code, reason = "only `HttpBackend` makes connections"))]
    pub(super) fn check(&self) -> Result<(), InvalidDuration> {
        for (timeout, setting) in
            [(self.connect, "connect timeout"), (self.head, "head timeout"), (self.body, "body timeout")]
        {
            at_least(Duration::from_millis(1), timeout, setting)?;
        }
        Ok(())
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts { connect: Duration::from_secs(5), head: Duration::from_secs(310), body: Duration::from_secs(60) }
    }
}
