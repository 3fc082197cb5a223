//! Reads the files of a node that say where the nodes share their sessions.

use std::path::Path;
use std::sync::Arc;

use super::{InvalidOption, files};
use crate::kylin::properties::Properties;
use crate::kylin::tomcat::SessionManager;

/// The session manager of the nodes, as a file describes it.
#[derive(Clone, PartialEq)]
pub(super) struct ReplicatedBy {
    /// The file, as the option named it.
    pub(super) file: Arc<str>,
    pub(super) manager: Arc<SessionManager>,
}

impl ReplicatedBy {
    pub(super) fn read(path: &Path) -> Result<Self, InvalidOption> {
        let file = path.display().to_string();
        let text = files::read(path)?;
        let invalid = |error: &dyn std::error::Error| InvalidOption::file(path, error.to_string());
        let is_properties = path.extension().is_some_and(|extension| extension == "properties");
        let manager = if is_properties {
            let properties = Properties::parse(&file, &text).map_err(|error| invalid(&error))?;
            match properties.get("redis.hosts") {
                Some(_) => SessionManager::from_redis_data_cache(&properties).map(Some),
                None => SessionManager::from_kylin_properties(&properties),
            }
        } else {
            SessionManager::from_context(&file, &text)
        };
        let Some(mut manager) = manager.map_err(|error| invalid(&error))? else {
            let (place, unless) = match is_properties {
                true => (
                    "spring.session.store-type",
                    " (unless it is a Kylin 5 with the JDBC that it sets itself: write that)",
                ),
                false => ("session manager", ""),
            };
            let reason = format!(
                "{file} names no {place}: each node keeps its sessions to itself{unless}, so replicated would lose logins"
            );
            return Err(InvalidOption::file(path, reason));
        };
        if let Some(beside) = manager.settings_file().and_then(|name| find(path, name)) {
            let file = beside.display().to_string();
            let text = files::read(&beside)?;
            manager = manager.with_settings(&file, &text).map_err(|error| invalid(&error))?;
        }
        Ok(ReplicatedBy { file: file.into(), manager: Arc::new(manager) })
    }
}

/// Returns the file `name` beside `context.xml`, or in the folder above, which is
/// `${catalina.base}`.
fn find(context: &Path, name: &str) -> Option<std::path::PathBuf> {
    let conf = context.parent()?;
    [conf.join(name), conf.join("..").join(name)].into_iter().find(|path| path.is_file())
}
