use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use crate::nginx::config::{Config, Listener};
use crate::nginx::directives::settings::BlockSettings;
use crate::server::{DEFAULT_BACKLOG, Handler, ServerBuilder};

/// Applies the limits on clients.
///
/// They hold before a server is chosen, so nginx takes those of the default server of an address.
/// One builder has one set of limits for all `listeners`, so it gets the highest of each.
pub(super) fn apply<H: Handler>(
    config: &Config,
    listeners: &[Listener],
    mut builder: ServerBuilder<H>,
) -> ServerBuilder<H> {
    let settings = || listeners.iter().map(|listener| &config.servers[listener.default].settings);
    let longest = |of: fn(&BlockSettings) -> Option<Duration>| settings().filter_map(of).max();
    let backlog = |listener: &Listener| listener.backlog.and_then(NonZeroU32::new).unwrap_or(DEFAULT_BACKLOG);
    builder = builder.backlog(listeners.iter().map(backlog).max().unwrap_or(DEFAULT_BACKLOG));
    if settings().all(|settings| settings.keepalive_timeout == Some(Duration::ZERO)) {
        builder = builder.keep_alive(false);
    }
    // One limit covers slow heads and idle connections: the longer of nginx's two.
    let head_timeout = longest(|settings| settings.header_timeout.max(settings.keepalive_timeout));
    if let Some(timeout) = head_timeout.filter(|timeout| !timeout.is_zero()) {
        builder = builder.head_timeout(timeout);
    }
    if let Some(timeout) = longest(|settings| settings.client_send_timeout) {
        builder = builder.send_timeout(timeout);
    }
    let bytes = settings().filter_map(|settings| settings.max_head_bytes).max();
    if let Some(bytes) = bytes.and_then(|bytes| NonZeroUsize::new(usize::try_from(bytes).unwrap_or(usize::MAX))) {
        builder = builder.max_head_bytes(bytes);
    }
    if let Some(headers) = settings().filter_map(|settings| settings.max_headers).max().and_then(NonZeroUsize::new) {
        builder = builder.max_headers(headers);
    }
    builder
}
