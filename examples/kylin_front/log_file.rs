//! Writes lines to a file, to standard output or to standard error, in a thread of its own, so that no request waits for a disk or for
//! the reader of a pipe.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError};
use std::thread;
use std::time::{Duration, Instant};

/// The number of lines, and of their bytes, that may wait for the thread. Further lines are dropped and counted.
const MAX_LINES: usize = 8192;
const MAX_BYTES: usize = 16 << 20;
/// The time for which a line may stay in the buffer of the thread.
const FLUSH_INTERVAL: Duration = Duration::from_millis(200);
/// The time for which the thread sleeps when it has written all lines: to wake it for each line would cost a request more than the line.
const WRITE_INTERVAL: Duration = Duration::from_millis(10);
/// The time for which [`LogFile::flush`] waits for a disk, or for the reader of a pipe.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);
/// The interval at which lost lines are logged.
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
    /// Tells the thread to open the file again.
    reopen: AtomicBool,
}

enum Message {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

impl LogFile {
    /// Opens the file at `path` to append to, and creates it with this mode if it does not exist; `-` is standard output.
    pub fn open(path: &str, mode: u32) -> io::Result<Self> {
        Self::start(if path == "-" { Target::Stdout } else { Target::File(PathBuf::from(path), mode) })
    }

    /// Returns standard output.
    pub fn stdout() -> io::Result<Self> {
        Self::start(Target::Stdout)
    }

    /// Returns standard error.
    pub fn stderr() -> io::Result<Self> {
        Self::start(Target::Stderr)
    }

    /// As [`open`](Self::open), but `-` is a file too. Everyone may read a file that it creates, as nginx's.
    pub fn open_path(path: &Path) -> io::Result<Self> {
        Self::start(Target::File(path.to_owned(), 0o644))
    }

    fn start(target: Target) -> io::Result<Self> {
        let output = target.open()?;
        let name = match &target {
            Target::File(path, _) => path.to_string_lossy().into(),
            Target::Stdout | Target::Stderr => "-".into(),
        };
        let (sender, receiver) = mpsc::sync_channel(MAX_LINES);
        let counts = Arc::new(Counts::default());
        let writer = Writer { target, output, counts: Arc::clone(&counts), warned: None, reported: 0 };
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

    /// Makes the thread open the file again after it was renamed. Does not wait.
    pub fn reopen(&self) {
        self.counts.reopen.store(true, Ordering::Relaxed);
    }

    /// Waits until all lines are written to these files, but not longer than [`FLUSH_TIMEOUT`].
    pub fn flush(files: &[LogFile]) {
        let deadline = Instant::now() + FLUSH_TIMEOUT;
        thread::scope(|scope| files.iter().for_each(|file| _ = scope.spawn(move || file.flush_until(deadline))));
    }

    fn flush_until(&self, deadline: Instant) {
        let (done, is_done) = mpsc::sync_channel(1);
        let mut message = Message::Flush(done);
        while let Err(TrySendError::Full(unsent)) = self.sender.try_send(message) {
            if Instant::now() >= deadline {
                return;
            }
            message = unsent;
            thread::sleep(Duration::from_millis(10));
        }
        _ = is_done.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }
}

/// Writes each buffer as a line: `tracing` writes an event with its line break in one piece.
impl Write for &LogFile {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        LogFile::write(self, buffer.strip_suffix(b"\n").unwrap_or(buffer));
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

enum Target {
    /// A file, and the mode of one that is made.
    File(PathBuf, u32),
    Stdout,
    Stderr,
}

impl Target {
    fn open(&self) -> io::Result<BufWriter<Box<dyn Write + Send>>> {
        let output: Box<dyn Write + Send> = match self {
            Target::File(path, mode) => Box::new(append(path, *mode)?),
            Target::Stdout => Box::new(io::stdout()),
            Target::Stderr => Box::new(io::stderr()),
        };
        Ok(BufWriter::new(output))
    }
}

fn append(path: &PathBuf, mode: u32) -> io::Result<File> {
    // To open a pipe for writing alone waits for its reader.
    let is_pipe = fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo());
    let file = OpenOptions::new().append(true).read(is_pipe).create(true).mode(mode).open(path);
    file.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

struct Writer {
    target: Target,
    output: BufWriter<Box<dyn Write + Send>>,
    counts: Arc<Counts>,
    /// When a warning was logged last.
    warned: Option<Instant>,
    reported: u64,
}

impl Writer {
    /// Runs until the last clone of the log is dropped.
    fn run(mut self, messages: &Receiver<Message>) {
        // What a process logs last is what counts if it dies.
        let is_urgent = matches!(self.target, Target::Stderr);
        let mut flushed = Instant::now();
        loop {
            let message = messages.try_recv().or_else(|_| {
                if !is_urgent {
                    thread::sleep(WRITE_INTERVAL);
                }
                messages.recv_timeout(FLUSH_INTERVAL)
            });
            if self.counts.reopen.swap(false, Ordering::Relaxed) {
                let reopened = self.reopen();
                self.warn(reopened.err());
            }
            let mut result = Ok(());
            let mut done = None;
            match message {
                Ok(Message::Line(line)) => result = self.write(line),
                Ok(Message::Flush(asked)) => done = Some(asked),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if done.is_some() || is_urgent || flushed.elapsed() >= FLUSH_INTERVAL {
                result = result.and(self.output.flush());
                flushed = Instant::now();
            }
            if let Some(done) = done {
                _ = done.send(());
            }
            self.warn(result.err());
        }
    }

    fn write(&mut self, mut line: Vec<u8>) -> io::Result<()> {
        let bytes = line.len();
        line.push(b'\n');
        // One write for each line, so that another process that appends to the file does not break it.
        let written = self.output.write_all(&line);
        self.counts.waiting.fetch_sub(bytes, Ordering::Relaxed);
        if written.is_err() {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
        written
    }

    fn reopen(&mut self) -> io::Result<()> {
        if !matches!(self.target, Target::File(..)) {
            return self.output.flush();
        }
        let new = self.target.open()?;
        _ = self.output.flush();
        // What the old file did not take goes to the new one.
        let (_, unwritten) = std::mem::replace(&mut self.output, new).into_parts();
        unwritten.map_or(Ok(()), |unwritten| self.output.write_all(&unwritten))
    }

    /// Logs an error and the number of lost lines, at most once in [`WARN_INTERVAL`].
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
        tracing::warn!(error, dropped, "lines of a log are lost");
    }
}
