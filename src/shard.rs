//! Shards: data that exists once per core, so that cores do not contend for cache lines. Each
//! thread uses one shard.

use std::cell::Cell;
use std::num::NonZeroUsize;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::available_parallelism;

/// Returns the shard of the current thread, out of `count`, a power of two. It is fixed for the
/// life of the thread.
#[inline]
pub(crate) fn of_thread(count: usize) -> usize {
    thread_index() & (count - 1)
}

/// Returns the number of shards, a power of two, such that each thread that can run in parallel has
/// its own. It is determined once, because the result depends on the calling thread, which may be
/// bound to one core.
pub(crate) fn count() -> usize {
    static COUNT: OnceLock<usize> = OnceLock::new();
    *COUNT.get_or_init(|| available_parallelism().map_or(1, NonZeroUsize::get).next_power_of_two())
}

/// Returns a small number that is fixed for the life of the thread.
#[inline]
fn thread_index() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static INDEX: Cell<usize> = const { Cell::new(UNASSIGNED) };
    }
    const UNASSIGNED: usize = usize::MAX;
    let index = INDEX.try_with(Cell::get).unwrap_or(0);
    if index != UNASSIGNED {
        return index;
    }
    let index = NEXT.fetch_add(1, Ordering::Relaxed);
    INDEX.set(index);
    index
}
