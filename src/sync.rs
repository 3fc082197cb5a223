//! The atomics, locks and channels of the code that `tests/loom` checks. That package compiles the
//! same files with loom's types instead, which try each order in which threads can run.

pub(crate) use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};

pub(crate) use parking_lot::{Mutex, MutexGuard};
pub(crate) use tokio::sync::oneshot;
