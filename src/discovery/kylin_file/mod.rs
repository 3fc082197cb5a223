//! `kylin.properties` as a source of membership.

mod config;

use std::path::Path;
use std::time::Duration;

pub use self::config::{InvalidKylinConfig, KylinConfig};
use super::watched_files::{FileContent, WatchedFiles};
use super::{DiscoveredNode, Discovery, DiscoveryError};
use crate::clock::InvalidDuration;
use crate::kylin::properties::Properties;

/// The nodes of a `kylin.properties`, which is read again when it changes.
///
/// If the file cannot be read, or a property that matters here is invalid, the error names the
/// place, and no part of the file is used. Changes to the list of nodes apply while the source is
/// [watched](super::watch). Changes to timeouts apply to nodes that join or change later.
///
/// ```no_run
/// use kylin_lb::discovery::{self, KylinFile};
/// use kylin_lb::probe::MetastoreCheck;
/// use kylin_lb::{Cluster, HttpBackend};
///
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let file = KylinFile::new("kylin.properties").overridden_by("kylin.properties.override");
/// let config = file.read().await?;
/// let cluster: Cluster<HttpBackend> = Cluster::builder().build()?;
/// let check = config.metadata_url().cloned().map(|url| MetastoreCheck::new().reference(url));
/// let checker = check.map(|check| check.start(&cluster)).transpose()?;
/// # #[cfg(feature = "client")]
/// let handle = discovery::watch(&cluster, file, move |node| config.endpoint(node));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use]
pub struct KylinFile {
    files: WatchedFiles,
}

impl KylinFile {
    /// Creates a source that reads the file at `path`, usually `$KYLIN_HOME/conf/kylin.properties`.
    pub fn new(path: impl AsRef<Path>) -> Self {
        KylinFile { files: WatchedFiles::new(path.as_ref()) }
    }

    /// Adds a file whose properties override those of the earlier files, such as Kylin's
    /// `kylin.properties.override`. The file may be missing.
    pub fn overridden_by(mut self, path: impl AsRef<Path>) -> Self {
        self.files.add_optional(path.as_ref());
        self
    }

    /// Sets how often the files are read. Default: 1 s.
    ///
    /// # Errors
    /// [`InvalidDuration`] if `interval` is below 10 ms.
    pub fn interval(mut self, interval: Duration) -> Result<Self, InvalidDuration> {
        self.files.set_interval(interval)?;
        Ok(self)
    }

    /// Reads the files now.
    ///
    /// # Errors
    /// [`DiscoveryError`] if a file cannot be read or is invalid.
    pub async fn read(&self) -> Result<KylinConfig, DiscoveryError> {
        parse(&self.files.read().await?)
    }
}

impl Discovery for KylinFile {
    async fn next(&mut self) -> Result<Vec<DiscoveredNode>, DiscoveryError> {
        Ok(parse(&self.files.next().await?)?.nodes().to_vec())
    }
}

fn parse(files: &[FileContent]) -> Result<KylinConfig, DiscoveryError> {
    let location = |file: &FileContent| file.path.display().to_string();
    let mut properties = Properties::default();
    for file in files {
        properties = properties
            .overridden_by(&location(file), &file.text_of_properties()?)
            .map_err(|error| DiscoveryError::Invalid { location: location(file), source: error.into() })?;
    }
    KylinConfig::from_properties(&properties).map_err(|error| {
        let location = files.first().map(location).unwrap_or_default();
        DiscoveryError::Invalid { location, source: error.into() }
    })
}
