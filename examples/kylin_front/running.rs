//! Reloads of the running front end, and a stop that loses no request.

use std::error::Error;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use kylin_lb::server::{Server, Stopped};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::front::Health;
use crate::log_file::LogFile;
use crate::log_paths;
use crate::signals::{Event, Signals};
use crate::status::Monitored;
use crate::systemd::{self, State};

/// A front end that can read its sources again.
pub trait Reload {
    /// The data that is read first, which takes time.
    type New: Send + 'static;

    /// Returns the function that reads the data, which are files and names that are looked up. It
    /// runs in its own thread.
    fn reader(&self) -> impl FnOnce() -> Result<Self::New, Box<dyn Error>> + Send + 'static;

    /// Replaces the serving state with the new data. Returns the changes in one line. After an
    /// error, nothing has changed.
    fn reload(&mut self, new: Self::New, server: &mut Server) -> Result<String, Box<dyn Error>>;

    /// Returns the log files that are open.
    fn log_files(&self) -> Vec<LogFile>;

    /// Returns what the status shows of the front end.
    fn monitored(&self) -> &Monitored;
}

/// The settings of the stop.
pub struct Stop {
    /// The time that requests in flight have to end.
    pub grace: Duration,
    /// How long the front end still serves while its health path says that it is stopping.
    pub lame_duck: Duration,
    pub health: Arc<Health>,
}

/// Serves until a signal to stop. SIGHUP and an operator's request reload. After the signal, it
/// waits for requests in flight. A second signal ends the wait, and requests without a response get
/// a 502.
pub async fn until_signal(mut server: Server, mut signals: Signals, front: &mut impl Reload, stop: Stop) {
    signals.reopen(front.log_files());
    systemd::notify(State::Ready);
    while let Event::Reload(reply) = signals.next().await {
        systemd::notify(State::Reloading);
        let read = tokio::select! {
            read = in_thread(front.reader()) => read,
            () = signals.stop_only() => break,
        };
        let reloaded = read.and_then(|new| {
            // It reads certificates.
            let reloaded = tokio::task::block_in_place(|| front.reload(new, &mut server));
            reloaded.map_err(|error| chain(&*error))
        });
        match &reloaded {
            Ok(changes) => {
                signals.reopen(front.log_files());
                tracing::info!(changes, "reloaded");
            }
            Err(error) => tracing::error!(error, "not reloaded: the old configuration stays"),
        }
        front.monitored().set_reloaded(reloaded.is_ok());
        // After an invalid configuration too: the old one serves.
        systemd::notify(State::Ready);
        if let Some(reply) = reply {
            _ = reply.send(reloaded.map_err(|error| format!("not reloaded: {error}")));
        }
    }
    let Stop { grace, lame_duck, health } = stop;
    health.stop();
    systemd::notify(State::Stopping);
    // No reader of the output may delay the stop.
    let output = if log_paths::is_stdout_taken() { LogFile::stderr() } else { LogFile::stdout() };
    let say =
        |line: std::fmt::Arguments<'_>| _ = output.as_ref().map(|output| output.write(line.to_string().as_bytes()));
    let flush = |mut files: Vec<LogFile>| {
        files.extend(output.iter().cloned());
        LogFile::flush(&files);
    };
    if !lame_duck.is_zero() {
        say(format_args!("stopping: serving for {} s, while the health path says so", lame_duck.as_secs()));
        if tokio::time::timeout(lame_duck, signals.stop()).await.is_ok() {
            say_stopped(say, " at once", server.stop(Duration::ZERO).await);
            flush(front.log_files());
            return;
        }
    }
    say(format_args!("stopping: requests in flight have {} s", grace.as_secs()));
    let mut when = "";
    let second_signal = async {
        signals.stop().await;
        when = " at once";
    };
    let stopped = server.stop_or_cut(grace, second_signal).await;
    say_stopped(say, when, stopped);
    flush(front.log_files());
}

fn say_stopped(say: impl Fn(std::fmt::Arguments<'_>), when: &str, stopped: Stopped) {
    say(format_args!("stopped{when}; {} connections were cut", stopped.cut));
}

/// Runs `read` in a thread that the end of the process does not wait for.
async fn in_thread<R: Send + 'static>(
    read: impl FnOnce() -> Result<R, Box<dyn Error>> + Send + 'static,
) -> Result<R, String> {
    let (done, result) = oneshot::channel();
    let runtime = Handle::current();
    let run = move || {
        // Stores of sessions start tasks.
        let _entered = runtime.enter();
        _ = done.send(read().map_err(|error| chain(&*error)));
    };
    thread::Builder::new().name("reload".to_owned()).spawn(run).map_err(|error| error.to_string())?;
    result.await.unwrap_or_else(|_| Err("the thread that reads has panicked".to_owned()))
}

/// Returns an error and its causes in one line.
pub fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !line.contains(&text) {
            line = format!("{line}: {text}");
        }
        cause = error.source();
    }
    // An error of a configuration shows its line, on several lines.
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}
