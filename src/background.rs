//! Background tasks: some run while there is work for them, others end with their handle.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// A task that works for its owner in rounds, and ends when there is no more work or the owner is
/// dropped.
///
/// The owner keeps this flag and calls [`ensure_running`] whenever it has made work. The task holds
/// its owner weakly. If the task ends early (its runtime shut down, or a round panicked), the next
/// call starts another one.
#[derive(Debug, Default)]
pub(crate) struct BackgroundTask {
    running: AtomicBool,
}

impl BackgroundTask {
    /// Returns whether the task is running.
    pub(crate) fn is_running(&self) -> bool {
        self.running.load(Ordering::SeqCst)
    }
}

/// Starts the task of `owner` that `task` names, unless it is already running or the caller is
/// outside of a runtime.
///
/// The task waits for `interval`, which it evaluates anew each time, and runs one `round`. It
/// repeats that until `has_work` is false after a round. Returns whether the task is running now.
pub(crate) fn ensure_running<T, R, F>(
    owner: &Arc<T>,
    task: impl Fn(&T) -> &BackgroundTask + Send + 'static,
    interval: impl Fn(&T) -> Duration + Send + 'static,
    round: R,
    has_work: impl Fn(&T) -> bool + Send + 'static,
) -> bool
where
    T: Send + Sync + 'static,
    R: Fn(Arc<T>) -> F + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    if task(owner).is_running() {
        return true;
    }
    let Ok(runtime) = Handle::try_current() else { return false };
    if !task(owner).running.swap(true, Ordering::SeqCst) {
        let running = Running { owner: Arc::downgrade(owner), task };
        runtime.spawn(run(running, interval, round, has_work));
    }
    true
}

async fn run<T, R, F, K>(
    mut running: Running<T, K>,
    interval: impl Fn(&T) -> Duration,
    round: R,
    has_work: impl Fn(&T) -> bool,
) where
    R: Fn(Arc<T>) -> F,
    F: Future<Output = ()>,
    K: Fn(&T) -> &BackgroundTask,
{
    loop {
        let Some(interval) = running.owner.upgrade().map(|owner| interval(&owner)) else { return };
        sleep(interval).await;
        let Some(owner) = running.owner.upgrade() else { return };
        round(Arc::clone(&owner)).await;
        if !has_work(&owner) {
            // Work that arrives from here on starts a new task. Work that arrived before is seen by
            // the second check.
            let flag = &(running.task)(&owner).running;
            flag.store(false, Ordering::SeqCst);
            if !has_work(&owner) || flag.swap(true, Ordering::SeqCst) {
                running.owner = Weak::new();
                return;
            }
        }
    }
}

/// Clears the flag if the task ends early.
struct Running<T, K: Fn(&T) -> &BackgroundTask> {
    owner: Weak<T>,
    task: K,
}

impl<T, K: Fn(&T) -> &BackgroundTask> Drop for Running<T, K> {
    fn drop(&mut self) {
        if let Some(owner) = self.owner.upgrade() {
            (self.task)(&owner).running.store(false, Ordering::SeqCst);
        }
    }
}

/// A task that is aborted when its handle is dropped.
#[derive(Debug)]
pub(crate) struct AbortOnDrop(JoinHandle<()>);

impl AbortOnDrop {
    /// Starts a task.
    ///
    /// # Panics
    /// Panics if called outside of a tokio runtime.
    pub(crate) fn spawn(task: impl Future<Output = ()> + Send + 'static) -> Self {
        AbortOnDrop(tokio::spawn(task))
    }

    /// Returns whether the task has ended.
    pub(crate) fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    const INTERVAL: Duration = Duration::from_secs(1);

    #[derive(Default)]
    struct Owner {
        task: BackgroundTask,
        work: AtomicUsize,
        done: AtomicUsize,
    }

    fn add_work(owner: &Arc<Owner>) -> bool {
        owner.work.fetch_add(1, Ordering::SeqCst);
        ensure_running(
            owner,
            |owner| &owner.task,
            |_| INTERVAL,
            |owner: Arc<Owner>| async move {
                assert_ne!(owner.work.fetch_sub(1, Ordering::SeqCst), 99, "a round that panics");
                owner.done.fetch_add(1, Ordering::SeqCst);
            },
            |owner| owner.work.load(Ordering::SeqCst) > 0,
        )
    }

    #[tokio::test(start_paused = true)]
    async fn runs_while_there_is_work_and_starts_again_for_more() {
        let owner = Arc::new(Owner::default());
        assert!(add_work(&owner) && add_work(&owner));
        sleep(INTERVAL * 3).await;
        assert_eq!(owner.done.load(Ordering::SeqCst), 2);
        assert!(!owner.task.is_running());
        add_work(&owner);
        sleep(INTERVAL * 2).await;
        assert_eq!(owner.done.load(Ordering::SeqCst), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_round_that_panics_does_not_prevent_the_next_task() {
        let owner = Arc::new(Owner::default());
        owner.work.store(98, Ordering::SeqCst);
        add_work(&owner);
        sleep(INTERVAL * 2).await;
        assert!(!owner.task.is_running());
        owner.work.store(0, Ordering::SeqCst);
        add_work(&owner);
        sleep(INTERVAL * 2).await;
        assert_eq!(owner.done.load(Ordering::SeqCst), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn ends_with_its_owner() {
        let owner = Arc::new(Owner::default());
        add_work(&owner);
        let weak = Arc::downgrade(&owner);
        drop(owner);
        sleep(INTERVAL * 2).await;
        assert!(weak.upgrade().is_none());
    }

    #[test]
    fn does_not_start_outside_of_a_runtime() {
        let owner = Arc::new(Owner::default());
        assert!(!add_work(&owner) && !owner.task.is_running());
    }
}
