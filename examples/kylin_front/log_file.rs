//! Writes lines to a file, to standard output or to standard error. The writer has its own thread,
//! so no request waits for a disk or for the reader of a pipe.
//!
//! A request appends its line to a buffer that all requests share, and wakes the thread only if it
//! sleeps without a line. The thread collects lines for [`WRITE_INTERVAL`], takes the buffer, and
//! writes it with one call.

use std::borrow::Cow;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::mem;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, SyncSender};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// The maximum size of the lines that wait for the thread and for the disk, in bytes. Further lines
/// are dropped and counted.
const MAX_BYTES: usize = 16 << 20;
/// The size of the lines that are kept after an error, to be written later, in bytes. Other lines
/// that the disk did not accept are dropped and counted.
const MAX_UNWRITTEN: usize = 8 << 10;
/// The maximum memory that an empty buffer keeps, in bytes.
const MAX_SPARE: usize = 256 << 10;
/// How long the thread collects lines. Waking it for each line would cost more than the line.
const WRITE_INTERVAL: Duration = Duration::from_millis(50);
/// The time after which lines that were kept after an error are written again.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);
/// How long [`LogFile::flush`] waits for a disk, or for the reader of a pipe.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);
/// The interval at which lost lines are logged.
const WARN_INTERVAL: Duration = Duration::from_secs(10);

/// The log on standard output. All writers share it, so that their lines stay in order.
static STDOUT: Mutex<Weak<Handle>> = Mutex::new(Weak::new());

/// A log file. Clones write to the same file.
#[derive(Clone)]
pub struct LogFile(Arc<Handle>);

/// Ends the thread when the last clone of the log is dropped.
struct Handle {
    name: Box<str>,
    queue: Arc<Queue>,
}

/// The data that requests leave for the thread.
#[derive(Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    wake: Condvar,
    dropped: AtomicU64,
}

#[derive(Default)]
struct Waiting {
    lines: Vec<u8>,
    /// The size of the lines that the thread has taken but not written, in bytes.
    taken: usize,
    /// Whether the thread sleeps until there is a line.
    sleeps: bool,
    orders: Orders,
}

/// The orders to the thread, apart from writing lines.
#[derive(Default)]
struct Orders {
    /// Reopen the file.
    reopen: bool,
    /// Notify these when all lines are written.
    flushes: Vec<SyncSender<()>>,
    /// End.
    end: bool,
}

impl LogFile {
    /// Opens the file at `path` for appending, and creates it with this mode if it does not exist;
    /// `-` is standard output.
    pub fn open(path: &str, mode: u32) -> io::Result<Self> {
        if path == "-" { Self::stdout() } else { Self::start(Target::File(PathBuf::from(path), mode)) }
    }

    /// Returns standard output.
    pub fn stdout() -> io::Result<Self> {
        let mut shared = STDOUT.lock();
        if let Some(handle) = shared.upgrade() {
            return Ok(LogFile(handle));
        }
        let log = Self::start(Target::Stdout)?;
        *shared = Arc::downgrade(&log.0);
        Ok(log)
    }

    /// Returns standard error.
    pub fn stderr() -> io::Result<Self> {
        Self::start(Target::Stderr)
    }

    /// Like [`open`](Self::open), but `-` is a file too. Like nginx's, a file that it creates is
    /// readable by everyone.
    pub fn open_path(path: &Path) -> io::Result<Self> {
        Self::start(Target::File(path.to_owned(), 0o644))
    }

    fn start(target: Target) -> io::Result<Self> {
        let output = target.open()?;
        let name = target.name().into();
        let queue = Arc::new(Queue::default());
        let writer = Writer::new(target, output, Arc::clone(&queue));
        thread::Builder::new().name("log".into()).spawn(move || writer.run())?;
        Ok(LogFile(Arc::new(Handle { name, queue })))
    }

