//! `--resource-groups`: the resource groups of Kylin 5, which are read again when their file
//! changes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kylin_lb::kylin::ResourceGroups;

/// The interval at which the file is read.
const INTERVAL: Duration = Duration::from_secs(1);

/// The groups, and the file that lists them.
pub struct GroupsFile {
    pub path: PathBuf,
    pub groups: ResourceGroups,
}

impl GroupsFile {
    pub fn read(path: &str) -> Result<Self, String> {
        let path = PathBuf::from(path);
        let text = text(&path)?;
        let groups = ResourceGroups::parse(&text).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(GroupsFile { path, groups })
    }

    /// Reads the file repeatedly, for as long as the program runs. A missing or invalid file
    /// changes nothing.
    pub fn follow(&self) {
        let (path, groups) = (self.path.clone(), self.groups.clone());
        tokio::spawn(async move {
            let mut last_error = None;
            loop {
                tokio::time::sleep(INTERVAL).await;
                let read = text(&path).and_then(|text| groups.replace(&text).map_err(|error| error.to_string()));
                if let Ok(true) = read {
                    tracing::info!(file = %path.display(), "resource groups changed");
                }
                let error = read.err();
                if error != last_error
                    && let Some(error) = &error
                {
                    tracing::warn!(file = %path.display(), error, "resource groups are unchanged");
                }
                last_error = error;
            }
        });
    }
}

fn text(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}
