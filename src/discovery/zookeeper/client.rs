//! One session with ZooKeeper: a task for each watched znode, and their news.

use std::time::Duration;

use ahash::AHashMap;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep_until};
use zookeeper_client::{Client, Error, SessionState, StateWatcher};

use super::folders::folders;
use super::registry::Registry;
use super::{DiscoveryError, Settings};
use crate::clock::timer_in;

/// What happened.
pub(super) enum News {
    /// The registry may have changed.
    Registry,
    /// The connection was lost; the session may be saved.
    Disconnected(DiscoveryError),
    /// The connection is back, and with it all watches.
    Connected,
}

pub(super) struct Session {
    place: String,
    client: Client,
    state: StateWatcher,
    connected: bool,
    registry: Registry,
    events: mpsc::Receiver<Event>,
    sender: mpsc::Sender<Event>,
    /// Dropping the set ends them.
    tasks: JoinSet<Result<(), Error>>,
    nodes: AHashMap<(usize, String), AbortHandle>,
    /// When everything must have been read for the first time.
    deadline: Option<Instant>,
}

/// What a task saw.
enum Event {
    /// The children of a folder.
    Listed(usize, Vec<String>),
    /// The data of a znode in a folder, `None` without it, and the session that owns it.
    Read(usize, String, Option<Vec<u8>>, i64),
}

impl Session {
    pub(super) async fn connect(settings: &Settings) -> Result<Self, DiscoveryError> {
        let place = settings.place.to_string();
        let mut connector = Client::connector().with_session_timeout(settings.session_timeout);
        if let Some(digest) = &settings.digest {
            connector = connector.with_auth("digest", &digest.0);
        }
        let client = connector.connect(settings.place.servers()).await.map_err(|error| fault(&place, error))?;
        tracing::info!(place, "connected to ZooKeeper");
        let (sender, events) = mpsc::channel(64);
        let state = client.state_watcher();
        let folders = folders(&settings.place, &settings.layouts);
        let mut tasks = JoinSet::new();
        for (index, folder) in folders.iter().enumerate() {
            tasks.spawn(watch_children(client.clone(), folder.path.clone(), index, sender.clone()));
        }
        Ok(Session {
            place,
            client,
            state,
            connected: true,
            registry: Registry::new(folders),
            events,
            sender,
            tasks,
            nodes: AHashMap::new(),
            deadline: Some(timer_in(settings.session_timeout.max(Duration::from_secs(1)) * 2)),
        })
    }

    pub(super) fn is_connected(&self) -> bool {
        self.connected
    }

    pub(super) fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Waits for what happens next. An error is the end of the session. A future that is dropped loses nothing.
    pub(super) async fn news(&mut self) -> Result<News, DiscoveryError> {
        if self.registry.is_complete() {
            self.deadline = None;
        }
        let deadline = self.deadline;
        let overdue = async move {
            match deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some(event) = self.events.recv() => {
                self.take(event);
                // What comes together is told together.
                while let Ok(event) = self.events.try_recv() {
                    self.take(event);
                }
                Ok(News::Registry)
            }
            Some(ended) = self.tasks.join_next() => match ended {
                Ok(Err(error)) => Err(fault(&self.place, error)),
                // The client panicked over what the server sent.
                Err(error) if error.is_panic() => Err(DiscoveryError::Panicked),
                Ok(Ok(())) | Err(_) => Ok(News::Registry),
            },
            state = self.state.changed() => self.changed(state),
            () = overdue => Err(DiscoveryError::Timeout(self.place.clone())),
        }
    }

    fn changed(&mut self, state: SessionState) -> Result<News, DiscoveryError> {
        let was = self.connected;
        let lost = |error| Ok(News::Disconnected(fault(&self.place, error)));
        match state {
            SessionState::SyncConnected | SessionState::ConnectedReadOnly => {
                self.connected = true;
                Ok(if was { News::Registry } else { News::Connected })
            }
            SessionState::Disconnected if was => {
                self.connected = false;
                lost(Error::ConnectionLoss)
            }
            SessionState::Disconnected => Ok(News::Registry),
            SessionState::AuthFailed => Err(fault(&self.place, Error::AuthFailed)),
            SessionState::Expired => Err(fault(&self.place, Error::SessionExpired)),
            SessionState::Closed => Err(fault(&self.place, Error::ClientClosed)),
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Listed(folder, names) => {
                let changes = self.registry.listed(folder, names);
                for name in changes.gone {
                    if let Some(task) = self.nodes.remove(&(folder, name)) {
                        task.abort();
                    }
                }
                for name in changes.come {
                    let path = format!("{}/{name}", self.registry.path(folder));
                    let (client, sender) = (self.client.clone(), self.sender.clone());
                    let task = self.tasks.spawn(watch_data(client, path, folder, name.clone(), sender));
                    self.nodes.insert((folder, name), task);
                }
            }
            Event::Read(folder, name, data, owner) => self.registry.read(folder, &name, data.as_deref(), owner),
        }
    }
}

/// Tells the children of a znode whenever they change; of one that does not exist, none, until it does.
async fn watch_children(client: Client, path: String, folder: usize, sender: mpsc::Sender<Event>) -> Result<(), Error> {
    loop {
        let (names, watcher) = match client.list_and_watch_children(&path).await {
            Ok(listed) => listed,
            Err(Error::NoNode) => {
                let (stat, watcher) = client.check_and_watch_stat(&path).await?;
                if stat.is_some() {
                    continue;
                }
                (Vec::new(), watcher)
            }
            Err(error) => return Err(error),
        };
        if sender.send(Event::Listed(folder, names)).await.is_err() {
            return Ok(());
        }
        watcher.changed().await;
    }
}

/// Tells the data of a znode whenever it changes, until the task is ended because the znode is no longer listed.
async fn watch_data(
    client: Client,
    path: String,
    folder: usize,
    name: String,
    sender: mpsc::Sender<Event>,
) -> Result<(), Error> {
    loop {
        let (data, owner, watcher) = match client.get_and_watch_data(&path).await {
            Ok((data, stat, watcher)) => (Some(data), stat.ephemeral_owner, Some(watcher)),
            Err(Error::NoNode) => {
                // It may come again under its name before its folder is looked at, and then is never unlisted.
                let (stat, watcher) = client.check_and_watch_stat(&path).await?;
                if stat.is_some() {
                    continue;
                }
                (None, 0, Some(watcher))
            }
            Err(Error::NoAuth) => {
                tracing::warn!(?path, "a znode must not be read and is skipped");
                (None, 0, None)
            }
            Err(error) => return Err(error),
        };
        if sender.send(Event::Read(folder, name.clone(), data, owner)).await.is_err() {
            return Ok(());
        }
        let Some(watcher) = watcher else { return Ok(()) };
        watcher.changed().await;
    }
}

fn fault(place: &str, error: Error) -> DiscoveryError {
    let place = place.to_owned();
    match error {
        Error::NoAuth | Error::AuthFailed => DiscoveryError::Refused { place, source: error.into() },
        Error::Timeout => DiscoveryError::Timeout(place),
        error => DiscoveryError::Unavailable { place, source: error.into() },
    }
}
