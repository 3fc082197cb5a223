//! Replaces the listeners, handlers and limits of a running server.

use std::any::Any;
use std::io;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::mpsc;

use super::serving::{Serving, SharedServing};
use super::{AcceptTask, ListenerChange};
use crate::server::listen::Listener;
use crate::server::{Handler, Listen, Server, ServerBuilder};

/// A listener of a running server.
pub(in crate::server) struct RunningListener {
    pub(in crate::server) listen: Listen,
    /// `None` for a unix socket.
    pub(in crate::server) address: Option<std::net::SocketAddr>,
    number: u64,
    /// The [`SharedServing`] of its handler's type.
    serving: Arc<dyn Any + Send + Sync>,
}

/// The changes that [`Server::replace`] has made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Replaced {
    /// The addresses that the server did not listen on before.
    pub added: Vec<Listen>,
    /// The addresses that it no longer listens on.
    pub removed: Vec<Listen>,
    /// The settings of the builder that differ but were not applied, because they need a new
    /// server: `threads`, `max_connections`, `max_connections_per_client`, `backlog`.
    pub kept_settings: Vec<&'static str>,
}

impl Server {
    /// Replaces the listeners, handlers and limits of the running server with those of `builder`.
    ///
    /// - A listener that stays keeps its socket and its connections. Requests in flight finish with
    ///   the handler that began them. The next request of each connection gets the new handler, and
    ///   new connections get the new options and limits.
    /// - New listeners accept connections before old ones are closed.
    /// - A listener that `builder` does not have is closed. Its requests in flight finish, and its
    ///   idle connections are closed, as with [`stop`](Self::stop); no time limits them before the
    ///   server stops. Connections that its socket has already accepted get a response, within the
    ///   limit of connections.
    ///
    /// A listener stays if `builder` has an equal [`Listen`]. The number of threads, the limits of
    /// connections and the backlog do not change; [`Replaced`] names those that differ.
    ///
    /// # Errors
    /// An error if an address cannot be bound, a timeout is below 1 ms, or a listener that stays
    /// has a handler of another type. Nothing has changed then.
    pub fn replace<H: Handler>(&mut self, builder: ServerBuilder<H>) -> io::Result<Replaced> {
        let mut replaced =
            Replaced { kept_settings: builder.settings.differing(&self.settings), ..Replaced::default() };
        let (mut stays, mut added) = (Vec::new(), Vec::new());
        // Done before anything changes, because each step here may fail.
        let listeners = builder.into_serving()?;
        for (listen, serving) in listeners {
            match self.listeners.iter().find(|running| running.listen == listen) {
                Some(running) => {
                    let shared = Arc::clone(&running.serving).downcast::<ArcSwap<Serving<H>>>();
                    let shared = shared.map_err(|_| {
                        let message = format!("{listen} has a handler of another type");
                        io::Error::new(io::ErrorKind::InvalidInput, message)
                    })?;
                    stays.push((running.number, shared, serving));
                }
                None => {
                    let listener = Listener::bind(&listen, self.loops.len(), self.settings.backlog)?;
                    added.push((listen, listener, serving));
                }
            }
        }
        let kept: Vec<u64> = stays.iter().map(|(number, ..)| *number).collect();
        for (listen, listener, serving) in added {
            replaced.added.push(listen.clone());
            self.run_listener(listen, listener, serving);
        }
        for (_, shared, serving) in stays {
            shared.store(Arc::new(serving));
        }
        let is_gone =
            |running: &RunningListener| !replaced.added.contains(&running.listen) && !kept.contains(&running.number);
        let (gone, listeners) = std::mem::take(&mut self.listeners).into_iter().partition(is_gone);
        self.listeners = listeners;
        for RunningListener { listen, number, .. } in Vec::from_iter::<Vec<_>>(gone) {
            for accept_loop in &self.loops {
                _ = accept_loop.changes.send(ListenerChange::Remove(number));
            }
            replaced.removed.push(listen);
        }
        self.set_addresses();
        Ok(replaced)
    }

    /// Accepts connections from the sockets of `listener`, which the loops share evenly.
    pub(in crate::server) fn run_listener<H: Handler>(
        &mut self,
        listen: Listen,
        listener: Listener,
        serving: Serving<H>,
    ) {
        let shared: SharedServing<H> = Arc::new(ArcSwap::from_pointee(serving));
        let number = self.next_listener;
        self.next_listener += 1;
        for (index, socket) in listener.sockets.into_iter().enumerate() {
            let shared = Arc::clone(&shared);
            let start = Box::new(move |admission, stop, alive: mpsc::Sender<()>| {
                AcceptTask::start(socket, shared, admission, stop, alive)
            });
            _ = self.loops[index % self.loops.len()].changes.send(ListenerChange::Add { number, start });
        }
        self.listeners.push(RunningListener { listen, address: listener.address, number, serving: shared });
        self.set_addresses();
    }

    fn set_addresses(&mut self) {
        self.addresses = self.listeners.iter().filter_map(|running| running.address).collect();
    }
}
