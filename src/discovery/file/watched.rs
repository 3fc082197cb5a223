//! Files that people and programs edit, read again when they change.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::sleep;

/// The longest file that is read, in bytes.
const MOST_BYTES: u64 = 1024 * 1024;
/// A changed file is believed when it stayed the same for this long: a writer may be in the middle of it.
const SETTLE: Duration = Duration::from_millis(100);
/// A writer that goes on for longer than this many times that writes no list of nodes.
const MOST_LOOKS: u32 = 50;

/// Files that are read together.
#[derive(Debug)]
pub(in crate::discovery) struct Watched {
    files: Vec<Place>,
    interval: Duration,
    seen: Seen,
}

#[derive(Debug, Clone)]
struct Place {
    path: PathBuf,
    /// One that is not there is empty.
    optional: bool,
}

/// What was found at the last look, of which there is nothing more to tell.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Nothing,
    Bytes(Vec<Vec<u8>>),
    Unreadable(PathBuf, io::ErrorKind),
}

/// A file that cannot be read, and why.
pub(in crate::discovery) type Unreadable = (PathBuf, io::Error);

impl Watched {
    /// One file.
    pub(in crate::discovery) fn new(path: &Path) -> Self {
        let file = Place { path: path.to_owned(), optional: false };
        Watched { files: vec![file], interval: Duration::from_secs(1), seen: Seen::Nothing }
    }

    /// A further file, which may be missing.
    pub(in crate::discovery) fn add_optional(&mut self, path: &Path) {
        self.files.push(Place { path: path.to_owned(), optional: true });
    }

    /// Sets how often the files are looked at.
    pub(in crate::discovery) fn set_interval(&mut self, interval: Duration) {
        self.interval = interval.max(Duration::from_millis(10));
    }

    pub(in crate::discovery) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|file| &*file.path)
    }

    /// Waits until the files, or what is wrong with them, are not what they were at the last call.
    pub(in crate::discovery) async fn next(&mut self) -> Result<Vec<Vec<u8>>, Unreadable> {
        loop {
            if self.seen != Seen::Nothing {
                sleep(self.interval).await;
            }
            let (seen, result) = match self.settled().await {
                Ok(bytes) => (Seen::Bytes(bytes.clone()), Ok(bytes)),
                Err((path, error)) => (Seen::Unreadable(path.clone(), error.kind()), Err((path, error))),
            };
            if seen != self.seen {
                self.seen = seen;
                return result;
            }
        }
    }

    /// The files' bytes, once they stay the same.
    async fn settled(&self) -> Result<Vec<Vec<u8>>, Unreadable> {
        let mut bytes = self.read().await?;
        for _ in 0..MOST_LOOKS {
            if matches!(&self.seen, Seen::Bytes(seen) if *seen == bytes) {
                return Ok(bytes);
            }
            sleep(SETTLE).await;
            let again = self.read().await?;
            if again == bytes {
                return Ok(bytes);
            }
            bytes = again;
        }
        let path = self.files.first().map(|file| file.path.clone()).unwrap_or_default();
        Err((path, io::Error::new(io::ErrorKind::ResourceBusy, "it changes without end")))
    }

    /// The files' bytes as they are now.
    pub(in crate::discovery) async fn read(&self) -> Result<Vec<Vec<u8>>, Unreadable> {
        let mut all = Vec::with_capacity(self.files.len());
        for file in &self.files {
            let Place { path, optional } = file.clone();
            let bytes = spawn_blocking(move || read(&path)).await.unwrap_or_else(|error| Err(io::Error::other(error)));
            all.push(match bytes {
                Err(error) if optional && error.kind() == io::ErrorKind::NotFound => Vec::new(),
                bytes => bytes.map_err(|error| (file.path.clone(), error))?,
            });
        }
        Ok(all)
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = std::fs::File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let mut bytes = Vec::new();
    Read::by_ref(&mut file).take(MOST_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("longer than {MOST_BYTES} bytes")));
    }
    Ok(bytes)
}
