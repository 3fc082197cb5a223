//! What exists once per core, so that cores do not meet in memory, is kept in shards; a thread has one of them.

use std::cell::Cell;
use std::num::NonZeroUsize;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::available_parallelism;

/// The present thread's shard, of `count`, which is a power of two. It stays the same for the life of the thread.
#[inline]
pub(crate) fn of_thread(count: usize) -> usize {
    thread_index() & (count - 1)
}

/// How many shards there are where each thread that can work at once has its own: a power of two. Asked once, since the answer
/// depends on the thread that asks, which may be bound to one core.
pub(crate) fn count() -> usize {
    static COUNT: OnceLock<usize> = OnceLock::new();
    *COUNT.get_or_init(|| available_parallelism().map_or(1, NonZeroUsize::get).next_power_of_two())
}

/// A small number that stays the same for the life of a thread.
#[inline]
fn thread_index() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static INDEX: Cell<usize> = const { Cell::new(UNKNOWN) };
    }
    const UNKNOWN: usize = usize::MAX;
    let known = INDEX.try_with(Cell::get).unwrap_or(0);
    if known != UNKNOWN {
        return known;
    }
    let index = NEXT.fetch_add(1, Ordering::Relaxed);
    INDEX.set(index);
    index
}
