mod list;

#[cfg(fuzzing)]
pub(super) use list::fuzz;

use std::path::Path;
use std::time::Duration;

pub use self::list::InvalidLine;
use super::watched_files::WatchedFiles;
use super::{DiscoveredNode, Discovery, DiscoveryError};
use crate::clock::InvalidDuration;

/// A list of nodes in a text file, which is read again when it changes.
///
/// Each line is a node; `#` begins a comment:
///
/// ```text
/// # address          settings
/// kylin-1:7070       role=query weight=2
/// kylin-2:7070       role=query id=q2
/// 10.0.0.3:7070      role=job drain      # accepts no new sessions
/// [2001:db8::4]:7070 backup
/// ```
///
/// | setting | value | default |
/// |---|---|---|
/// | `role` | a value of `kylin.server.mode` | `all` |
/// | `weight` | a number from 1 to 65535 | the weight of the endpoint |
/// | `id` | up to 255 visible ASCII characters | the address |
/// | `backup`, `drain` | none | off |
///
/// The order of the lines is the order of the endpoints. If the file cannot be read, or a line is
/// invalid, the error names the place, and no part of the file is used.
///
/// The file may be replaced by renaming another over it, which is safer, or written in place.
#[derive(Debug)]
pub struct FileList {
    file: WatchedFiles,
}

impl FileList {
    /// Creates a source that reads the file at `path`.
    pub fn new(path: impl AsRef<Path>) -> Self {
        FileList { file: WatchedFiles::new(path.as_ref()) }
    }

    /// Sets how often the file is read. Default: 1 s.
    ///
    /// # Errors
    /// [`InvalidDuration`] if `interval` is below 10 ms.
    pub fn interval(mut self, interval: Duration) -> Result<Self, InvalidDuration> {
        self.file.set_interval(interval)?;
        Ok(self)
    }

    /// Parses the nodes of such a list.
    ///
    /// # Errors
    /// [`InvalidLine`] for the first invalid line.
    pub fn parse(text: &str) -> Result<Vec<DiscoveredNode>, InvalidLine> {
        list::parse(text)
    }
}

impl Discovery for FileList {
    async fn next(&mut self) -> Result<Vec<DiscoveredNode>, DiscoveryError> {
        let mut nodes = Vec::new();
        for file in self.file.next().await? {
            let path = file.path.display();
            let list = list::parse(file.text()?).map_err(|error| {
                let location = format!("{path}:{}:{}", error.line(), error.column());
                DiscoveryError::Invalid { location, source: error.into() }
            })?;
            nodes.extend(list.into_iter().map(|node| {
                let source = format!("{path}:{}", node.source());
                node.with_source(source)
            }));
        }
        Ok(nodes)
    }
}
