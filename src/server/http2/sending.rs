//! The bytes of responses that hyper holds until the client accepts them.
//!
//! hyper takes up to [`SEND_BUFFER`](super::SEND_BUFFER) of each response, even if the client does
//! not read. A response is no longer in flight once hyper has its last byte. So the bytes are
//! reserved in the budget. A connection with bytes that the client has not accepted gets more only
//! if the budget allows it. A connection without such bytes always gets the next bytes, so that it
//! makes progress.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Waker};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::{Sleep, sleep};

use super::MEMORY_RETRY_INTERVAL;
use crate::buffer::{BufferBudget, Reservation};
use crate::client_key::ClientKey;

/// The bytes that hyper holds of the responses of a connection.
#[derive(Default)]
pub(super) struct Sending {
    bytes: AtomicUsize,
    /// The wakers of streams that wait until some of the bytes are sent.
    waiting: Mutex<Vec<Waker>>,
}

/// Reserves the bytes of one response.
pub(super) struct Account {
    pub(super) sending: Arc<Sending>,
    pub(super) budget: BufferBudget,
    pub(super) client: Option<ClientKey>,
    /// Wakes a stream that waits, because other connections may have released bytes.
    pub(super) retry_timer: Option<Pin<Box<Sleep>>>,
}

impl Account {
    /// Reserves bytes for hyper. Returns `None` if the budget does not allow it. The task is then
    /// woken when bytes of this connection were sent. It is also woken after a short time, because
    /// other connections may have released bytes.
    pub(super) fn reserve(&mut self, bytes: usize, cx: &mut Context<'_>) -> Option<Sent> {
        let mut reservation = self.budget.reservation(self.client);
        if !reservation.try_grow(bytes) {
            let mut waiting = self.sending.waiting.lock();
            if self.sending.bytes.load(Ordering::Relaxed) > 0 {
                if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                    waiting.push(cx.waker().clone());
                }
                drop(waiting);
                self.start_retry_timer(cx);
                return None;
            }
            reservation.grow_anyway(bytes);
        }
        self.sending.bytes.fetch_add(bytes, Ordering::Relaxed);
        Some(Sent { sending: Arc::clone(&self.sending), bytes, reservation })
    }
}

impl Account {
    fn start_retry_timer(&mut self, cx: &mut Context<'_>) {
        let mut sleep = Box::pin(sleep(MEMORY_RETRY_INTERVAL));
        // The timer has just begun, so this poll only registers the waker.
        _ = sleep.as_mut().poll(cx);
        self.retry_timer = Some(sleep);
    }
}

/// Bytes that hyper holds.
pub(super) struct Sent {
    sending: Arc<Sending>,
    bytes: usize,
    reservation: Reservation,
}

impl Sent {
    /// Returns the data as bytes that stay reserved until their last slice is dropped.
    pub(super) fn hold(self, data: Bytes) -> Bytes {
        Bytes::from_owner(Held { data, _sent: self })
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        self.sending.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.reservation.shrink_to(0);
        // The lock ensures that a stream that begins to wait sees either the released bytes or this
        // wake-up.
        let waiting = std::mem::take(&mut *self.sending.waiting.lock());
        waiting.into_iter().for_each(Waker::wake);
    }
}

struct Held {
    data: Bytes,
    _sent: Sent,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::num::NonZeroUsize;
    use std::task::Poll;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_stream_gets_memory_that_its_own_or_another_connection_releases() {
        let budget = BufferBudget::new(NonZeroUsize::new(100));
        let sending = Arc::<Sending>::default();
        let account =
            || Account { sending: Arc::clone(&sending), budget: budget.clone(), client: None, retry_timer: None };
        let waits = || {
            let mut account = account();
            tokio::spawn(poll_fn(move |cx| account.reserve(30, cx).map_or(Poll::Pending, Poll::Ready)))
        };
        let mut elsewhere = budget.reservation(None);
        assert!(elsewhere.grow(100));
        let first = waits().await.unwrap();
        assert_eq!(budget.status().used, 130, "a connection that holds nothing gets the next bytes in any case");
        let second = waits();
        tokio::task::yield_now().await;
        assert!(!second.is_finished());
        drop(first);
        let second = second.await.unwrap();
        let waiting = waits();
        tokio::task::yield_now().await;
        elsewhere.shrink_to(0);
        drop(waiting.await.unwrap());
        drop(second);
        assert_eq!((budget.status().used, sending.bytes.load(Ordering::Relaxed)), (0, 0));
    }
}
