//! `kylin.properties` as a source: the nodes that Kylin's own configuration names, read again when it changes.

mod site;

use std::path::Path;
use std::time::Duration;

pub use self::site::{InvalidSite, KylinSite};
use super::file::{Watched, unreadable};
use super::{DiscoveredNode, Discovery, DiscoveryError};
use crate::kylin::properties::Properties;

/// The nodes that a `kylin.properties` names, and [what else](KylinSite) it says of its cluster.
///
/// A file that cannot be read, or has a fault in a property that matters here, is an error that says where; none of it is used
/// then. What a change says of nodes is taken over while this is [followed](super::follow), what it says of timeouts holds for nodes
/// that come or change later.
///
/// ```no_run
/// use kylin_lb::discovery::{self, KylinFile};
/// use kylin_lb::probe::MetastoreCheck;
/// use kylin_lb::{Cluster, HttpBackend};
///
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let file = KylinFile::new("kylin.properties").overridden_by("kylin.properties.override");
/// let site = file.read().await?;
/// let cluster: Cluster<HttpBackend> = Cluster::builder().build()?;
/// let metastore = site.metadata_url().cloned().map(|url| MetastoreCheck::new().reference(url).start(&cluster));
/// # #[cfg(feature = "client")]
/// let follow = discovery::watch(&cluster, file, move |found| site.endpoint(found));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use]
pub struct KylinFile {
    files: Watched,
}

impl KylinFile {
    /// The file at `path`, most often `$KYLIN_HOME/conf/kylin.properties`.
    pub fn new(path: impl AsRef<Path>) -> Self {
        KylinFile { files: Watched::new(path.as_ref()) }
    }

    /// A file whose properties go before those of the files before it, as Kylin's `kylin.properties.override`. It may be missing.
    pub fn overridden_by(mut self, path: impl AsRef<Path>) -> Self {
        self.files.add_optional(path.as_ref());
        self
    }

    /// Sets how often the files are looked at. Default: each second.
    pub fn interval(mut self, interval: Duration) -> Self {
        self.files.set_interval(interval);
        self
    }

    /// What the files say now.
    ///
    /// # Errors
    /// [`DiscoveryError`] when one cannot be read, or has a fault.
    pub async fn read(&self) -> Result<KylinSite, DiscoveryError> {
        self.understood(self.files.read().await.map_err(unreadable)?)
    }

    fn understood(&self, files: Vec<Vec<u8>>) -> Result<KylinSite, DiscoveryError> {
        let mut properties = Properties::default();
        for (path, bytes) in self.files.paths().zip(files) {
            let path = path.display().to_string();
            let invalid = |source| DiscoveryError::Invalid { place: path.clone(), source };
            // Java reads Latin-1 where there are no escapes; UTF-8 is what editors write.
            let text = String::from_utf8(bytes).map_err(|error| invalid(error.utf8_error().into()))?;
            properties = properties.overridden_by(&path, &text).map_err(|error| invalid(error.into()))?;
        }
        let place = || self.files.paths().next().map(|path| path.display().to_string()).unwrap_or_default();
        KylinSite::of(&properties).map_err(|error| DiscoveryError::Invalid { place: place(), source: error.into() })
    }
}

impl Discovery for KylinFile {
    async fn next(&mut self) -> Result<Vec<DiscoveredNode>, DiscoveryError> {
        let files = self.files.next().await.map_err(unreadable)?;
        Ok(self.understood(files)?.into_nodes())
    }
}
