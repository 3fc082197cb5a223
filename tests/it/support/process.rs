//! A server as a child process. Its output is in files, and it is killed by its process id when the
//! test ends, however the test ends.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// The interval at which a condition is checked while waiting for it.
const POLL: Duration = Duration::from_millis(2);
/// The number of lines of a log that a message shows.
const TAIL: usize = 40;

/// A child process with the temporary folder it lives in. Dropping it kills the process, then
/// removes the folder.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    folder: TempDir,
}

impl Process {
    /// Starts `command` with `stdout` and `stderr` as files of these names in `folder`, and no
    /// input.
    pub(crate) fn spawn(name: &str, folder: TempDir, command: &mut Command) -> io::Result<Self> {
        let output = |file| File::create(folder.path().join(file)).map(Stdio::from);
        let child = command.stdin(Stdio::null()).stdout(output("stdout")?).stderr(output("stderr")?).spawn()?;
        Ok(Self { name: name.to_owned(), child, folder })
    }

    /// A process that was started with its outputs as files in `folder`.
    pub(crate) fn of_child(name: &str, folder: TempDir, child: Child) -> Self {
        Self { name: name.to_owned(), child, folder }
    }

    /// The process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The folder it lives in.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Returns the present content of a file in the folder of the process (`stdout`, `stderr`, a
    /// log); empty if there is none.
    pub(crate) fn file(&self, name: &str) -> String {
        let bytes = std::fs::read(self.folder().join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Returns the end of everything it has written: `stdout`, `stderr`, and files called `*.log`.
    pub(crate) fn log(&self) -> String {
        let mut names = vec!["stdout".to_owned(), "stderr".to_owned()];
        let entries = std::fs::read_dir(self.folder()).into_iter().flatten().flatten();
        names.extend(entries.filter_map(|e| e.file_name().into_string().ok()).filter(|name| name.ends_with(".log")));
        let mut log = String::new();
        for name in names {
            let text = self.file(&name);
            if !text.is_empty() {
                let skip = text.lines().count().saturating_sub(TAIL);
                log += &format!("--- {name} of {}\n", self.name);
                log.extend(text.lines().skip(skip).flat_map(|line| [line, "\n"]));
            }
        }
        log
    }

    /// Waits until `ready` returns true, checking every 2 ms. Fails as soon as the process has
    /// ended.
    pub(crate) async fn wait_ready(
        &mut self,
        timeout: Duration,
        mut ready: impl FnMut(&Self) -> bool,
    ) -> Result<(), NotReady> {
        let began = Instant::now();
        loop {
            let ended = self.child.try_wait().expect("a child can be asked for its status");
            if ended.is_none() && ready(self) {
                return Ok(());
            }
            if ended.is_some() || began.elapsed() > timeout {
                return Err(NotReady { name: self.name.clone(), ended, timeout, log: self.log() });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Sends a signal, for example `TERM` or `HUP`.
    pub(crate) fn signal(&self, signal: &str) {
        // A process that was not waited for keeps its id, so this can reach no other process.
        let kill = format!("kill -s {signal} {}", self.id());
        let status = Command::new("sh").args(["-c", &kill]).status().expect("sh runs");
        assert!(status.success(), "{kill}: {status}");
    }

    /// Waits for the process to end by itself or by a signal; returns `None` if it has not ended
    /// within `timeout`.
    pub(crate) async fn ended(&mut self, timeout: Duration) -> Option<ExitStatus> {
        let began = Instant::now();
        loop {
            let ended = self.child.try_wait().expect("a child can be asked for its status");
            if ended.is_some() || began.elapsed() > timeout {
                return ended;
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Kills the process at once and waits until it is gone. Does nothing when it has ended.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
    }
}

/// The reason why a process cannot be used: it ended, or it took too long. Shows the end of its
/// log.
#[derive(Debug)]
pub(crate) struct NotReady {
    name: String,
    ended: Option<ExitStatus>,
    timeout: Duration,
    /// The end of everything that the process has written.
    pub(crate) log: String,
}

impl fmt::Display for NotReady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ended {
            Some(status) => writeln!(f, "{} ended while starting: {status}", self.name)?,
            None => writeln!(f, "{} is not ready after {:?}", self.name, self.timeout)?,
        }
        f.write_str(&self.log)
    }
}
