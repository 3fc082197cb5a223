//! Writes lines to a file or to standard output, in a thread of its own, so that no request waits for a disk.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

/// How many lines, and of how many bytes, wait for the thread. Further ones are dropped and counted.
const MAX_LINES: usize = 8192;
const MAX_BYTES: usize = 16 << 20;
/// How long a line may stay in the buffer of the thread.
const FLUSH_INTERVAL: Duration = Duration::from_millis(200);
/// How often lost lines are logged.
const WARN_INTERVAL: Duration = Duration::from_secs(10);

/// A log file. Clones write to the same file.
#[derive(Clone)]
pub struct LogFile {
    name: Arc<str>,
    sender: SyncSender<Message>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    /// Bytes of the lines that wait.
    waiting: AtomicUsize,
    dropped: AtomicU64,
}

enum Message {
    Line(Vec<u8>),
    Reopen,
    Flush(SyncSender<()>),
}

impl LogFile {
    /// Opens a file to append to; `-` is standard output.
    pub fn open(path: &str) -> io::Result<Self> {
        Self::start((path != "-").then(|| PathBuf::from(path)))
    }

    /// Opens the file at `path` to append to, whatever its name.
    pub fn open_path(path: &Path) -> io::Result<Self> {
        Self::start(Some(path.to_owned()))
    }

    fn start(path: Option<PathBuf>) -> io::Result<Self> {
        let output = open(path.as_ref())?;
        let name = path.as_ref().map_or("-".into(), |path| path.to_string_lossy().into());
        let (sender, receiver) = mpsc::sync_channel(MAX_LINES);
        let counts = Arc::new(Counts::default());
        let writer = Writer { path, output, counts: Arc::clone(&counts), warned: None, reported: 0 };
        thread::Builder::new().name("log".into()).spawn(move || writer.run(&receiver))?;
        Ok(LogFile { name, sender, counts })
    }

    /// Writes a line, which has no line break. Does not wait: if the disk is too slow, the line is dropped and counted.
    pub fn write(&self, line: impl Into<Vec<u8>>) {
        let line = line.into();
        let bytes = line.len();
        let fits = self.counts.waiting.fetch_add(bytes, Ordering::Relaxed) + bytes <= MAX_BYTES;
        if !fits || self.sender.try_send(Message::Line(line)).is_err() {
            self.counts.waiting.fetch_sub(bytes, Ordering::Relaxed);
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns the path, `-` for standard output.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns how many lines were dropped since the log was opened first.
    pub fn dropped(&self) -> u64 {
        self.counts.dropped.load(Ordering::Relaxed)
    }

    /// Opens the file again, after it was renamed.
    pub fn reopen(&self) {
        _ = self.sender.send(Message::Reopen);
    }

    /// Waits until all lines are written.
    pub fn flush(&self) {
        let (done, is_done) = mpsc::sync_channel(1);
        if self.sender.send(Message::Flush(done)).is_ok() {
            _ = is_done.recv_timeout(Duration::from_secs(5));
        }
    }
}

fn open(path: Option<&PathBuf>) -> io::Result<BufWriter<Box<dyn Write + Send>>> {
    let output: Box<dyn Write + Send> = match path {
        Some(path) => Box::new(append(path)?),
        None => Box::new(io::stdout()),
    };
    Ok(BufWriter::new(output))
}

fn append(path: &PathBuf) -> io::Result<File> {
    let file = OpenOptions::new().append(true).create(true).open(path);
    file.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

struct Writer {
    path: Option<PathBuf>,
    output: BufWriter<Box<dyn Write + Send>>,
    counts: Arc<Counts>,
    /// When a warning was logged last.
    warned: Option<Instant>,
    reported: u64,
}

impl Writer {
    /// Ends when the last clone of the log is dropped.
    fn run(mut self, messages: &Receiver<Message>) {
        loop {
            let result = match messages.recv_timeout(FLUSH_INTERVAL) {
                Ok(Message::Line(line)) => {
                    let written = self.output.write_all(&line).and_then(|()| self.output.write_all(b"\n"));
                    self.counts.waiting.fetch_sub(line.len(), Ordering::Relaxed);
                    written
                }
                Ok(Message::Reopen) => self.reopen(),
                Ok(Message::Flush(done)) => {
                    let flushed = self.output.flush();
                    _ = done.send(());
                    flushed
                }
                Err(RecvTimeoutError::Timeout) => self.output.flush(),
                Err(RecvTimeoutError::Disconnected) => return,
            };
            self.warn(result.err());
        }
    }

    fn reopen(&mut self) -> io::Result<()> {
        let flushed = self.output.flush();
        if self.path.is_some() {
            self.output = open(self.path.as_ref())?;
        }
        flushed
    }

    /// Logs an error and lost lines, now and then.
    fn warn(&mut self, error: Option<io::Error>) {
        let dropped = self.counts.dropped.load(Ordering::Relaxed);
        if error.is_none() && dropped == self.reported {
            return;
        }
        if self.warned.is_some_and(|at| at.elapsed() < WARN_INTERVAL) {
            return;
        }
        (self.warned, self.reported) = (Some(Instant::now()), dropped);
        let error = error.map(|error| error.to_string());
        tracing::warn!(error, dropped, "lines of a request log are lost");
    }
}
