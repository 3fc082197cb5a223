mod list;
mod watched;

use std::path::Path;
use std::time::Duration;

pub use self::list::InvalidLine;
pub(super) use self::watched::{Unreadable, Watched};
use super::{DiscoveredNode, Discovery, DiscoveryError};

/// Nodes listed in a text file, which is read again when it changes.
///
/// A line for each node, `#` begins a comment:
///
/// ```text
/// # address          what goes for it
/// kylin-1:7070       role=query weight=2
/// kylin-2:7070       role=query id=q2
/// 10.0.0.3:7070      role=job drain      # wants no new sessions
/// [2001:db8::4]:7070 backup
/// ```
///
/// `role` takes the values of `kylin.server.mode` (default: all), `weight` a number from 1, `id` a name of up to 255 visible
/// characters. A file that cannot be read, or has a fault in any line, is an error that says where; none of it is used then. The
/// order of the lines is the order of the endpoints.
///
/// A file may be replaced (written elsewhere and renamed, the better way) or written in place.
#[derive(Debug)]
pub struct FileList {
    file: Watched,
}

impl FileList {
    /// The list at `path`.
    pub fn new(path: impl AsRef<Path>) -> Self {
        FileList { file: Watched::new(path.as_ref()) }
    }

    /// Sets how often the file is looked at. Default: each second.
    #[must_use]
    pub fn interval(mut self, interval: Duration) -> Self {
        self.file.set_interval(interval);
        self
    }

    /// Reads such a list from a text.
    ///
    /// # Errors
    /// [`InvalidLine`] for the first fault, with its line and column.
    pub fn parse(text: &str) -> Result<Vec<DiscoveredNode>, InvalidLine> {
        list::parse(text)
    }
}

impl Discovery for FileList {
    async fn next(&mut self) -> Result<Vec<DiscoveredNode>, DiscoveryError> {
        let files = self.file.next().await.map_err(unreadable)?;
        self.file.paths().zip(files).map(|(path, bytes)| understood(path, &bytes)).next().unwrap_or(Ok(Vec::new()))
    }
}

pub(super) fn unreadable((path, error): Unreadable) -> DiscoveryError {
    DiscoveryError::Unavailable { place: path.display().to_string(), source: error.into() }
}

fn understood(path: &Path, bytes: &[u8]) -> Result<Vec<DiscoveredNode>, DiscoveryError> {
    let invalid = |place, source| DiscoveryError::Invalid { place, source };
    let path = path.display();
    let text = std::str::from_utf8(bytes).map_err(|error| invalid(path.to_string(), error.into()))?;
    let found = list::parse(text).map_err(|error| invalid(format!("{path}:{}", error.place()), error.into()))?;
    let placed = |found: DiscoveredNode| {
        let source = format!("{path}:{}", found.source());
        found.with_source(source)
    };
    Ok(found.into_iter().map(placed).collect())
}
