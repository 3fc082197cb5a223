//! The signals of the process.

use std::future::poll_fn;
use std::io;
use std::task::Poll;

use crate::log_file::LogFile;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that have handlers, so that none of them kills the process. A handler stays until the process ends.
///
/// | signal | effect |
/// |---|---|
/// | SIGTERM, SIGINT, SIGQUIT | stops after the requests in flight |
/// | SIGUSR1 | opens log files again |
/// | SIGHUP, SIGUSR2, SIGUSR1 without log files | none: it is printed |
/// | SIGWINCH, SIGPIPE | none |
pub struct Signals {
    stop: [Signal; 3],
    printed: [(&'static str, Signal); 3],
    /// What SIGUSR1 opens again.
    logs: Vec<LogFile>,
}

impl Signals {
    pub fn new() -> io::Result<Self> {
        _ = signal(SignalKind::window_change())?;
        _ = signal(SignalKind::pipe())?;
        Ok(Signals {
            stop: [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?, signal(SignalKind::quit())?],
            printed: [
                ("SIGHUP", signal(SignalKind::hangup())?),
                ("SIGUSR1", signal(SignalKind::user_defined1())?),
                ("SIGUSR2", signal(SignalKind::user_defined2())?),
            ],
            logs: Vec::new(),
        })
    }

    /// Has SIGUSR1 open these files again.
    pub fn reopen(&mut self, logs: Vec<LogFile>) {
        self.logs = logs;
    }

    /// Waits for a signal to stop, and prints those without an effect.
    pub async fn stop(&mut self) {
        poll_fn(|cx| {
            for (name, signal) in &mut self.printed {
                while signal.poll_recv(cx).is_ready() {
                    if *name == "SIGUSR1" && !self.logs.is_empty() {
                        self.logs.iter().for_each(LogFile::reopen);
                        continue;
                    }
                    crate::say(format_args!("received {name}, which has no effect\n"));
                }
            }
            match self.stop.iter_mut().any(|signal| signal.poll_recv(cx).is_ready()) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })
        .await;
    }
}
