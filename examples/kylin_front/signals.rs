//! The signals of the process.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use crate::log_file::LogFile;

/// The signals that have handlers, so that none of them kills the process. A handler stays until
/// the process ends.
///
/// | signal | effect |
/// |---|---|
/// | SIGTERM, SIGINT, SIGQUIT | stops after the requests in flight |
/// | SIGHUP | reloads the files that the process was started from |
/// | SIGUSR1 | reopens log files |
/// | SIGUSR2, SIGUSR1 without log files | none; the signal is printed |
/// | SIGWINCH, SIGPIPE | none |
pub struct Signals {
    stop: [Signal; 3],
    reload: Signal,
    printed: [(&'static str, Signal); 2],
    /// The log files that SIGUSR1 reopens.
    logs: Vec<LogFile>,
    reload_requests: mpsc::Receiver<Reply>,
    reload_sender: mpsc::Sender<Reply>,
}

/// A request of a signal or of an operator.
#[derive(Debug)]
pub enum Event {
    Stop,
    /// An operator waits for the reply: the changes, or why nothing has changed.
    Reload(Option<Reply>),
}

pub type Reply = oneshot::Sender<Result<String, String>>;

/// Requests reloads, like SIGHUP.
#[derive(Clone)]
pub struct Reloads(mpsc::Sender<Reply>);

impl Reloads {
    /// Returns the changes, or why nothing has changed.
    pub async fn request(&self) -> Result<String, String> {
        let (reply, result) = oneshot::channel();
        _ = self.0.send(reply).await;
        result.await.unwrap_or_else(|_| Err("not reloaded: the front end stops".to_owned()))
    }
}

impl Signals {
    pub fn new() -> io::Result<Self> {
        _ = signal(SignalKind::window_change())?;
        _ = signal(SignalKind::pipe())?;
        let (reload_sender, reload_requests) = mpsc::channel(1);
        Ok(Signals {
            reload_requests,
            reload_sender,
            stop: [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?, signal(SignalKind::quit())?],
            reload: signal(SignalKind::hangup())?,
            printed: [
                ("SIGUSR1", signal(SignalKind::user_defined1())?),
                ("SIGUSR2", signal(SignalKind::user_defined2())?),
            ],
            logs: Vec::new(),
        })
    }

    /// Sets the log files that SIGUSR1 reopens.
    pub fn reopen(&mut self, logs: Vec<LogFile>) {
        self.logs = logs;
    }

    /// Returns a handle that requests reloads.
    pub fn reloads(&self) -> Reloads {
        Reloads(self.reload_sender.clone())
    }

    /// Waits for a signal to stop or to reload. Meanwhile reopens log files, and prints signals
    /// without an effect.
    pub async fn next(&mut self) -> Event {
        poll_fn(|cx| {
            if self.poll_stop(cx).is_ready() {
                return Poll::Ready(Event::Stop);
            }
            if let Poll::Ready(reply) = self.reload_requests.poll_recv(cx) {
                return Poll::Ready(Event::Reload(reply));
            }
            self.reload.poll_recv(cx).map(|_| Event::Reload(None))
        })
        .await
    }

    /// Waits for a signal to stop, while others wait. Meanwhile reopens log files, and prints
    /// signals without an effect.
    pub async fn stop_only(&mut self) {
        poll_fn(|cx| self.poll_stop(cx)).await
    }

    fn poll_stop(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        for (name, signal) in &mut self.printed {
            while signal.poll_recv(cx).is_ready() {
                if *name == "SIGUSR1" && !self.logs.is_empty() {
                    self.logs.iter().for_each(LogFile::reopen);
                    continue;
                }
                crate::say(format_args!("received {name}, which has no effect\n"));
            }
        }
        if self.stop.iter_mut().any(|signal| signal.poll_recv(cx).is_ready()) { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Waits for a signal to stop. A front end that is stopping reloads nothing.
    pub async fn stop(&mut self) {
        while let Event::Reload(reply) = self.next().await {
            if reply.is_none() {
                crate::say(format_args!("received SIGHUP, which has no effect: the front end stops\n"));
            }
        }
    }
}
