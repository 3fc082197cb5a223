use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use crate::nginx::config::{Config, Listener};
use crate::nginx::directives::settings::BlockSettings;
use crate::server::{DEFAULT_BACKLOG, Handler, ServerBuilder};

/// The maximum size of a request head in bytes, even if the file sets larger buffers.
const MAX_HEAD_BYTES: NonZeroUsize = NonZeroUsize::new(1024 * 1024).unwrap();

/// Applies the limits on clients to a server builder.
///
/// The limits apply before a server is selected, so nginx uses those of the default server of an
/// address. A builder has one set of limits for all `listeners`, so it gets the highest of each.
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
    if let Some((first, count, size)) = head_buffers(settings()) {
        let bytes = count.saturating_mul(size).saturating_add(first.get()).min(MAX_HEAD_BYTES);
        builder = builder.head_buffers(first, count, size).max_head_bytes(bytes);
    }
    if let Some(headers) = settings().filter_map(|settings| settings.max_headers).max().and_then(NonZeroUsize::new) {
        builder = builder.max_headers(headers);
    }
    builder
}

/// Returns the size of the first buffer for a head, and the number and size of the other buffers,
/// if the file sets them. Each is the highest value of all servers.
fn head_buffers<'s>(
    settings: impl Iterator<Item = &'s BlockSettings>,
) -> Option<(NonZeroUsize, NonZeroUsize, NonZeroUsize)> {
    /// The default of `client_header_buffer_size` in nginx.
    const FIRST: u64 = 1024;
    let written =
        settings.filter_map(|settings| Some((settings.first_head_buffer.unwrap_or(FIRST), settings.head_buffers?)));
    let highest = written.reduce(|(first, (count, size)), (other_first, (other_count, other_size))| {
        (first.max(other_first), (count.max(other_count), size.max(other_size)))
    });
    let non_zero = |number: u64| NonZeroUsize::new(usize::try_from(number).unwrap_or(usize::MAX));
    let (first, (count, size)) = highest?;
    Some((non_zero(first)?, non_zero(count.into())?, non_zero(size)?))
}
