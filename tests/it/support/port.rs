//! Free ports for servers that are told their port before they start.
//!
//! A server that can bind port 0 itself should do that instead. Another process may take a free port before the server binds
//! it, so the start of a server is tried again then ([`super::Nginx::start`] does).

use std::collections::HashSet;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::sync::{LazyLock, Mutex, PoisonError};

/// A loopback TCP port that is free now and that no other test of this process was or will be given.
/// The port lies below the range from which the kernel takes the local ports of outgoing connections, so that a client that
/// connects elsewhere never steals the port of a server that is about to start, or that was stopped to start again.
pub(crate) fn free_port() -> u16 {
    static GIVEN: LazyLock<Mutex<HashSet<u16>>> = LazyLock::new(Mutex::default);
    static QUIET: LazyLock<Range<u16>> = LazyLock::new(quiet_range);

    // A test that failed while it held the lock did no harm to the set.
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    for attempt in 0.. {
        // Should the quiet range be crowded: any port that the kernel has.
        let wish = if attempt < 1000 && !QUIET.is_empty() { fastrand::u16(QUIET.clone()) } else { 0 };
        // A test may have closed the port, and expects that connections to it are refused.
        if given.contains(&wish) {
            continue;
        }
        let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, wish)) else {
            assert!(attempt < 2000, "no free port");
            continue;
        };
        let port = listener.local_addr().expect("a bound socket has an address").port();
        if given.insert(port) {
            return port;
        }
    }
    unreachable!("the loop ends only with a port")
}

/// Returns the ports from 15,000 up to the kernel's range for outgoing connections; empty if that begins lower.
fn quiet_range() -> Range<u16> {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let first = range.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(0);
    15_000..first
}
