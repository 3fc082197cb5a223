use std::io;
use std::num::NonZeroU64;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::time::Duration;

use super::stop::IdleList;
use crate::body::{ReadAhead, Spool};
use crate::buffer::BufferBudget;
use crate::drop_guard::DropGuard;
use crate::http1::head::HeadLimits;
use crate::request::{ClientAddr, ClientKey, ClientLimit, LimitReached};

/// The limits on client connections.
#[derive(Debug, Clone)]
pub(super) struct Limits {
    pub(super) head_timeout: Duration,
    pub(super) send_timeout: Duration,
    pub(super) head: HeadLimits,
    /// The buffers into which the lines of a head must fit; `None` if only the length of the whole
    /// head is limited.
    pub(super) line_buffers: Option<LineBuffers>,
    pub(super) max_streams: NonZeroU32,
    pub(super) keep_alive: bool,
    pub(super) half_close: bool,
    pub(super) buffers: BufferBudget,
}

impl Limits {
    /// Returns a spool for the part of a response that is read ahead of its client.
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
            line_buffers: None,
            max_streams: const { NonZeroU32::new(128).unwrap() },
            keep_alive: true,
            half_close: false,
            buffers: BufferBudget::process(),
        }
    }
}

/// nginx's buffers for the lines of a head: each line is in one of them
/// (`ngx_http_alloc_large_header_buffer`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LineBuffers {
    /// The size of the first buffer, in bytes.
    pub(super) first: usize,
    /// The number of further buffers.
    pub(super) count: usize,
    /// The size of each further buffer, in bytes.
    pub(super) size: usize,
}

impl LineBuffers {
    /// Returns the total size of all buffers, in bytes.
    pub(super) fn bytes(self) -> usize {
        self.count.saturating_mul(self.size).saturating_add(self.first)
    }

    /// Returns the number of the first line that fits no buffer, counted from 0.
    pub(super) fn too_long(self, lines: impl Iterator<Item = usize>) -> Option<usize> {
        let (mut free, mut count) = (self.first, self.count);
        for (number, line) in lines.enumerate() {
            if line > free {
                if line > self.size || count == 0 {
                    return Some(number);
                }
                (free, count) = (self.size, count - 1);
            }
            free -= line;
        }
        None
    }
}

/// Raises the limit of open files of this process to the system's maximum, or sets it to `files`
/// (nginx: `worker_rlimit_nofile`). Returns the limit.
///
/// Each connection is a file. A process starts with a soft limit that it may raise itself, often
/// 1,024, and a hard limit. A library must not change its process without being asked, so an
/// application calls this before it starts a [`Server`](super::Server).
///
/// # Errors
/// An error if `files` is above the hard limit and the process may not raise that.
pub fn raise_open_files_limit(files: Option<NonZeroU64>) -> io::Result<u64> {
    use rustix::process::{Resource, getrlimit, setrlimit};

    let mut limit = getrlimit(Resource::Nofile);
    match files {
        None => limit.current = limit.maximum,
        Some(files) => {
            limit.current = Some(files.get());
            limit.maximum = limit.maximum.map(|maximum| maximum.max(files.get()));
        }
    }
    setrlimit(Resource::Nofile, limit)?;
    Ok(limit.current.unwrap_or(u64::MAX))
}

/// Returns how many of `wanted` client connections this process can serve: half of the files that
/// it may open. A client's request also needs a connection to a node, and stores, logs and
/// discovery need files as well.
pub(super) fn servable(wanted: Option<NonZeroUsize>) -> NonZeroUsize {
    let wanted = wanted.unwrap_or(NonZeroUsize::MAX);
    let servable = max_open_files().map_or(wanted, |files| NonZeroUsize::new(files / 2).unwrap_or(NonZeroUsize::MIN));
    wanted.min(servable)
}

/// The connections of each client.
#[derive(Clone)]
pub(super) struct ClientShares {
    limit: Arc<ClientLimit>,
    /// From this number of connections on, each new connection of a client replaces its connection
    /// that has been idle for the longest. Halfway to the limit, young ones are replaced too. The
    /// limit itself is higher, and bounds connections that are not idle.
    crowded: u32,
    idle: Arc<IdleList>,
}

impl ClientShares {
    /// Limits a client to `wanted` of the `all` connections of a server, but always to fewer than
    /// all.
    pub(super) fn new(wanted: NonZeroU32, all: NonZeroUsize, idle: &Arc<IdleList>) -> Self {
        let max = of_client(wanted, all);
        let crowded = if max < wanted {
            tracing::warn!(
                max_connections_per_client = max,
                max_connections = all,
                configured = wanted,
                "a client may have fewer connections than configured: the server does not serve more"
            );
            max.get() - u32::try_from(all.get() / 4).unwrap_or(0)
        } else {
            u32::MAX
        };
        ClientShares { limit: ClientLimit::new(max, warn_of_connections), crowded, idle: Arc::clone(idle) }
    }

    /// Counts a connection of `client` until the guard is dropped. Returns `None` for a client
    /// without a limit.
    pub(super) fn acquire(&self, client: ClientAddr) -> Result<Option<DropGuard>, LimitReached> {
        if self.crowded < u32::MAX
            && let Some(key) = client.key()
            && let count = self.limit.count(key)
            && count >= self.crowded
        {
            // A permit becomes free a moment after its connection was told to close. So young
            // connections are closed before the limit is reached.
            self.idle.close_idlest_of(key, count >= self.crowded.midpoint(self.limit.max()));
        }
        self.limit.acquire(client)
    }
}

fn warn_of_connections(client: ClientKey, max: NonZeroU32) {
    tracing::warn!(
        %client, max,
        "a client has its maximum of connections, and further ones are closed. If it is a proxy in front of many clients, name it in \
         ProxyBuilder::trusted_proxies (kylin_front: --trust), or raise ServerBuilder::max_connections_per_client \
         (--client-connections)"
    );
}

/// The minimum number of connections for shares. A smaller server has few clients, and one client
/// may take all connections.
const MIN_SHARED: usize = 64;

/// Returns how many of the `all` connections of a server one client may have: `wanted`, but at most
/// three quarters.
fn of_client(wanted: NonZeroU32, all: NonZeroUsize) -> NonZeroU32 {
    let most = if all.get() < MIN_SHARED { usize::MAX } else { all.get() - all.get() / 4 };
    u32::try_from(most).ok().and_then(NonZeroU32::new).map_or(wanted, |most| wanted.min(most))
}

fn max_open_files() -> Option<usize> {
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current?;
    usize::try_from(files).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_stands_in_one_buffer() {
        let buffers = LineBuffers { first: 8, count: 2, size: 10 };
        // The last line is the empty one.
        for (lines, too_long, why) in [
            (&[6, 2][..], None, "all in the first buffer"),
            (&[10, 2], None, "the first line in another"),
            (&[11, 2], Some(0), "the first line in none"),
            (&[8, 10, 8, 2], None, "the end in the last"),
            (&[8, 11, 2], Some(1), "a header in none"),
            (&[5, 5, 5, 8, 2], None, "the second buffer is full with two lines"),
            (&[5, 5, 6, 5, 2], Some(3), "no line is divided between buffers"),
            (&[8, 10, 10, 2], Some(3), "no buffer is free for the end of the head"),
        ] {
            assert_eq!(buffers.too_long(lines.iter().copied()), too_long, "{why}");
        }
        assert_eq!(buffers.bytes(), 28);
    }
}
