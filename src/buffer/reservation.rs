use std::collections::hash_map::Entry;
use std::mem::replace;
use std::sync::Arc;

use bytes::Bytes;

use super::Account;
use crate::client_key::ClientKey;
use crate::sync::AtomicUsize;

/// Bytes that are reserved in a budget until this is dropped.
pub(crate) struct Reservation {
    account: Arc<Account>,
    client: Option<ClientKey>,
    /// The total bytes that the client has reserved. Looked up when the first byte is reserved.
    of_client: Option<Arc<AtomicUsize>>,
    bytes: usize,
}

impl Reservation {
    pub(super) fn empty(account: &Arc<Account>, client: Option<ClientKey>) -> Self {
        Reservation { account: Arc::clone(account), client, of_client: None, bytes: 0 }
    }

    /// Returns how many bytes are reserved.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Reserves more. Returns whether the limits allow it.
    pub(crate) fn grow(&mut self, bytes: usize) -> bool {
        let is_taken = self.try_grow(bytes);
        if !is_taken {
            self.account.count_refusal();
        }
        is_taken
    }

    /// Reserves more, and waits for a moment if the limits do not allow it. Returns whether it
    /// reserved the bytes.
    pub(crate) async fn grow_or_wait(&mut self, bytes: usize) -> bool {
        if self.try_grow(bytes) {
            return true;
        }
        let account = Arc::clone(&self.account);
        match account.waiting.wait(&account, self.client_count(), self.client, bytes).await {
            Some(mut more) => {
                self.bytes += replace(&mut more.bytes, 0);
                true
            }
            None => {
                account.count_refusal();
                false
            }
        }
    }

    /// Reserves more, even beyond the limits.
    pub(crate) fn grow_anyway(&mut self, bytes: usize) {
        let of_client = self.client_count();
        self.account.take_anyway(of_client.as_deref(), bytes);
        self.bytes += bytes;
    }

    /// Releases what exceeds `bytes`.
    pub(crate) fn shrink_to(&mut self, bytes: usize) {
        let excess = self.bytes.saturating_sub(bytes);
        self.bytes -= excess;
        self.account.release(self.of_client.as_ref(), excess);
    }

    /// Moves `bytes` of this reservation to another one.
    #[cfg_attr(not(feature = "server"), allow(dead_code, reason = "only the server reads responses ahead"))]
    pub(crate) fn split(&mut self, bytes: usize) -> Reservation {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        let (account, of_client) = (Arc::clone(&self.account), self.of_client.clone());
        Reservation { account, client: self.client, of_client, bytes }
    }

    /// Returns the data as bytes that hold this reservation. The reservation ends with the last
    /// slice of them.
    pub(crate) fn hold(self, data: Vec<u8>) -> Bytes {
        Bytes::from_owner(Held { data, _reservation: self })
    }

    /// Reserves more like [`grow`](Self::grow), but does not count a refusal.
    pub(crate) fn try_grow(&mut self, bytes: usize) -> bool {
        let of_client = self.client_count();
        let account = &self.account;
        let is_taken = account.take(of_client.as_deref(), bytes, || account.waiting.serve(account));
        if is_taken {
            self.bytes += bytes;
        }
        is_taken
    }

    /// Counts one refusal. A caller that retries [`try_grow`](Self::try_grow) calls this when it
    /// gives up.
    #[cfg_attr(not(feature = "server"), allow(dead_code, reason = "only the server waits by attempts"))]
    pub(crate) fn count_refusal(&self) {
        self.account.count_refusal();
    }

    fn client_count(&mut self) -> Option<Arc<AtomicUsize>> {
        if self.of_client.is_none()
            && let Some(client) = self.client
        {
            self.of_client = Some(Arc::clone(self.account.clients.lock().entry(client).or_default()));
        }
        self.of_client.clone()
    }

    pub(super) fn granted(
        account: &Arc<Account>,
        client: Option<ClientKey>,
        of_client: Option<Arc<AtomicUsize>>,
        bytes: usize,
    ) -> Self {
        Reservation { account: Arc::clone(account), client, of_client, bytes }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.account.release(self.of_client.as_ref(), self.bytes);
        if let (Some(client), Some(of_client)) = (self.client, self.of_client.take()) {
            let mut clients = self.account.clients.lock();
            // Under the lock, so that if two reservations are dropped at once, one of them finds
            // that it was the last. Clones are also made under the lock, or from one that is still
            // held here.
            drop(of_client);
            if let Entry::Occupied(entry) = clients.entry(client)
                && Arc::strong_count(entry.get()) == 1
            {
                entry.remove();
            }
        }
    }
}

struct Held {
    data: Vec<u8>,
    _reservation: Reservation,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}
