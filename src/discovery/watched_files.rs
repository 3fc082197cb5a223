//! Files that operators and programs edit, which are read again when they change.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::{DiscoveryError, MIN_INTERVAL};
use crate::clock::{InvalidDuration, at_least};

const MAX_BYTES: u64 = 1024 * 1024;
/// The time for which a changed file must stay the same before it is used, because it may be
/// half-written.
const SETTLE_TIME: Duration = Duration::from_millis(100);
/// The maximum number of reads of a file that keeps changing. After that, the read is an error.
const MAX_SETTLE_READS: u32 = 50;

/// Files that are read together.
#[derive(Debug)]
pub(super) struct WatchedFiles {
    /// Each path, and whether the file may be missing. A missing file is empty.
    paths: Vec<(PathBuf, bool)>,
    interval: Duration,
    /// The last result that was returned.
    last: Option<Result<Vec<FileContent>, (PathBuf, io::ErrorKind)>>,
}

/// The content of a file when it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileContent {
    pub(super) path: PathBuf,
    bytes: Vec<u8>,
}

type Contents = Result<Vec<FileContent>, (PathBuf, io::Error)>;

impl WatchedFiles {
    /// Creates a reader of one file.
    pub(super) fn new(path: &Path) -> Self {
        WatchedFiles { paths: vec![(path.to_owned(), false)], interval: Duration::from_secs(1), last: None }
    }

    /// Adds a file that may be missing.
    pub(super) fn add_optional(&mut self, path: &Path) {
        self.paths.push((path.to_owned(), true));
    }

    /// Sets how often the files are read.
    pub(super) fn set_interval(&mut self, interval: Duration) -> Result<(), InvalidDuration> {
        self.interval = at_least(MIN_INTERVAL, interval, "interval")?;
        Ok(())
    }

    /// Waits until the contents, or the error, differ from what the last call returned.
    pub(super) async fn next(&mut self) -> Result<Vec<FileContent>, DiscoveryError> {
        loop {
            if self.last.is_some() {
                sleep(self.interval).await;
            }
            let contents = self.settled().await;
            let comparable = match &contents {
                Ok(contents) => Ok(contents.clone()),
                Err((path, error)) => Err((path.clone(), error.kind())),
            };
            if self.last.as_ref() != Some(&comparable) {
                self.last = Some(comparable);
                return contents.map_err(unavailable);
            }
        }
    }

    /// Reads the contents now.
    pub(super) async fn read(&self) -> Result<Vec<FileContent>, DiscoveryError> {
        self.read_all().await.map_err(unavailable)
    }

    /// Reads the contents until two reads agree.
    async fn settled(&self) -> Contents {
        let mut contents = self.read_all().await?;
        for _ in 0..MAX_SETTLE_READS {
            if matches!(&self.last, Some(Ok(last)) if *last == contents) {
                return Ok(contents);
            }
            sleep(SETTLE_TIME).await;
            let again = self.read_all().await?;
            if again == contents {
                return Ok(contents);
            }
            contents = again;
        }
        let path = self.paths.first().map(|(path, _)| path.clone()).unwrap_or_default();
        Err((path, io::Error::new(io::ErrorKind::ResourceBusy, "the file keeps changing")))
    }

    async fn read_all(&self) -> Contents {
        let mut contents = Vec::with_capacity(self.paths.len());
        for (path, optional) in self.paths.clone() {
            let read_path = path.clone();
            let read = spawn_blocking(move || read(&read_path)).await;
            let bytes = match read.unwrap_or_else(|error| Err(io::Error::other(error))) {
                Err(error) if optional && error.kind() == io::ErrorKind::NotFound => Vec::new(),
                Err(error) => return Err((path, error)),
                Ok(bytes) => bytes,
            };
            contents.push(FileContent { path, bytes });
        }
        Ok(contents)
    }
}

impl FileContent {
    /// Returns the text of a properties file. Comments may have bytes that are not UTF-8.
    pub(super) fn text_of_properties(&self) -> Result<String, DiscoveryError> {
        let mut text = String::with_capacity(self.bytes.len());
        for (number, line) in (1..).zip(self.bytes.split_inclusive(|byte| *byte == b'\n')) {
            match std::str::from_utf8(line) {
                Ok(line) => text.push_str(line),
                Err(_) if matches!(line.trim_ascii_start(), [b'#' | b'!', ..]) => {
                    text.push_str(&String::from_utf8_lossy(line))
                }
                Err(error) => {
                    let location = format!("{}:{number}", self.path.display());
                    return Err(DiscoveryError::Invalid { location, source: error.into() });
                }
            }
        }
        Ok(text)
    }

    pub(super) fn text(&self) -> Result<&str, DiscoveryError> {
        let location = || self.path.display().to_string();
        let text = std::str::from_utf8(&self.bytes);
        text.map_err(|error| DiscoveryError::Invalid { location: location(), source: error.into() })
    }
}

fn unavailable((path, error): (PathBuf, io::Error)) -> DiscoveryError {
    DiscoveryError::Unavailable { location: path.display().to_string(), source: error.into() }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = std::fs::File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("longer than {MAX_BYTES} bytes")));
    }
    Ok(bytes)
}
