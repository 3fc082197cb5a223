//! One ZooKeeper session: a task for each watched znode, and the events of all of them.

use ahash::AHashMap;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use zookeeper_client::{Client, Error, SessionState, StateWatcher};

use super::layout::parents;
use super::registry::Registry;
use super::{DiscoveryError, SessionOptions, sleep_until_some};
use crate::clock::timer_in;

pub(super) enum SessionEvent {
    /// The registry may have changed.
    Registry,
    /// The connection was lost; the session may survive.
    Disconnected(DiscoveryError),
    /// The connection is back, with all watches.
    Connected,
}

pub(super) struct Session {
    location: String,
    client: Client,
    state: StateWatcher,
    connected: bool,
    registry: Registry,
    events: mpsc::Receiver<ZnodeEvent>,
    sender: mpsc::Sender<ZnodeEvent>,
    /// Dropping the set aborts all tasks.
    tasks: JoinSet<Result<(), Error>>,
    /// The task of each child, by the index of its parent and its name.
    data_tasks: AHashMap<(usize, String), AbortHandle>,
    /// The time at which every znode must have been read for the first time.
    deadline: Option<Instant>,
}

enum ZnodeEvent {
    /// The children of a parent.
    Children(usize, Vec<String>),
    /// The data of a child, and the session that owns it. The data is `None` if the child is gone
    /// or cannot be read.
    Data(usize, String, Option<Vec<u8>>, i64),
}

impl Session {
    pub(super) async fn connect(options: &SessionOptions) -> Result<Self, DiscoveryError> {
        let location = options.connect_string.to_string();
        let mut connector = Client::connector().with_session_timeout(options.session_timeout);
        if let Some(digest) = &options.digest {
            connector = connector.with_auth("digest", digest);
        }
        let connected = connector.connect(options.connect_string.servers()).await;
        let client = connected.map_err(|error| discovery_error(&location, error))?;
        tracing::info!(location, "connected to ZooKeeper");
        let (sender, events) = mpsc::channel(64);
        let parents = parents(&options.connect_string, &options.layouts);
        let mut tasks = JoinSet::new();
        for (index, parent) in parents.iter().enumerate() {
            tasks.spawn(watch_children(client.clone(), parent.path.clone(), index, sender.clone()));
        }
        Ok(Session {
            location,
            state: client.state_watcher(),
            client,
            connected: true,
            registry: Registry::new(parents),
            events,
            sender,
            tasks,
            data_tasks: AHashMap::new(),
            deadline: Some(timer_in(options.session_timeout.saturating_mul(2))),
        })
    }

    /// Returns the registry if the session is connected and every znode has been read.
    pub(super) fn registry(&self) -> Option<&Registry> {
        Some(&self.registry).filter(|registry| self.connected && registry.is_complete())
    }

    /// Waits for the next event. An error ends the session. A dropped future loses no event.
    pub(super) async fn next_event(&mut self) -> Result<SessionEvent, DiscoveryError> {
        if self.registry.is_complete() {
            self.deadline = None;
        }
        tokio::select! {
            Some(event) = self.events.recv() => {
                self.handle(event);
                while let Ok(event) = self.events.try_recv() {
                    self.handle(event);
                }
                Ok(SessionEvent::Registry)
            }
            Some(ended) = self.tasks.join_next() => match ended {
                Ok(Err(error)) => Err(discovery_error(&self.location, error)),
                // The client panicked while handling the server's response.
                Err(error) if error.is_panic() => Err(DiscoveryError::Panicked),
                Ok(Ok(())) | Err(_) => Ok(SessionEvent::Registry),
            },
            state = self.state.changed() => self.change_state(state),
            () = sleep_until_some(self.deadline) => Err(DiscoveryError::Timeout(self.location.clone())),
        }
    }

    fn change_state(&mut self, state: SessionState) -> Result<SessionEvent, DiscoveryError> {
        let error = |error| discovery_error(&self.location, error);
        match state {
            SessionState::SyncConnected | SessionState::ConnectedReadOnly => {
                let was_connected = std::mem::replace(&mut self.connected, true);
                Ok(if was_connected { SessionEvent::Registry } else { SessionEvent::Connected })
            }
            SessionState::Disconnected if self.connected => {
                let error = error(Error::ConnectionLoss);
                self.connected = false;
                Ok(SessionEvent::Disconnected(error))
            }
            SessionState::Disconnected => Ok(SessionEvent::Registry),
            SessionState::AuthFailed => Err(error(Error::AuthFailed)),
            SessionState::Expired => Err(error(Error::SessionExpired)),
            SessionState::Closed => Err(error(Error::ClientClosed)),
        }
    }

    fn handle(&mut self, event: ZnodeEvent) {
        match event {
            ZnodeEvent::Children(parent, names) => {
                let changes = self.registry.set_children(parent, names);
                for name in changes.removed {
                    if let Some(task) = self.data_tasks.remove(&(parent, name)) {
                        task.abort();
                    }
                }
                for name in changes.added {
                    let path = self.registry.path(parent, &name);
                    let (client, sender) = (self.client.clone(), self.sender.clone());
                    let task = self.tasks.spawn(watch_data(client, path, parent, name.clone(), sender));
                    self.data_tasks.insert((parent, name), task);
                }
            }
            ZnodeEvent::Data(parent, name, data, owner) => {
                self.registry.set_data(parent, &name, data.as_deref(), owner);
            }
        }
    }
}

/// Sends the children of a znode whenever they change. A znode that does not exist has none.
async fn watch_children(
    client: Client,
    path: String,
    parent: usize,
    sender: mpsc::Sender<ZnodeEvent>,
) -> Result<(), Error> {
    loop {
        let (names, watcher) = match client.list_and_watch_children(&path).await {
            Ok(listed) => listed,
            Err(Error::NoNode) => match client.check_and_watch_stat(&path).await? {
                (None, watcher) => (Vec::new(), watcher),
                (Some(_), _) => continue,
            },
            Err(error) => return Err(error),
        };
        if sender.send(ZnodeEvent::Children(parent, names)).await.is_err() {
            return Ok(());
        }
        watcher.changed().await;
    }
}

/// Sends the data of a znode whenever it changes, until the task is aborted because the znode is no
/// longer listed.
async fn watch_data(
    client: Client,
    path: String,
    parent: usize,
    name: String,
    sender: mpsc::Sender<ZnodeEvent>,
) -> Result<(), Error> {
    loop {
        let (data, owner, watcher) = match client.get_and_watch_data(&path).await {
            Ok((data, stat, watcher)) => (Some(data), stat.ephemeral_owner, Some(watcher)),
            // The znode may return under its name before its parent is read; it is then never
            // unlisted.
            Err(Error::NoNode) => match client.check_and_watch_stat(&path).await? {
                (None, watcher) => (None, 0, Some(watcher)),
                (Some(_), _) => continue,
            },
            Err(Error::NoAuth) => {
                tracing::warn!(?path, "znode skipped: no permission to read it");
                (None, 0, None)
            }
            Err(error) => return Err(error),
        };
        let sent = sender.send(ZnodeEvent::Data(parent, name.clone(), data, owner)).await;
        let Some(watcher) = watcher.filter(|_| sent.is_ok()) else { return Ok(()) };
        watcher.changed().await;
    }
}

fn discovery_error(location: &str, error: Error) -> DiscoveryError {
    let location = location.to_owned();
    match error {
        Error::NoAuth | Error::AuthFailed => DiscoveryError::Denied { location, source: error.into() },
        Error::Timeout => DiscoveryError::Timeout(location),
        error => DiscoveryError::Unavailable { location, source: error.into() },
    }
}
