//! The files of a node that say where the nodes share their sessions.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use super::InvalidOption;
use crate::kylin::properties::Properties;
use crate::kylin::tomcat::SessionManager;

/// The longest file that is read.
const MAX_FILE: u64 = 1 << 20;

/// What a file says of the nodes' session manager.
#[derive(Clone, PartialEq)]
pub(super) struct ReplicatedBy {
    /// As it was named.
    pub(super) file: Arc<str>,
    pub(super) manager: Arc<SessionManager>,
}

impl ReplicatedBy {
    pub(super) fn read(path: &Path) -> Result<Self, InvalidOption> {
        let file = path.display().to_string();
        let text = text(path).map_err(|error| InvalidOption(format!("{file}: {error}")))?;
        let invalid = |error: &dyn std::error::Error| InvalidOption(error.to_string());
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
            let place = if is_properties { "spring.session.store-type" } else { "session manager" };
            return Err(InvalidOption(format!(
                "{file} names no {place}: each node keeps its sessions to itself, so replicated would lose logins"
            )));
        };
        if let Some(beside) = manager.settings_file().and_then(|name| find(path, name)) {
            let file = beside.display().to_string();
            let text = self::text(&beside).map_err(|error| InvalidOption(format!("{file}: {error}")))?;
            manager = manager.with_settings(&file, &text).map_err(|error| invalid(&error))?;
        }
        Ok(ReplicatedBy { file: file.into(), manager: Arc::new(manager) })
    }
}

/// Returns the file `name` beside `context.xml`, or in the folder above, which is `${catalina.base}`.
fn find(context: &Path, name: &str) -> Option<std::path::PathBuf> {
    let conf = context.parent()?;
    [conf.join(name), conf.join("..").join(name)].into_iter().find(|path| path.is_file())
}

/// Reads a file. It may be Latin-1.
fn text(path: &Path) -> Result<String, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    // A device may have no end.
    let is_file = file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() <= MAX_FILE);
    let mut bytes = Vec::new();
    match is_file {
        true => file.take(MAX_FILE).read_to_end(&mut bytes).map_err(|error| error.to_string())?,
        false => return Err("not a file of at most 1 MiB".into()),
    };
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
