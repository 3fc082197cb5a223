//! What must not wait for the near cache to grow old: is the session still there, and is it gone?

use super::backlog::{self, Write};
use super::{Lookup, Sessions, known};
use crate::session::SessionKey;

impl Sessions {
    /// What the store has under `key` now, whatever the near cache remembers; that where the store is away.
    pub(crate) async fn find_fresh(&self, key: SessionKey) -> Lookup {
        let inner = &*self.inner;
        let near = inner.near.as_ref().and_then(|cache| cache.get(&key, inner.tenths()));
        // What waits to be written is newer than what the store has.
        if near.as_ref().is_some_and(|near| near.version.is_none()) || !inner.breaker.allows(inner.millis()) {
            return near.map_or(Lookup::Unknown, known);
        }
        let era = inner.era();
        let loaded = inner.in_time(inner.store.load(&key)).await;
        inner.loaded(&key, loaded, near, era)
    }

    /// [`remove`](Self::remove), waited for: when this returns, no front end finds the session in the store any more, unless the
    /// store is away.
    pub(crate) async fn remove_now(&self, key: SessionKey) {
        let inner = &self.inner;
        let forget = || {
            if let Some(near) = &inner.near {
                near.forget(&key);
            }
        };
        forget();
        let removed = inner.breaker.allows(inner.millis()) && inner.in_time(inner.store.remove(&key)).await.is_ok();
        // Somebody may have looked it up in between.
        forget();
        if !removed {
            backlog::later(inner, key, Write::Remove);
        }
    }
}
