//! Computes hashes of passwords outside the threads that serve requests, a few at a time.

use std::sync::{Arc, LazyLock};

use tokio::sync::Semaphore;

/// The maximum number of hashes that this process computes at a time. More hashes could leave no
/// core for other requests.
const MAX_RUNNING: usize = 2;

/// The maximum number of requests that wait for a hash.
const MAX_WAITING: usize = 512;

/// The hashes that run, and the requests that wait for one. Clones share them.
#[derive(Clone)]
pub(super) struct Hashing {
    running: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

impl Hashing {
    /// Returns the instance of this process. All password files share it, because each location may
    /// have a file, and a reload makes new ones.
    pub(super) fn of_process() -> Self {
        static HASHING: LazyLock<Hashing> = LazyLock::new(Hashing::new);
        HASHING.clone()
    }

    pub(super) fn new() -> Self {
        Hashing { running: Arc::new(Semaphore::new(MAX_RUNNING)), waiting: Arc::new(Semaphore::new(MAX_WAITING)) }
    }

    /// Stops further requests from waiting.
    #[cfg(test)]
    pub(super) fn close(&self) {
        self.waiting.close();
    }

    /// Runs `hash` once fewer than [`MAX_RUNNING`] run. Returns `None` if too many requests already
    /// wait.
    ///
    /// A hash that has begun cannot be cancelled, so it counts until it ends, even if the future is
    /// dropped meanwhile.
    pub(super) async fn run<R: Send + 'static>(&self, hash: impl FnOnce() -> R + Send + 'static) -> Option<R> {
        let waiting = self.waiting.try_acquire().ok()?;
        let running = Arc::clone(&self.running).acquire_owned().await.ok()?;
        drop(waiting);
        let hash = move || {
            let _running = running;
            hash()
        };
        tokio::task::spawn_blocking(hash).await.ok()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::Pin;
    use std::sync::mpsc;
    use std::task::Poll;

    use super::*;

    /// Polls each future once. Returns how many are pending.
    async fn poll_all<R>(futures: &mut [impl Future<Output = Option<R>> + Unpin]) -> usize {
        poll_fn(|cx| {
            let pending = futures.iter_mut().map(|future| Pin::new(future).poll(cx).is_pending());
            Poll::Ready(pending.filter(|is_pending| *is_pending).count())
        })
        .await
    }

    #[tokio::test]
    async fn a_hash_whose_client_left_still_counts_among_those_that_run() {
        let hashing = Hashing::new();
        let (begin, begun) = mpsc::channel();
        let (end, ends) = mpsc::channel::<()>();
        let ends = Arc::new(parking_lot::Mutex::new(ends));
        let hash = |number: usize| {
            let (hashing, begin, ends) = (hashing.clone(), begin.clone(), Arc::clone(&ends));
            Box::pin(async move {
                let hash = move || {
                    _ = begin.send(number);
                    _ = ends.lock().recv();
                };
                hashing.run(hash).await
            })
        };
        for round in 0..10 {
            let mut requests: Vec<_> = (0..MAX_RUNNING).map(|number| hash(round * MAX_RUNNING + number)).collect();
            assert_eq!(poll_all(&mut requests).await, MAX_RUNNING);
            // The clients leave.
        }
        let mut first: Vec<_> = begun.iter().take(MAX_RUNNING).collect();
        first.sort_unstable();
        assert_eq!(first, Vec::from_iter(0..MAX_RUNNING));
        assert_eq!(hashing.running.available_permits(), 0);
        let mut waiting = [hash(1000)];
        assert_eq!(poll_all(&mut waiting).await, 1);
        assert!(begun.try_recv().is_err(), "two run");
        for _ in 0..=MAX_RUNNING {
            end.send(()).unwrap();
        }
        let [waiting] = waiting;
        assert_eq!(waiting.await, Some(()));
        assert_eq!(begun.try_iter().collect::<Vec<_>>(), [1000], "no hash ran whose client had left before");
    }

    #[tokio::test]
    async fn one_request_more_than_may_wait_runs_no_hash() {
        let hashing = Hashing::new();
        let held = hashing.running.acquire_many(MAX_RUNNING as u32).await.unwrap();
        let mut requests: Vec<_> = (0..=MAX_WAITING).map(|number| Box::pin(hashing.run(move || number))).collect();
        assert_eq!(poll_all(&mut requests).await, MAX_WAITING);
        requests.pop();
        drop(held);
        for (number, request) in requests.into_iter().enumerate() {
            assert_eq!(request.await, Some(number));
        }
    }
}
