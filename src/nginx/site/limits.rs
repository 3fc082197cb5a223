use std::time::Duration;

use crate::nginx::config::{Config, Listener};
use crate::nginx::settings::Settings;
use crate::server::{DEFAULT_BACKLOG, Handler, ServerBuilder};

/// The limits on clients. They hold before a server is chosen, so nginx takes those of the default server of an address;
/// here, where one server listens on all of `listeners`, the most generous of those.
pub(super) fn apply<H: Handler>(
    config: &Config,
    listeners: &[Listener],
    builder: ServerBuilder<H>,
) -> ServerBuilder<H> {
    let settings = || listeners.iter().map(|listener| &config.servers[listener.default].settings);
    let most = |of: fn(&Settings) -> Option<Duration>| settings().filter_map(of).max();
    let keeps_none = settings().all(|settings| settings.keepalive_timeout == Some(Duration::ZERO));
    let backlog = listeners.iter().map(|listener| listener.backlog.unwrap_or(DEFAULT_BACKLOG)).max();
    let builder = builder.keep_alive(!keeps_none).backlog(backlog.unwrap_or(DEFAULT_BACKLOG));
    // One limit covers a head that comes slowly and a connection that idles: the longer of nginx's two.
    let builder = match most(|settings| settings.header_timeout.max(settings.keepalive_timeout)) {
        Some(timeout) if !timeout.is_zero() => builder.head_timeout(timeout),
        _ => builder,
    };
    let builder = match most(|settings| settings.client_send_timeout) {
        Some(timeout) => builder.send_timeout(timeout),
        None => builder,
    };
    match settings().filter_map(|settings| settings.max_head_bytes).max() {
        Some(bytes) => builder.max_head_bytes(usize::try_from(bytes).unwrap_or(usize::MAX)),
        None => builder,
    }
}
