#[cfg(unix)]
use std::io;
#[cfg(unix)]
use std::num::NonZeroU64;
use std::num::{NonZeroU32, NonZeroUsize};
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

/// Raises the limit of open files of this process to what the system allows, or sets it to `files` (nginx:
/// `worker_rlimit_nofile`). Returns the limit.
///
/// Each connection is a file. A process starts with a soft limit that it may raise itself, often 1,024, and a hard limit. A library
/// must not change its process unasked, so an application calls this before it starts a [`Server`](super::Server).
///
/// # Errors
/// An error if `files` is above the hard limit and the process may not raise that.
#[cfg(unix)]
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

/// Returns how many of `wanted` connections of clients this process can serve: half of the files that it may open. A request of a
/// client needs a connection to a node too, and stores, logs and discovery need files as well.
pub(super) fn servable(wanted: Option<NonZeroUsize>) -> NonZeroUsize {
    let wanted = wanted.unwrap_or(NonZeroUsize::MAX);
    let servable = max_open_files().map_or(wanted, |files| NonZeroUsize::new(files / 2).unwrap_or(NonZeroUsize::MIN));
    wanted.min(servable)
}

#[cfg(unix)]
fn max_open_files() -> Option<usize> {
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current?;
    usize::try_from(files).ok()
}

#[cfg(not(unix))]
fn max_open_files() -> Option<usize> {
    None
}
