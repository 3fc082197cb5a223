use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, timeout_at};

use crate::clock::timer_in;
use crate::request::ClientKey;

/// The time that a connection has for its first byte or the rest of a head when the server stops. A
/// request may be on its way.
pub(super) const LAST_HEAD_TIMEOUT: Duration = Duration::from_millis(100);

/// The stage of a stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum StopStage {
    Running,
    /// Connections end after the request in flight.
    Draining,
    /// The grace time is over.
    Cutting,
}

/// Tells the accept loop and the connections of a core that the server is stopping, and tells idle
/// connections that the server needs their permits.
#[derive(Debug, Clone)]
pub(super) struct StopSignal(watch::Receiver<StopStage>, Arc<IdleList>);

impl StopSignal {
    pub(super) fn channel(idle: Arc<IdleList>) -> (watch::Sender<StopStage>, Self) {
        let (sender, receiver) = watch::channel(StopStage::Running);
        (sender, StopSignal(receiver, idle))
    }

    /// Lists the connection as idle until the entry is dropped.
    pub(super) fn enter_idle(&self, client: Option<ClientKey>) -> IdleEntry {
        self.1.enter(client)
    }

    /// Waits until the server stops.
    pub(super) async fn stopped(&mut self) {
        self.reached(StopStage::Draining).await;
    }

    /// Waits until the grace time is over.
    pub(super) async fn cutting(mut self) {
        self.reached(StopStage::Cutting).await;
    }

    /// Runs a step before the first request of a connection. Returns its result, or `None` if it is
    /// not complete at `deadline`. While the server stops, the step has [`MIN_IDLE_TIME`] from its
    /// beginning, and at least [`LAST_HEAD_TIMEOUT`].
    pub(super) async fn before<T>(&self, deadline: Instant, step: impl Future<Output = T>) -> Option<T> {
        let mut step = pin!(timeout_at(deadline, step));
        let last = timer_in(MIN_IDLE_TIME);
        // Awaited on a clone, so that this signal is still set afterwards.
        let mut stop = self.clone();
        tokio::select! {
            biased;
            done = step.as_mut() => return done.ok(),
            () = stop.stopped() => {}
        }
        timeout_at(last.max(timer_in(LAST_HEAD_TIMEOUT)), step).await.ok()?.ok()
    }

    async fn reached(&mut self, stage: StopStage) {
        // If there is no sender, the server was dropped.
        _ = self.0.wait_for(|current| *current >= stage).await;
    }

    /// Returns true if the server is stopping and this signal was not awaited since.
    pub(super) fn is_set(&self) -> bool {
        self.0.has_changed().unwrap_or(true)
    }
}

/// The idle connections of a server, on all cores: those on which no byte of a request has arrived.
#[derive(Debug, Default)]
pub(super) struct IdleList(Mutex<IdleEntries>);

#[derive(Debug, Default)]
struct IdleEntries {
    next: u64,
    /// The entries by number. The first has been idle for the longest.
    closers: BTreeMap<u64, Closer>,
}

#[derive(Debug)]
struct Closer {
    client: Option<ClientKey>,
    since: Instant,
    close: oneshot::Sender<()>,
}

/// How long an idle connection is not closed, because a client that has just connected is about to
/// send its first request.
const MIN_IDLE_TIME: Duration = Duration::from_secs(1);

/// An idle connection.
pub(super) struct IdleEntry {
    list: Arc<IdleList>,
    number: u64,
    closed: oneshot::Receiver<()>,
}

impl IdleList {
    fn enter(self: &Arc<Self>, client: Option<ClientKey>) -> IdleEntry {
        let (close, closed) = oneshot::channel();
        let mut entries = self.0.lock();
        let number = entries.next;
        entries.next += 1;
        entries.closers.insert(number, Closer { client, since: timer_in(Duration::ZERO), close });
        drop(entries);
        IdleEntry { list: Arc::clone(self), number, closed }
    }

    /// Closes the connection that has been idle for the longest. Returns false if none has been
    /// idle for [`MIN_IDLE_TIME`].
    pub(super) fn close_idlest(&self) -> bool {
        let mut entries = self.0.lock();
        let idlest = entries.closers.first_entry().filter(|idlest| idlest.get().since.elapsed() >= MIN_IDLE_TIME);
        idlest.is_some_and(|idlest| idlest.remove().close.send(()).is_ok())
    }

    /// Closes the connection of `client` that has been idle for the longest, if it has been idle
    /// for [`MIN_IDLE_TIME`]. If the server `needs` the permit, the time does not matter.
    pub(super) fn close_idlest_of(&self, client: ClientKey, needs: bool) {
        let mut entries = self.0.lock();
        let is_old = |closer: &Closer| needs || closer.since.elapsed() >= MIN_IDLE_TIME;
        let mut old = entries.closers.iter().take_while(|(_, closer)| is_old(closer));
        let idlest = old.find(|(_, closer)| closer.client == Some(client));
        if let Some(number) = idlest.map(|(number, _)| *number)
            && let Some(idlest) = entries.closers.remove(&number)
        {
            _ = idlest.close.send(());
        }
    }
}

impl IdleEntry {
    /// Waits until the server needs the permit of the connection.
    pub(super) async fn closed(&mut self) {
        poll_fn(|cx| self.poll_closed(cx)).await;
    }

    /// Polls until the server needs the permit of the connection.
    pub(super) fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.closed).poll(cx).map(drop)
    }
}

impl Drop for IdleEntry {
    fn drop(&mut self) {
        self.list.0.lock().closers.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_connection_that_is_idle_for_the_longest_is_closed_first() {
        let list = Arc::new(IdleList::default());
        let (mut first, second, mut third) = (list.enter(None), list.enter(None), list.enter(None));
        drop(second);
        assert!(!list.close_idlest(), "requests are on their way");
        tokio::time::sleep(MIN_IDLE_TIME).await;
        assert!(list.close_idlest());
        first.closed().await;
        assert!(list.close_idlest());
        third.closed().await;
        assert!(!list.close_idlest());
        drop((first, third));
        assert!(list.0.lock().closers.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_loses_its_own_idlest_connection_and_a_young_one_only_if_it_must() {
        let list = Arc::new(IdleList::default());
        let [one, other] = [ClientKey::V4(1), ClientKey::V4(2)];
        let (_others, mut first, mut second) = (list.enter(Some(other)), list.enter(Some(one)), list.enter(Some(one)));
        list.close_idlest_of(one, false);
        assert_eq!(list.0.lock().closers.len(), 3, "requests are on their way");
        list.close_idlest_of(one, true);
        first.closed().await;
        list.close_idlest_of(one, false);
        tokio::time::sleep(MIN_IDLE_TIME).await;
        list.close_idlest_of(one, false);
        second.closed().await;
        list.close_idlest_of(one, true);
        assert_eq!(list.0.lock().closers.len(), 1);
    }
}
