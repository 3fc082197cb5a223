//! The connection that all callers share.
//!
//! Callers come and go at their deadlines; the connection must not depend on any of them. It is made by a task, which
//! goes on when the caller that asked for it has gone; callers wait for its result. A caller that is dropped without an
//! answer leaves a question behind: is the connection still alive? A task finds out ([`Link::suspect`]), since otherwise a
//! server that has vanished without a word would be asked forever.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use redis::{Cmd, Value};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use super::dialer::{Connection, Dialer, Topology};
use super::faults::{SYSTEM, Verdict};
use super::script;
use crate::session::store::remote::{Fault, Gate};

/// How long making a connection may take in all.
const DIAL: Duration = Duration::from_secs(3);
/// How long a connection under suspicion may stay silent.
const SILENCE: Duration = Duration::from_secs(1);
/// How often a request is sent, the first time included.
const ATTEMPTS: u32 = 4;
/// The pause before a request is sent again to a server that could not serve; it doubles. In all 35 ms.
const PAUSE: Duration = Duration::from_millis(5);

pub(super) struct Link(Arc<Shared>);

struct Shared {
    dialer: Dialer,
    gate: Gate,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    up: Option<Up>,
    /// A connection that is being made, to be the first or to take the place of the one that is up.
    dialing: Option<Dialing>,
    /// Counts connections.
    made: u64,
    /// A task finds out whether the connection is alive.
    doubted: Option<AbortHandle>,
}

#[derive(Clone)]
struct Up {
    connection: Connection,
    number: u64,
}

struct Dialing {
    result: watch::Receiver<Option<Result<(), Fault>>>,
    task: AbortHandle,
}

impl Link {
    pub(super) fn new(dialer: Dialer) -> Self {
        Link(Arc::new(Shared { dialer, gate: Gate::default(), state: Mutex::default() }))
    }

    pub(super) fn topology(&self) -> &Topology {
        &self.0.dialer.topology
    }

    /// How many connections were made so far.
    pub(super) fn made(&self) -> u64 {
        self.0.state.lock().made
    }

    /// The answer to `command`, which is about `key` and may be sent several times.
    pub(super) async fn ask(&self, command: &Cmd, key: &[u8]) -> Result<Value, Verdict> {
        let mut attempt = 1;
        loop {
            let mut up = self.connection().await.map_err(Verdict::Lost)?;
            let unanswered = Unanswered { link: self, number: up.number, key };
            let answer = up.connection.ask(command).await;
            unanswered.answered();
            let verdict = match &answer {
                Ok(_) => return answer.map_err(|error| Verdict::from(&error)),
                Err(error) => Verdict::from(error),
            };
            let pause = match &verdict {
                Verdict::Lost(_) | Verdict::Demoted(_) => {
                    self.replace(up.number);
                    None
                }
                Verdict::Busy(_) => Some(PAUSE * 2_u32.pow(attempt - 1)),
                Verdict::NoScript | Verdict::WrongType | Verdict::Refused(_) => return Err(verdict),
            };
            // A cluster's driver finds lost nodes again by itself, in its own time.
            let lost_node = pause.is_none() && matches!(self.topology(), Topology::Cluster(_));
            if attempt == ATTEMPTS || lost_node {
                return Err(verdict);
            }
            if let Some(pause) = pause {
                sleep(pause).await;
            }
            attempt += 1;
        }
    }

    /// The connection, made if there is none.
    async fn connection(&self) -> Result<Up, Fault> {
        loop {
            let mut result = {
                let mut state = self.0.state.lock();
                if let Some(up) = &state.up {
                    return Ok(up.clone());
                }
                match &state.dialing {
                    Some(dialing) => dialing.result.clone(),
                    None => {
                        self.0.gate.check()?;
                        self.0.dial(&mut state)
                    }
                }
            };
            match result.wait_for(Option::is_some).await.map(|result| result.clone()) {
                Ok(Some(Err(fault))) => return Err(fault),
                Ok(_) => {}
                // The task went with its runtime. This caller has another one.
                Err(_) => {
                    self.0.state.lock().dialing.take_if(|dialing| dialing.result.same_channel(&result)).map_or((), drop)
                }
            }
        }
    }

    /// Has connection `number` replaced, unless that is done or under way. One to a single server is not used any more. A
    /// cluster's stays until the new one is there: it repairs itself, and most of its nodes are well.
    fn replace(&self, number: u64) {
        self.0.replace(number);
    }
}

impl Shared {
    fn replace(self: &Arc<Self>, number: u64) {
        let mut state = self.state.lock();
        if state.up.as_ref().is_none_or(|up| up.number != number) {
            return;
        }
        if !matches!(self.dialer.topology, Topology::Cluster(_)) {
            state.up = None;
        }
        if state.dialing.is_none() && self.gate.check().is_ok() && tokio::runtime::Handle::try_current().is_ok() {
            drop(self.dial(&mut state));
        }
    }

    /// Starts the task that makes a connection.
    fn dial(self: &Arc<Self>, state: &mut State) -> watch::Receiver<Option<Result<(), Fault>>> {
        let (done, result) = watch::channel(None);
        let shared = self.clone();
        let task = tokio::spawn(async move {
            let dialed = timeout(DIAL, shared.dialer.dial()).await;
            let dialed = dialed.unwrap_or_else(|_| Err(Fault::unavailable(SYSTEM, "no connection in time")));
            let mut state = shared.state.lock();
            let outcome = match dialed {
                Ok(connection) => {
                    shared.gate.open();
                    state.made += 1;
                    state.up = Some(Up { connection, number: state.made });
                    Ok(())
                }
                Err(fault) => {
                    shared.gate.close(fault.clone());
                    Err(fault)
                }
            };
            state.dialing = None;
            drop(state);
            let _ = done.send(Some(outcome));
        });
        state.dialing = Some(Dialing { result: result.clone(), task: task.abort_handle() });
        result
    }

    /// Finds out whether connection `number` is alive, by asking again what was not answered in time.
    fn suspect(self: &Arc<Self>, number: u64, key: Vec<u8>) {
        let mut state = self.state.lock();
        let doubted = state.doubted.as_ref().is_some_and(|task| !task.is_finished());
        let Some(mut up) = state.up.clone().filter(|up| up.number == number && !doubted) else { return };
        // Without a runtime nobody can find out; whoever asks next is in one.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let shared = self.clone();
        let task = runtime.spawn(async move {
            if !matches!(timeout(SILENCE, up.connection.ask(&script::get_range(&key))).await, Ok(answer) if alive(&answer)) {
                shared.replace(number);
            }
        });
        state.doubted = Some(task.abort_handle());
    }
}

/// Whether an answer came from a server, whatever it says.
fn alive(answer: &Result<Value, redis::RedisError>) -> bool {
    answer.as_ref().err().is_none_or(|error| !matches!(Verdict::from(error), Verdict::Lost(_) | Verdict::Demoted(_)))
}

/// A request under way. Dropped with its caller's future, it casts doubt on the connection.
struct Unanswered<'a> {
    link: &'a Link,
    number: u64,
    key: &'a [u8],
}

impl Unanswered<'_> {
    fn answered(self) {
        std::mem::forget(self);
    }
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        self.link.0.suspect(self.number, self.key.to_vec());
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let state = self.0.state.lock();
        let tasks = state.dialing.iter().map(|dialing| &dialing.task).chain(&state.doubted);
        tasks.for_each(AbortHandle::abort);
    }
}
