mod list;

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::sleep;

pub use self::list::InvalidLine;
use super::{Discovery, DiscoveryError, Found};

/// The longest file that is read, in bytes.
const MOST_BYTES: u64 = 1024 * 1024;
/// A changed file is believed when it stayed the same for this long: a writer may be in the middle of it.
const SETTLE: Duration = Duration::from_millis(100);
/// A writer that goes on for longer than this many times that writes no list of nodes.
const MOST_LOOKS: u32 = 50;

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
pub struct File {
    path: PathBuf,
    interval: Duration,
    seen: Seen,
}

/// What was found at the last look, of which there is nothing more to tell.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Nothing,
    Bytes(Vec<u8>),
    Unreadable(io::ErrorKind),
}

impl File {
    /// The list at `path`.
    pub fn new(path: impl AsRef<Path>) -> Self {
        File { path: path.as_ref().to_owned(), interval: Duration::from_secs(1), seen: Seen::Nothing }
    }

    /// Sets how often the file is looked at. Default: each second.
    #[must_use]
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval.max(Duration::from_millis(10));
        self
    }

    /// Reads such a list from a text.
    ///
    /// # Errors
    /// [`InvalidLine`] for the first fault, with its line and column.
    pub fn parse(text: &str) -> Result<Vec<Found>, InvalidLine> {
        list::parse(text)
    }

    /// The file's bytes, once they stay the same.
    async fn settled(&self) -> io::Result<Vec<u8>> {
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
        Err(io::Error::new(io::ErrorKind::ResourceBusy, "it changes without end"))
    }

    async fn read(&self) -> io::Result<Vec<u8>> {
        let path = self.path.clone();
        spawn_blocking(move || read(&path)).await.unwrap_or_else(|error| Err(io::Error::other(error)))
    }

    fn understood(&self, bytes: &[u8]) -> Result<Vec<Found>, DiscoveryError> {
        let invalid = |place, source| DiscoveryError::Invalid { place, source };
        let path = self.path.display();
        let text = std::str::from_utf8(bytes).map_err(|error| invalid(path.to_string(), error.into()))?;
        let found = list::parse(text).map_err(|error| invalid(format!("{path}:{}", error.place()), error.into()))?;
        let placed = |found: Found| {
            let source = format!("{path}:{}", found.source());
            found.with_source(source)
        };
        Ok(found.into_iter().map(placed).collect())
    }
}

impl Discovery for File {
    async fn next(&mut self) -> Result<Vec<Found>, DiscoveryError> {
        loop {
            if self.seen != Seen::Nothing {
                sleep(self.interval).await;
            }
            let (seen, result) = match self.settled().await {
                Ok(bytes) => {
                    let found = self.understood(&bytes);
                    (Seen::Bytes(bytes), found)
                }
                Err(error) => {
                    let place = self.path.display().to_string();
                    (Seen::Unreadable(error.kind()), Err(DiscoveryError::Unavailable { place, source: error.into() }))
                }
            };
            if seen != self.seen {
                self.seen = seen;
                return result;
            }
        }
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
