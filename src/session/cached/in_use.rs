//! The sessions with a request in flight. The front end touches them, so that no session expires
//! during its own query.

use std::sync::Arc;
use std::time::Duration;

use ahash::AHashMap;
use parking_lot::Mutex;

use super::CachedStore;
use crate::background::{self, BackgroundTask};
use crate::drop_guard::{DropGuard, Release};
use crate::session::SessionKey;

/// The interval at which sessions in use are checked. [`CachedStore::touch`] touches them less
/// often.
const TOUCH_INTERVAL: Duration = Duration::from_secs(5);

const SHARDS: u64 = 16;

/// Registers the session as in use until the guard is dropped, at the end of the response body.
pub(super) fn hold(store: &Arc<CachedStore>, key: SessionKey, ttl: Duration) -> DropGuard {
    let id = store.in_use.add(key, ttl);
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
    DropGuard::new(Arc::clone(store) as Arc<dyn Release>, id)
}

#[derive(Default)]
pub(super) struct InUseRegistry {
    shards: [Shard; SHARDS as usize],
    task: BackgroundTask,
}

/// On cache lines of its own.
#[derive(Default)]
#[repr(align(128))]
struct Shard(Mutex<Uses>);

#[derive(Default)]
struct Uses {
    by_id: AHashMap<u64, (SessionKey, Duration)>,
    last_id: u64,
}

impl InUseRegistry {
    /// Adds a use of a session. Returns its id, whose remainder modulo [`SHARDS`] is the shard.
    fn add(&self, key: SessionKey, ttl: Duration) -> u64 {
        let shard = u64::from(key.as_bytes()[15]) % SHARDS;
        let mut uses = self.shards[shard as usize].0.lock();
        uses.last_id += SHARDS;
        let id = uses.last_id + shard;
        uses.by_id.insert(id, (key, ttl));
        id
    }

    fn sessions(&self) -> Vec<(SessionKey, Duration)> {
        let of_shard = |shard: &Shard| shard.0.lock().by_id.values().copied().collect::<Vec<_>>();
        self.shards.iter().flat_map(of_shard).collect()
    }
}

impl Release for CachedStore {
    fn release(&self, id: u64) {
        self.in_use.shards[(id % SHARDS) as usize].0.lock().by_id.remove(&id);
    }
}
