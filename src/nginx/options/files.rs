//! Files that an option names.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use super::InvalidOption;

/// The maximum length of a file that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// Reads a file. It may be Latin-1.
pub(super) fn read(path: &Path) -> Result<String, InvalidOption> {
    let text = |path: &Path| {
        let file = File::open(path)?;
        // Reading a device may never end.
        let metadata = file.metadata()?;
        if !metadata.is_file() || metadata.len() > MAX_FILE {
            return Err(std::io::Error::other("not a file of at most 1 MiB"));
        }
        let mut bytes = Vec::new();
        file.take(MAX_FILE).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    text(path).map_err(|error| InvalidOption::file(path, format!("{}: {error}", path.display())))
}
