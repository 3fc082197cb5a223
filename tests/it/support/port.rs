//! Free ports for servers that must know their port before they start.
//!
//! A server that can bind port 0 itself should do that instead. Another process may take a free
//! port before the server binds it. The server is then started again ([`super::Nginx::start`] does
//! this).

use std::collections::HashSet;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::sync::{LazyLock, Mutex, PoisonError};

/// Returns a loopback TCP port that is free now, and that no other test of this process was or will
/// be given. The port lies below the range from which the kernel takes the local ports of outgoing
/// connections. So a client that connects elsewhere never takes the port of a server that is about
/// to start, or that was stopped to be restarted.
pub(crate) fn free_port() -> u16 {
    static GIVEN: LazyLock<Mutex<HashSet<u16>>> = LazyLock::new(Mutex::default);
    static QUIET: LazyLock<Range<u16>> = LazyLock::new(quiet_range);

    // A test that failed while it held the lock did not damage the set.
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    for attempt in 0.. {
        // If the quiet range is crowded, use any port that the kernel has.
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

/// Returns the ports from 15,000 up to the kernel's range for outgoing connections; empty if that
/// begins lower.
fn quiet_range() -> Range<u16> {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let first = range.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(0);
    15_000..first
}
