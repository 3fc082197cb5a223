use std::collections::{HashMap, VecDeque};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ahash::RandomState;
use parking_lot::Mutex;

use super::{ClientAddr, ClientKey};
use crate::clock::{Clock, SystemClock};
use crate::drop_guard::{DropGuard, Release};

/// The interval at which the log names a client that is at its limit.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// The number of clients that the log names within [`WARNING_INTERVAL`].
const MAX_WARNINGS: usize = 32;

/// The number of locks over which the clients are spread.
const SHARDS: usize = 16;

/// Counts the open requests or connections of each client, and refuses those beyond a limit.
///
/// A client without an open item has no entry, so the table is no larger than the number of items.
/// Peers of unix sockets cannot be told apart and have no limit.
pub(crate) struct ClientLimit {
    max: NonZeroU32,
    shards: [Mutex<HashMap<ClientKey, u32, RandomState>>; SHARDS],
    hasher: RandomState,
    /// The clients that the log named lately, oldest first.
    warned: Mutex<VecDeque<(ClientKey, Instant)>>,
    warn: fn(ClientKey, NonZeroU32),
}

/// The error when a client has its maximum.
#[derive(Debug, thiserror::Error)]
#[error("the client has its maximum")]
pub(crate) struct LimitReached;

impl ClientLimit {
    /// Creates a table without entries. `warn` logs that a client is at the limit.
    pub(crate) fn new(max: NonZeroU32, warn: fn(ClientKey, NonZeroU32)) -> Arc<Self> {
        let (hasher, shards) = (RandomState::new(), Default::default());
        Arc::new(ClientLimit { max, shards, hasher, warned: Mutex::default(), warn })
    }

    /// Counts an item of `client` until the guard is dropped. Returns `None` for a client without a
    /// limit.
    pub(crate) fn acquire(self: &Arc<Self>, client: ClientAddr) -> Result<Option<DropGuard>, LimitReached> {
        let Some(key) = client.key() else { return Ok(None) };
        let is_free = {
            let mut shard = self.shard(key).lock();
            let count = shard.entry(key).or_insert(0);
            let is_free = *count < self.max.get();
            *count += u32::from(is_free);
            is_free
        };
        if is_free {
            return Ok(Some(DropGuard::new(Arc::clone(self) as Arc<dyn Release>, key.to_bits())));
        }
        self.warn_once(key, SystemClock.now());
        Err(LimitReached)
    }

    /// Returns how many items a client may have open.
    #[cfg(feature = "server")]
    pub(crate) fn max(&self) -> u32 {
        self.max.get()
    }

    /// Returns how many items `client` has open.
    #[cfg(feature = "server")]
    pub(crate) fn count(&self, client: ClientKey) -> u32 {
        self.shard(client).lock().get(&client).copied().unwrap_or(0)
    }

    fn shard(&self, key: ClientKey) -> &Mutex<HashMap<ClientKey, u32, RandomState>> {
        &self.shards[self.hasher.hash_one(key) as usize % SHARDS]
    }

    /// Names the client in the log, unless that was done recently.
    fn warn_once(&self, key: ClientKey, now: Instant) {
        let mut warned = self.warned.lock();
        while warned.front().is_some_and(|(_, at)| now.saturating_duration_since(*at) >= WARNING_INTERVAL) {
            warned.pop_front();
        }
        if warned.len() < MAX_WARNINGS && !warned.iter().any(|(named, _)| *named == key) {
            warned.push_back((key, now));
            drop(warned);
            (self.warn)(key, self.max);
        }
    }

    #[cfg(test)]
    fn entries(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }
}

impl Release for ClientLimit {
    fn release(&self, token: u64) {
        let key = ClientKey::from_bits(token);
        let mut shard = self.shard(key).lock();
        if let Some(count) = shard.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                shard.remove(&key);
                // The table shrinks again after a flood of clients.
                if shard.capacity() > 64 && shard.len() < shard.capacity() / 8 {
                    shard.shrink_to_fit();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use super::*;

    fn limit(max: u32) -> Arc<ClientLimit> {
        ClientLimit::new(NonZeroU32::new(max).unwrap(), |_, _| {})
    }

    fn client(ip: &str) -> ClientAddr {
        ip.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn each_client_has_its_own_share() {
        let limit = limit(2);
        let (one, other) = (client("192.0.2.1"), client("192.0.2.2"));
        let held = [limit.acquire(one).unwrap(), limit.acquire(one).unwrap()];
        assert!(limit.acquire(one).is_err() && limit.acquire(client("::ffff:192.0.2.1")).is_err());
        assert!(limit.acquire(other).is_ok());
        drop(held);
        assert!(limit.acquire(one).is_ok());
        assert_eq!(limit.entries(), 0, "a client without an open item has no entry");
        let _network = [limit.acquire(client("2001:db8::1")).unwrap(), limit.acquire(client("2001:db8::2")).unwrap()];
        assert!(limit.acquire(client("2001:db8::3")).is_err(), "a /64 network is one client");
        assert!(limit.acquire(client("2001:db8:0:1::3")).is_ok());
        for _ in 0..9 {
            std::mem::forget(limit.acquire(ClientAddr::Unix).unwrap());
        }
    }

    #[test]
    fn the_table_is_empty_when_all_guards_are_gone() {
        let limit = limit(3);
        let clients: Vec<_> = (0..100_000_u32).map(|bits| ClientAddr::from(IpAddr::from(bits.to_be_bytes()))).collect();
        let held: Vec<_> = clients.iter().map(|client| limit.acquire(*client).unwrap()).collect();
        assert_eq!(limit.entries(), clients.len());
        drop(held);
        let capacity: usize = limit.shards.iter().map(|shard| shard.lock().capacity()).sum();
        assert!(limit.entries() == 0 && capacity < 100 * SHARDS, "{capacity}");
    }

    #[test]
    fn threads_that_open_and_close_never_pass_the_limit() {
        let (limit, open) = (limit(4), AtomicUsize::new(0));
        thread::scope(|threads| {
            for _ in 0..8 {
                threads.spawn(|| {
                    for _ in 0..2_000 {
                        if let Ok(_guard) = limit.acquire(client("192.0.2.1")) {
                            assert!(open.fetch_add(1, Ordering::SeqCst) < 4);
                            open.fetch_sub(1, Ordering::SeqCst);
                        }
                    }
                });
            }
        });
        assert_eq!(limit.entries(), 0);
    }

    #[test]
    fn the_log_names_a_client_once_an_interval_and_not_too_many() {
        static NAMED: AtomicUsize = AtomicUsize::new(0);
        let limit = ClientLimit::new(NonZeroU32::MIN, |_, _| _ = NAMED.fetch_add(1, Ordering::SeqCst));
        let named = || NAMED.swap(0, Ordering::SeqCst);
        let start = SystemClock.now();
        for _ in 0..9 {
            limit.warn_once(ClientKey::V4(1), start);
        }
        assert_eq!(named(), 1);
        (0..1_000).for_each(|client| limit.warn_once(ClientKey::V4(client), start + WARNING_INTERVAL / 2));
        assert_eq!(named(), MAX_WARNINGS - 1);
        limit.warn_once(ClientKey::V4(1), start + WARNING_INTERVAL);
        assert_eq!(named(), 1);
    }
}
