//! The bodies that wait for free bytes, in the order of their arrival.

use std::mem::take;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::{Account, Reservation};
use crate::client_key::ClientKey;
use crate::sync::{AtomicUsize, Mutex, Ordering, fence, oneshot};

/// How long a body waits for free bytes. A client hardly notices this, and most queries take
/// longer.
const MAX_WAIT: Duration = Duration::from_secs(1);

/// The number of bodies that may wait. Each release of bytes visits all of them, and each may hold
/// one read from its client.
const MAX_WAITING: usize = 1024;

/// The number of bodies of one client that may wait, so that other clients are not refused.
const MAX_WAITING_OF_CLIENT: usize = 128;

#[derive(Default)]
pub(super) struct Waiting {
    queue: Mutex<Vec<Waiter>>,
    /// The length of the queue, read without its lock.
    length: AtomicUsize,
}

struct Waiter {
    client: Option<ClientKey>,
    of_client: Option<Arc<AtomicUsize>>,
    bytes: usize,
    granted: oneshot::Sender<Reservation>,
}

impl Waiting {
    pub(super) fn len(&self) -> usize {
        self.length.load(Ordering::Relaxed)
    }

    /// Waits for bytes; `None` if none became free in time, or too many wait.
    pub(super) async fn wait(
        &self,
        account: &Arc<Account>,
        of_client: Option<Arc<AtomicUsize>>,
        client: Option<ClientKey>,
        bytes: usize,
    ) -> Option<Reservation> {
        // Dropped last, so that it finds its own entry closed.
        let _cleanup = QueueCleanup(self);
        let (granted, is_granted) = oneshot::channel();
        {
            let mut queue = self.queue.lock();
            let of_same = || queue.iter().filter(|waiter| waiter.client == client).count();
            if queue.len() >= MAX_WAITING || client.is_some() && of_same() >= MAX_WAITING_OF_CLIENT {
                return None;
            }
            queue.push(Waiter { client, of_client, bytes, granted });
            self.length.store(queue.len(), Ordering::Relaxed);
        }
        // Bytes that became free after the refusal were released before this body began to wait.
        self.serve(account);
        timeout(MAX_WAIT, is_granted).await.ok()?.ok()
    }

    /// Gives free bytes to waiting bodies, first come, first served, as far as their shares allow.
    pub(super) fn serve(&self, account: &Arc<Account>) {
        // Either this call sees a body that has just begun to wait, or that body sees the bytes
        // that were just released.
        fence(Ordering::SeqCst);
        if self.length.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut queue = self.queue.lock();
        let mut unclaimed = Vec::new();
        for waiter in take(&mut *queue) {
            if waiter.granted.is_closed() {
                continue;
            }
            if !account.take(waiter.of_client.as_deref(), waiter.bytes, || {}) {
                queue.push(waiter);
                continue;
            }
            let Waiter { client, of_client, bytes, granted } = waiter;
            unclaimed.extend(granted.send(Reservation::granted(account, client, of_client, bytes)).err());
        }
        self.length.store(queue.len(), Ordering::Relaxed);
        drop(queue);
        // Each serves the queue again when it is dropped.
        drop(unclaimed);
    }
}

/// Removes the entries of bodies that no longer wait.
struct QueueCleanup<'w>(&'w Waiting);

impl Drop for QueueCleanup<'_> {
    fn drop(&mut self) {
        let mut queue = self.0.queue.lock();
        queue.retain(|waiter| !waiter.granted.is_closed());
        self.0.length.store(queue.len(), Ordering::Relaxed);
    }
}