    /// Writes a line, which must not contain a line break. Does not wait: if the disk is too slow,
    /// the line is dropped and counted.
    pub fn write(&self, line: &[u8]) {
        let mut waiting = self.0.queue.waiting.lock();
        if waiting.lines.len() + waiting.taken + line.len() >= MAX_BYTES {
            drop(waiting);
            self.0.queue.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        waiting.lines.extend_from_slice(line);
        waiting.lines.push(b'\n');
        let sleeps = mem::take(&mut waiting.sleeps);
        drop(waiting);
        if sleeps {
            self.0.queue.wake.notify_one();
        }
    }

    /// Returns the path; `-` for standard output.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Returns how many lines were dropped since the log was first opened.
    pub fn dropped(&self) -> u64 {
        self.0.queue.dropped.load(Ordering::Relaxed)
    }

    /// Returns whether both write to the file through the same thread.
    pub fn is(&self, other: &LogFile) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Makes the thread reopen the file after it was renamed. Does not wait.
    pub fn reopen(&self) {
        self.0.queue.order(|orders| orders.reopen = true);
    }

    /// Waits until all lines are written to these files, for at most [`FLUSH_TIMEOUT`].
    pub fn flush(files: &[LogFile]) {
        let deadline = Instant::now() + FLUSH_TIMEOUT;
        let flushes = files.iter().map(|file| {
            let (done, is_done) = mpsc::sync_channel(1);
            file.0.queue.order(|orders| orders.flushes.push(done));
            is_done
        });
        for is_done in flushes.collect::<Vec<_>>() {
            _ = is_done.recv_timeout(deadline.saturating_duration_since(Instant::now()));
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.queue.order(|orders| orders.end = true);
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

impl Queue {
    fn order(&self, order: impl FnOnce(&mut Orders)) {
        order(&mut self.waiting.lock().orders);
        self.wake.notify_one();
    }

    /// Waits for lines or an order, and appends the new lines to `lines`, which are not written
    /// yet. Unless `is_urgent`, further lines are collected first. With `retries`, waits for
    /// [`RETRY_INTERVAL`] at most.
    fn take(&self, lines: &mut Vec<u8>, is_urgent: bool, retries: bool) -> Orders {
        let mut waiting = self.waiting.lock();
        while waiting.lines.is_empty() && !waiting.orders.are_given() {
            waiting.sleeps = true;
            if !retries {
                self.wake.wait(&mut waiting);
            } else if self.wake.wait_for(&mut waiting, RETRY_INTERVAL).timed_out() {
                break;
            }
        }
        waiting.sleeps = false;
        if !is_urgent {
            self.wake.wait_while_for(&mut waiting, |waiting| !waiting.orders.are_given(), WRITE_INTERVAL);
        }
        if lines.is_empty() {
            mem::swap(lines, &mut waiting.lines);
        } else {
            lines.append(&mut waiting.lines);
        }
        waiting.taken = lines.len();
        mem::take(&mut waiting.orders)
    }
}

impl Orders {
    fn are_given(&self) -> bool {
        self.reopen || !self.flushes.is_empty() || self.end
    }
}

enum Target {
    /// A file, and the mode with which it is created.
    File(PathBuf, u32),
    Stdout,
    Stderr,
}

impl Target {
    fn name(&self) -> Cow<'_, str> {
        match self {
            Target::File(path, _) => path.to_string_lossy(),
            Target::Stdout => Cow::Borrowed("-"),
            Target::Stderr => Cow::Borrowed("standard error"),
        }
    }

    fn open(&self) -> io::Result<File> {
        match self {
            Target::File(path, mode) => append(path, *mode),
            Target::Stdout => Ok(io::stdout().as_fd().try_clone_to_owned()?.into()),
            Target::Stderr => Ok(io::stderr().as_fd().try_clone_to_owned()?.into()),
        }
    }
}

/// Opens a file for appending, and creates it with this mode if it does not exist.
fn append(path: &Path, mode: u32) -> io::Result<File> {
    // Opening a pipe only for writing waits for its reader.
    let is_pipe = fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo());
    let file = OpenOptions::new().append(true).read(is_pipe).create(true).mode(mode).open(path);
    file.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

struct Writer {
    target: Target,
    output: File,
    queue: Arc<Queue>,
    /// Lines that were taken but not written.
    lines: Vec<u8>,
    /// Notify these when all lines are written.
    flushes: Vec<SyncSender<()>>,
    /// Whether the file must be reopened.
    reopens: bool,
    lost: Warnings,
    stale: Warnings,
    reported: u64,
}

impl Writer {
    fn new(target: Target, output: File, queue: Arc<Queue>) -> Self {
        let (lost, stale) = Default::default();
        Writer {
            target,
            output,
            queue,
            lines: Vec::new(),
            flushes: Vec::new(),
            reopens: false,
            lost,
            stale,
            reported: 0,
        }
    }

    /// Runs until the last clone of the log is dropped.
    fn run(mut self) {
        // The last log lines of a process are what counts if it dies.
        let is_urgent = matches!(self.target, Target::Stderr);
        loop {
            let retries = self.reopens || !self.lines.is_empty();
            let orders = self.queue.take(&mut self.lines, is_urgent, retries);
            self.reopens |= orders.reopen;
            self.reopen();
            let written = self.write();
            let is_blocked = written.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
            if orders.end {
                self.drop_lines(0);
            }
            self.warn(written.err().filter(|_| !is_blocked));
            self.flushes.extend(orders.flushes);
            if !is_blocked {
                self.flushes.drain(..).for_each(|done| _ = done.send(()));
            }
            if orders.end {
                return;
            }
        }
    }

    /// Writes all lines with one call, so that another process that appends to the file splits
    /// none. After an error, the first lines are kept. While the reader of a pipe is slow, all
    /// lines are kept.
    fn write(&mut self) -> io::Result<()> {
        let mut written = 0;
        let result = loop {
            match &self.lines[written..] {
                [] => break Ok(()),
                rest => match self.output.write(rest) {
                    Ok(0) => break Err(io::ErrorKind::WriteZero.into()),
                    Ok(bytes) => written += bytes,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => break Err(error),
                },
            }
        };
        self.lines.drain(..written);
        if result.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::WouldBlock) {
            self.drop_lines(MAX_UNWRITTEN);
        }
        self.lines.shrink_to(MAX_SPARE);
        self.queue.waiting.lock().taken = self.lines.len();
        result
    }

    /// Drops and counts the lines beyond `kept` bytes. If any may be kept, the first one is,
    /// because the file may contain a part of it.
    fn drop_lines(&mut self, kept: usize) {
        let is_end = |byte: &u8| *byte == b'\n';
        let first = || self.lines.iter().position(is_end).filter(|_| kept > 0);
        let end = self.lines[..kept.min(self.lines.len())].iter().rposition(is_end).or_else(first);
        let end = end.map_or(0, |end| end + 1);
        let dropped = self.lines[end..].iter().filter(|byte| is_end(byte)).count();
        self.lines.truncate(end);
        self.queue.dropped.fetch_add(dropped as u64, Ordering::Relaxed);
    }

    /// Reopens the file if that is due. Until it succeeds, lines go to the file that is open.
    fn reopen(&mut self) {
        if !mem::take(&mut self.reopens) || !matches!(self.target, Target::File(..)) {
            return;
        }
        match self.target.open() {
            Ok(file) => self.output = file,
            Err(error) => {
                self.reopens = true;
                if self.stale.are_due() {
                    let (error, log) = (error.to_string(), self.target.name());
                    tracing::warn!(error, %log, "a log cannot be opened again; lines go to the file that was open");
                }
            }
        }
    }

    /// Logs an error and the number of lost lines.
    fn warn(&mut self, error: Option<io::Error>) {
        let dropped = self.queue.dropped.load(Ordering::Relaxed);
        if (error.is_none() && dropped == self.reported) || !self.lost.are_due() {
            return;
        }
        self.reported = dropped;
        let (error, log) = (error.map(|error| error.to_string()), self.target.name());
        tracing::warn!(error, dropped, %log, "lines of a log are lost");
    }
}

/// Warnings of one kind.
#[derive(Default)]
struct Warnings {
    last: Option<Instant>,
}

impl Warnings {
    /// Returns whether the last warning was [`WARN_INTERVAL`] ago, and if so counts this one.
    fn are_due(&mut self) -> bool {
        let are_due = self.last.is_none_or(|at| at.elapsed() >= WARN_INTERVAL);
        if are_due {
            self.last = Some(Instant::now());
        }
        are_due
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn all_lines_of_all_threads_are_whole_and_are_written_at_the_latest_when_the_log_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let log = LogFile::open_path(&path).unwrap();
        thread::scope(|scope| {
            for thread in 0..4 {
                let log = &log;
                scope.spawn(move || (0..5000).for_each(|n| log.write(format!("{thread} {n}").as_bytes())));
            }
        });
        LogFile::flush(&[log.clone()]);
        let text = fs::read_to_string(&path).unwrap();
        for thread in 0..4 {
            let of_thread = text.lines().filter_map(|line| line.strip_prefix(&format!("{thread} ")));
            let numbers: Vec<usize> = of_thread.map(|number| number.parse().unwrap()).collect();
            assert!(numbers.into_iter().eq(0..5000), "{thread}");
        }
        log.write(b"last");
        let ended = Arc::downgrade(&log.0.queue);
        drop(log);
        while ended.strong_count() > 0 {
            thread::yield_now();
        }
        assert!(fs::read_to_string(&path).unwrap().ends_with("\nlast\n"));
    }

    #[test]
    fn a_line_is_written_without_another_event() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let log = LogFile::open_path(&path).unwrap();
        for n in 1..=3 {
            log.write(b"line");
            let written = Instant::now();
            while fs::read_to_string(&path).unwrap() != "line\n".repeat(n) {
                assert!(written.elapsed() < FLUSH_TIMEOUT);
                thread::yield_now();
            }
        }
    }

    /// The queue of a log whose thread writes nothing.
    #[test]
    fn lines_that_do_not_fit_are_dropped_and_counted_and_count_until_they_are_written() {
        let queue = Arc::new(Queue::default());
        let log = LogFile(Arc::new(Handle { name: "-".into(), queue: Arc::clone(&queue) }));
        let line = vec![b'x'; MAX_BYTES / 4 - 1];
        (0..5).for_each(|_| log.write(&line));
        assert_eq!(log.dropped(), 1);
        let mut taken = Vec::new();
        queue.order(|orders| orders.reopen = true);
        assert!(queue.take(&mut taken, false, false).reopen);
        assert_eq!(taken.len(), MAX_BYTES);
        log.write(&line);
        assert_eq!(log.dropped(), 2, "the thread holds the lines that it has taken");
        queue.waiting.lock().taken = 0;
        log.write(&line);
        assert_eq!(log.dropped(), 2);
    }

    fn writer(target: Target, output: &str) -> Writer {
        Writer::new(target, OpenOptions::new().append(true).open(output).unwrap(), Arc::default())
    }

    fn dropped(writer: &Writer) -> u64 {
        writer.queue.dropped.load(Ordering::Relaxed)
    }

    #[test]
    fn after_an_error_the_first_lines_stay_and_the_others_are_counted() {
        let mut writer = writer(Target::Stdout, "/dev/full");
        let line = [&[b'x'; 99][..], b"\n"].concat();
        writer.lines = line.repeat(100);
        assert!(writer.write().is_err());
        assert_eq!((writer.lines.len(), dropped(&writer)), (8100, 19));
        writer.lines = [&[b'x'; 2 * MAX_UNWRITTEN][..], b"\n", &line].concat();
        assert!(writer.write().is_err());
        assert_eq!((writer.lines.len(), dropped(&writer)), (2 * MAX_UNWRITTEN + 1, 20));
        writer.drop_lines(0);
        assert_eq!((writer.lines.len(), dropped(&writer)), (0, 21), "a log that ends counts what it leaves");
    }

    #[test]
    fn lines_that_stay_after_an_error_are_written_before_later_ones() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut writer = writer(Target::Stdout, "/dev/full");
        writer.lines = b"first\n".to_vec();
        assert!(writer.write().is_err());
        writer.output = append(&path, 0o644).unwrap();
        writer.queue.waiting.lock().lines = b"second\n".to_vec();
        let queue = Arc::clone(&writer.queue);
        queue.take(&mut writer.lines, true, true);
        writer.write().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "first\nsecond\n");
    }

    /// A socket that is full. A pipe may be non-blocking, if another process has set that.
    #[test]
    fn a_reader_that_is_slow_loses_no_line() {
        let (mut reader, output) = UnixStream::pair().unwrap();
        output.set_nonblocking(true).unwrap();
        let output = OwnedFd::from(output).into();
        let mut writer = Writer::new(Target::Stdout, output, Arc::default());
        writer.lines = [&[b'x'; 99][..], b"\n"].concat().repeat(10_000);
        let mut read = 0;
        while let Err(error) = writer.write() {
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
            read += io::Read::read(&mut reader, &mut [0; 1 << 16]).unwrap();
        }
        assert!(read > 0);
        assert_eq!(dropped(&writer), 0);
    }

    #[test]
    fn a_file_is_opened_again_as_soon_as_that_is_possible() {
        let folder = tempfile::tempdir().unwrap();
        let (path, moved) = (folder.path().join("logs/log"), folder.path().join("moved"));
        fs::create_dir(folder.path().join("logs")).unwrap();
        let log = LogFile::open_path(&path).unwrap();
        fs::rename(folder.path().join("logs"), &moved).unwrap();
        log.reopen();
        log.write(b"before");
        LogFile::flush(&[log.clone()]);
        assert_eq!(fs::read_to_string(moved.join("log")).unwrap(), "before\n", "lines are written all the same");
        fs::create_dir(folder.path().join("logs")).unwrap();
        let began = Instant::now();
        while !path.exists() {
            assert!(began.elapsed() < FLUSH_TIMEOUT);
            thread::yield_now();
        }
        log.write(b"after");
        LogFile::flush(&[log.clone()]);
        assert_eq!(fs::read_to_string(&path).unwrap(), "after\n");
    }

    #[test]
    fn all_logs_to_standard_output_are_one() {
        let log = LogFile::stdout().unwrap();
        assert!(log.is(&LogFile::open("-", 0o640).unwrap()));
        assert!(!log.is(&LogFile::stderr().unwrap()));
    }
}
