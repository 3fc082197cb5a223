//! Sessions with a request in flight: they are touched while it lasts, so that none expires under its own query.
//!
//! A request puts its session down here when it begins and takes it away when its answer's body is over, which costs it two
//! short locks. One task, which lives as long as there is anything here, walks over them now and then.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use super::Inner;
use crate::drop_guard::{DropGuard, Release};
use crate::session::SessionKey;

#[derive(Default)]
pub(super) struct Register {
    lanes: [Lane; LANES],
    walking: AtomicBool,
}

const LANES: usize = 16;

/// On cache lines of its own.
#[derive(Default)]
#[repr(align(128))]
struct Lane(Mutex<Slots>);

#[derive(Default)]
struct Slots {
    used: Vec<Option<(SessionKey, Duration)>>,
    free: Vec<u32>,
}

impl Register {
    /// The place that the session takes.
    fn enter(&self, key: SessionKey, ttl: Duration) -> u64 {
        let lane = usize::from(key.as_bytes()[15]) % LANES;
        let mut slots = self.lanes[lane].0.lock();
        let slot = slots.free.pop().unwrap_or_else(|| {
            slots.used.push(None);
            (slots.used.len() - 1) as u32
        });
        slots.used[slot as usize] = Some((key, ttl));
        (u64::from(slot) << 32) | lane as u64
    }

    fn release(&self, place: u64) {
        let (slot, lane) = ((place >> 32) as u32, place as u32);
        let mut slots = self.lanes[lane as usize].0.lock();
        slots.used[slot as usize] = None;
        slots.free.push(slot);
    }

    fn all(&self) -> Vec<(SessionKey, Duration)> {
        self.lanes.iter().flat_map(|lane| lane.0.lock().used.iter().flatten().copied().collect::<Vec<_>>()).collect()
    }
}

/// Keeps a session alive while it lives: a request holds it until the body of its answer is over.
pub(super) fn use_now(inner: &Arc<Inner>, key: SessionKey, ttl: Duration) -> DropGuard {
    let place = inner.register.enter(key, ttl);
    start(inner);
    DropGuard::new(Arc::clone(inner) as Arc<dyn Release>, place)
}

impl Release for Inner {
    fn release(&self, place: u64) {
        self.register.release(place);
    }
}

/// Starts the task that walks, unless there is one or no runtime to carry it.
fn start(inner: &Arc<Inner>) {
    let walking = &inner.register.walking;
    if walking.load(Ordering::SeqCst) {
        return;
    }
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    if !walking.swap(true, Ordering::SeqCst) {
        runtime.spawn(walk(Walker(Arc::downgrade(inner))));
    }
}

/// Says that no task walks any more, also when its runtime is gone before its time.
struct Walker(Weak<Inner>);

impl Drop for Walker {
    fn drop(&mut self) {
        if let Some(inner) = self.0.upgrade() {
            inner.register.walking.store(false, Ordering::SeqCst);
        }
    }
}

/// How often sessions in use are looked at. They are touched less often than that: see [`Inner::touch`].
const WALK: Duration = Duration::from_secs(5);

async fn walk(mut walker: Walker) {
    loop {
        tokio::time::sleep(WALK).await;
        let Some(inner) = walker.0.upgrade() else { return };
        let all = inner.register.all();
        if all.is_empty() {
            // Who comes in from here on sees that nobody walks; who came in before is seen now.
            inner.register.walking.store(false, Ordering::SeqCst);
            if inner.register.all().is_empty() || inner.register.walking.swap(true, Ordering::SeqCst) {
                walker.0 = Weak::new();
                return;
            }
        }
        for (key, ttl) in all {
            inner.touch(&key, ttl);
        }
    }
}
