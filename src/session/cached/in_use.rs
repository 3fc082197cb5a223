//! The sessions with a request in flight. The front end touches them while the request lasts, so that
//! no session expires during its own query.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::CachedStore;
use crate::background::{self, BackgroundTask};
use crate::drop_guard::{DropGuard, Release};
use crate::session::SessionKey;

/// How often sessions in use are considered. [`CachedStore::touch`] touches them less often.
const TOUCH_INTERVAL: Duration = Duration::from_secs(5);

const SHARDS: usize = 16;

/// Registers the session as in use until the guard is dropped, at the end of the response body.
pub(super) fn hold(store: &Arc<CachedStore>, key: SessionKey, ttl: Duration) -> DropGuard {
    let place = store.in_use.add(key, ttl);
    background::ensure_running(
        store,
        |store| &store.in_use.task,
        |_| TOUCH_INTERVAL,
        |store: Arc<CachedStore>| async move {
            for (key, ttl) in store.in_use.sessions() {
                store.touch(&key, ttl);
            }
        },
        |store| !store.in_use.sessions().is_empty(),
    );
    DropGuard::new(Arc::clone(store) as Arc<dyn Release>, place)
}

#[derive(Default)]
pub(super) struct InUseRegistry {
    shards: [Shard; SHARDS],
    task: BackgroundTask,
}

/// On cache lines of its own.
#[derive(Default)]
#[repr(align(128))]
struct Shard(Mutex<Slots>);

#[derive(Default)]
struct Slots {
    used: Vec<Option<(SessionKey, Duration)>>,
    free: Vec<u32>,
}

impl InUseRegistry {
    /// Adds a session. Returns its slot and shard in one number.
    fn add(&self, key: SessionKey, ttl: Duration) -> u64 {
        let shard = usize::from(key.as_bytes()[15]) % SHARDS;
        let mut slots = self.shards[shard].0.lock();
        let slot = slots.free.pop().unwrap_or_else(|| {
            slots.used.push(None);
            (slots.used.len() - 1) as u32
        });
        slots.used[slot as usize] = Some((key, ttl));
        (u64::from(slot) << 32) | shard as u64
    }

    fn remove(&self, place: u64) {
        let (slot, shard) = ((place >> 32) as u32, place as u32);
        let mut slots = self.shards[shard as usize].0.lock();
        slots.used[slot as usize] = None;
        slots.free.push(slot);
    }

    fn sessions(&self) -> Vec<(SessionKey, Duration)> {
        let of_shard = |shard: &Shard| shard.0.lock().used.iter().flatten().copied().collect::<Vec<_>>();
        self.shards.iter().flat_map(of_shard).collect()
    }
}

impl Release for CachedStore {
    fn release(&self, place: u64) {
        self.in_use.remove(place);
    }
}
