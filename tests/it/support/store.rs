//! A real session store as a child process.

use std::marker::PhantomData;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::port::free_port;
use super::process::Process;

/// The time limit for the start, which takes about 10 ms.
pub(crate) const START_TIMEOUT: Duration = Duration::from_secs(60);

/// The command that starts a store.
pub(crate) trait Program {
    const NAME: &'static str;

    /// Returns the command that serves at a port of this machine, with its files in `folder`.
    fn command(port: u16, folder: &Path, arguments: &[String]) -> Command;

    fn is_ready(process: &Process, port: u16) -> bool;
}

/// A running server. Killed on drop.
#[derive(Debug)]
pub(crate) struct Store<P> {
    process: Process,
    port: u16,
    arguments: Vec<String>,
    program: PhantomData<P>,
}

impl<P: Program> Store<P> {
    /// Starts a server with additional arguments, and waits until it is ready.
    pub(crate) async fn start(arguments: &[&str]) -> Self {
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        for _ in 0..5 {
            let port = free_port();
            if let Some(process) = Self::attempt(port, &arguments).await {
                return Store { process, port, arguments, program: PhantomData };
            }
        }
        panic!("{} does not start", P::NAME);
    }

    /// Kills the server like a crash.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts a killed server again on the same port, without data.
    pub(crate) async fn restart(&mut self) {
        let process = Self::attempt(self.port, &self.arguments).await;
        self.process = process.expect("the port of a killed server is free");
    }

    #[allow(dead_code, reason = "for benches/sessions")]
    pub(crate) fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Host and port.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    async fn attempt(port: u16, arguments: &[String]) -> Option<Process> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut command = P::command(port, folder.path(), arguments);
        let mut process = Process::spawn(P::NAME, folder, &mut command).expect("the server can be run");
        let ready = process.wait_ready(START_TIMEOUT, |process| P::is_ready(process, port));
        ready.await.ok().map(|()| process)
    }
}
