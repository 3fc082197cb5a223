//! Requests and connections that the server refuses before they reach a handler, so that observers
//! do not see them.
//!
//! Each is counted for the whole process. The log has at most one line per kind and second.

use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

use crate::clock::{Clock, SystemClock};
use crate::log_limit::LogLimit;

/// The reason why the server refuses a request or a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The head of a request is not valid.
    Malformed,
    /// The head of a request is over the limits.
    TooLarge,
    /// The head of a request did not arrive in time.
    Slow,
    /// The memory budget has no bytes for a request.
    NoMemory,
    /// The connection does not begin with the PROXY protocol, or its peer may not name clients.
    ProxyProtocol,
    /// Plain HTTP arrived at an HTTPS port.
    PlainHttp,
}

const REASONS: [Refusal; 6] = [
    Refusal::Malformed,
    Refusal::TooLarge,
    Refusal::Slow,
    Refusal::NoMemory,
    Refusal::ProxyProtocol,
    Refusal::PlainHttp,
];

static COUNTS: [AtomicU64; REASONS.len()] = [const { AtomicU64::new(0) }; REASONS.len()];
static LOGS: LazyLock<[LogLimit; REASONS.len()]> = LazyLock::new(|| {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    REASONS.map(|_| LogLimit::new(&clock))
});

impl Refusal {
    /// Returns the name for logs and metrics.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Refusal::Malformed => "malformed",
            Refusal::TooLarge => "too_large",
            Refusal::Slow => "timeout",
            Refusal::NoMemory => "no_memory",
            Refusal::ProxyProtocol => "proxy_protocol",
            Refusal::PlainHttp => "plain_http",
        }
    }

    /// Counts a refusal, and logs it. `error` is the reason in words of this crate, never
    /// with bytes from the client.
    #[cold]
    pub(crate) fn report(self, peer: Option<SocketAddr>, error: &dyn Display) {
        COUNTS[self as usize].fetch_add(1, Ordering::Relaxed);
        let Some(left_out) = LOGS[self as usize].admit() else { return };
        let (reason, peer) = (self.as_str(), peer.map(tracing::field::display));
        match self {
            // A load balancer in front may lack the setting; then no client is served.
            Refusal::ProxyProtocol => tracing::warn!(peer, reason, %error, left_out, "connection refused"),
            Refusal::Malformed | Refusal::TooLarge | Refusal::NoMemory | Refusal::PlainHttp => {
                tracing::info!(peer, reason, %error, left_out, "request refused");
            }
            // A client that opens connections in advance may send nothing for a long time.
            Refusal::Slow => tracing::debug!(peer, reason, %error, left_out, "request refused"),
        }
    }
}

/// Returns how many requests and connections were refused, by reason.
#[cfg_attr(not(feature = "metrics"), allow(dead_code, reason = "only metrics show it"))]
pub(crate) fn counts() -> impl Iterator<Item = (&'static str, u64)> {
    REASONS.iter().map(|reason| (reason.as_str(), COUNTS[*reason as usize].load(Ordering::Relaxed)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_count() {
        for (index, reason) in REASONS.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
            let count = || counts().find(|(name, _)| *name == reason.as_str()).unwrap().1;
            let before = count();
            reason.report(None, &"a test");
            // Tests of the server run in parallel with this one.
            assert!(count() > before);
        }
    }
}
