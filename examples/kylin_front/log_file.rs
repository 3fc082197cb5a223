//! Writes lines to a file, to standard output or to standard error, in a thread of its own, so that no request waits for a disk or for
//! the reader of a pipe.
//!
//! A request appends its line to a buffer that all requests share, and wakes the thread only if that sleeps without a line. The thread
//! collects lines for [`WRITE_INTERVAL`], takes the buffer, and writes it with one call.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::mem;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// The bytes of lines that may wait for the thread, and for the disk. Further lines are dropped and counted.
const MAX_BYTES: usize = 16 << 20;
/// The bytes of lines that stay after an error, to be written later. The other lines that the disk did not take are dropped and counted.
const MAX_UNWRITTEN: usize = 8 << 10;
/// The bytes for which an empty buffer keeps its memory.
const MAX_SPARE: usize = 256 << 10;
/// The time for which the thread collects lines: to wake it for each line would cost a request more than the line.
const WRITE_INTERVAL: Duration = Duration::from_millis(50);
/// The time after which lines that stayed after an error are written again.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);
/// The time for which [`LogFile::flush`] waits for a disk, or for the reader of a pipe.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);
/// The interval at which lost lines are logged.
const WARN_INTERVAL: Duration = Duration::from_secs(10);

/// A log file. Clones write to the same file.
#[derive(Clone)]
pub struct LogFile(Arc<Handle>);

/// Ends the thread when the last clone of the log is dropped.
struct Handle {
    name: Box<str>,
    queue: Arc<Queue>,
}

/// What requests leave for the thread.
#[derive(Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    wake: Condvar,
    dropped: AtomicU64,
}

#[derive(Default)]
struct Waiting {
    lines: Vec<u8>,
    /// The bytes of lines that the thread has taken and not written.
    taken: usize,
    /// The thread sleeps until there is a line.
    sleeps: bool,
    orders: Orders,
}

/// What the thread is told to do besides writing lines.
#[derive(Default)]
struct Orders {
    /// Open the file again.
    reopen: bool,
    /// Tell these when all lines are written.
    flushes: Vec<SyncSender<()>>,
    /// End.
    end: bool,
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
        let queue = Arc::new(Queue::default());
        let writer = Writer { target, output, queue: Arc::clone(&queue), lines: Vec::new(), warned: None, reported: 0 };
        thread::Builder::new().name("log".into()).spawn(move || writer.run())?;
        Ok(LogFile(Arc::new(Handle { name, queue })))
    }

    /// Writes a line, which has no line break. Does not wait: if the disk is too slow, the line is dropped and counted.
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

    /// Returns the path, `-` for standard output.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Returns how many lines were dropped since the log was opened first.
    pub fn dropped(&self) -> u64 {
        self.0.queue.dropped.load(Ordering::Relaxed)
    }

    /// Makes the thread open the file again after it was renamed. Does not wait.
    pub fn reopen(&self) {
        self.0.queue.order(|orders| orders.reopen = true);
    }

    /// Waits until all lines are written to these files, but not longer than [`FLUSH_TIMEOUT`].
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

    /// Waits for lines or an order, and moves the lines behind those of `lines`, which are not written yet. Unless `is_urgent`, further
    /// lines are collected before.
    fn take(&self, lines: &mut Vec<u8>, is_urgent: bool) -> Orders {
        let mut waiting = self.waiting.lock();
        while waiting.lines.is_empty() && !waiting.orders.are_given() {
            waiting.sleeps = true;
            if lines.is_empty() {
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
    /// A file, and the mode of one that is made.
    File(PathBuf, u32),
    Stdout,
    Stderr,
}

impl Target {
    fn open(&self) -> io::Result<File> {
        match self {
            Target::File(path, mode) => append(path, *mode),
            Target::Stdout => Ok(io::stdout().as_fd().try_clone_to_owned()?.into()),
            Target::Stderr => Ok(io::stderr().as_fd().try_clone_to_owned()?.into()),
        }
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
    output: File,
    queue: Arc<Queue>,
    /// Lines that were taken and not written.
    lines: Vec<u8>,
    /// When a warning was logged last.
    warned: Option<Instant>,
    reported: u64,
}

impl Writer {
    /// Runs until the last clone of the log is dropped.
    fn run(mut self) {
        // What a process logs last is what counts if it dies.
        let is_urgent = matches!(self.target, Target::Stderr);
        loop {
            let orders = self.queue.take(&mut self.lines, is_urgent);
            if orders.reopen {
                let reopened = self.reopen();
                self.warn(reopened.err());
            }
            let written = self.write();
            self.warn(written.err());
            for done in orders.flushes {
                _ = done.send(());
            }
            if orders.end {
                return;
            }
        }
    }

    /// Writes all lines with one call, so that another process that appends to the file breaks none.
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
        if result.is_err() {
            self.drop_lines();
        }
        self.lines.shrink_to(MAX_SPARE);
        self.queue.waiting.lock().taken = self.lines.len();
        result
    }

    /// Drops the lines above [`MAX_UNWRITTEN`]. The first one stays, because the file may have a part of it.
    fn drop_lines(&mut self) {
        let is_end = |byte: &u8| *byte == b'\n';
        let kept = self.lines.len().min(MAX_UNWRITTEN);
        let end = self.lines[..kept].iter().rposition(is_end).or_else(|| self.lines.iter().position(is_end));
        let end = end.map_or(self.lines.len(), |end| end + 1);
        let dropped = self.lines[end..].iter().filter(|byte| is_end(byte)).count();
        self.lines.truncate(end);
        self.queue.dropped.fetch_add(dropped as u64, Ordering::Relaxed);
    }

    fn reopen(&mut self) -> io::Result<()> {
        if matches!(self.target, Target::File(..)) {
            self.output = self.target.open()?;
        }
        Ok(())
    }

    /// Logs an error and the number of lost lines, at most once in [`WARN_INTERVAL`].
    fn warn(&mut self, error: Option<io::Error>) {
        let dropped = self.queue.dropped.load(Ordering::Relaxed);
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

#[cfg(test)]
mod tests {
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
        assert!(queue.take(&mut taken, false).reopen);
        assert_eq!(taken.len(), MAX_BYTES);
        log.write(&line);
        assert_eq!(log.dropped(), 2, "the thread holds the lines that it has taken");
        queue.waiting.lock().taken = 0;
        log.write(&line);
        assert_eq!(log.dropped(), 2);
    }

    #[test]
    fn after_an_error_the_first_lines_stay_and_the_others_are_counted() {
        let mut writer = Writer {
            target: Target::Stdout,
            output: OpenOptions::new().write(true).open("/dev/full").unwrap(),
            queue: Arc::default(),
            lines: Vec::new(),
            warned: None,
            reported: 0,
        };
        let line = [&[b'x'; 99][..], b"\n"].concat();
        writer.lines = line.repeat(100);
        assert!(writer.write().is_err());
        assert_eq!((writer.lines.len(), writer.queue.dropped.load(Ordering::Relaxed)), (8100, 19));
        writer.lines = [&[b'x'; 2 * MAX_UNWRITTEN][..], b"\n", &line].concat();
        assert!(writer.write().is_err());
        assert_eq!((writer.lines.len(), writer.queue.dropped.load(Ordering::Relaxed)), (2 * MAX_UNWRITTEN + 1, 20));
    }
}
