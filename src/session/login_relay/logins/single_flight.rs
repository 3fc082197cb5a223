//! Runs at most one login for each session and node at a time.
//!
//! Kylin 5 locks a user after three wrong passwords, and a directory behind Kylin may do the same.
//! Each login therefore runs in a task of its own, which a client that disconnects does not cancel.
//! Requests that need the same login wait for that task. Logins with the same credentials run one
//! after the other, so that the first refusal prevents the others.

use std::sync::{Arc, Weak};

use ahash::AHashMap;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::LoginOutcome;
use crate::endpoint::EndpointId;
use crate::session::SessionKey;

/// A session and the endpoint where it is logged in.
type FlightKey = (SessionKey, EndpointId);

/// Serialises the logins with the same credentials.
type LoginLock = tokio::sync::Mutex<()>;

/// The number of locks from which unused ones are removed.
const MAX_UNUSED_LOCKS: usize = 1024;

#[derive(Default)]
pub(in super::super) struct SingleFlight {
    running: Mutex<AHashMap<FlightKey, watch::Receiver<Option<LoginOutcome>>>>,
    locks: Mutex<AHashMap<SessionKey, Weak<LoginLock>>>,
}

impl SingleFlight {
    /// Runs `login` for the session `key` at `endpoint`, or waits for a running login. `login` has
    /// its own timeout.
    pub(super) async fn run<F>(
        self: &Arc<Self>,
        key: SessionKey,
        endpoint: &EndpointId,
        login: impl FnOnce() -> F,
    ) -> LoginOutcome
    where
        F: Future<Output = LoginOutcome> + Send + 'static,
    {
        let key = (key, endpoint.clone());
        let mut outcome = {
            let mut running = self.running.lock();
            match running.get(&key) {
                Some(outcome) => outcome.clone(),
                None => {
                    let (sender, outcome) = watch::channel(None);
                    running.insert(key.clone(), outcome.clone());
                    let guard = FlightGuard { flights: Arc::clone(self), key };
                    let login = login();
                    tokio::spawn(async move {
                        let outcome = login.await;
                        // No request joins this flight once its outcome is known.
                        drop(guard);
                        sender.send_replace(Some(outcome));
                    });
                    outcome
                }
            }
        };
        // An error means that the task panicked, or was cancelled with its runtime.
        let outcome = outcome.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
        outcome.unwrap_or(LoginOutcome::UNREACHABLE)
    }

    /// Returns the lock for logins with these credentials.
    pub(super) fn lock(&self, credentials: SessionKey) -> Arc<LoginLock> {
        let mut locks = self.locks.lock();
        if let Some(lock) = locks.get(&credentials).and_then(Weak::upgrade) {
            return lock;
        }
        if locks.len() >= MAX_UNUSED_LOCKS {
            locks.retain(|_, lock| lock.strong_count() > 0);
        }
        let lock = Arc::new(LoginLock::default());
        locks.insert(credentials, Arc::downgrade(&lock));
        lock
    }
}

/// Removes a flight when its task ends, even by a panic.
struct FlightGuard {
    flights: Arc<SingleFlight>,
    key: FlightKey,
}

impl Drop for FlightGuard {
    fn drop(&mut self) {
        self.flights.running.lock().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Semaphore;

    use super::*;

    fn key(n: u8) -> SessionKey {
        SessionKey::from_bytes([n; 16])
    }

    fn endpoint(id: &str) -> EndpointId {
        EndpointId::new(id).unwrap()
    }

    #[tokio::test]
    async fn concurrent_requests_cause_one_login_per_session_and_node() {
        let (flights, logins) = (Arc::<SingleFlight>::default(), Arc::<AtomicUsize>::default());
        let open = Arc::new(Semaphore::new(0));
        let wait = |session: u8, node: &'static str| {
            let (flights, logins, open) = (flights.clone(), logins.clone(), open.clone());
            tokio::spawn(async move {
                let login = || async move {
                    logins.fetch_add(1, Ordering::SeqCst);
                    let _ = open.acquire().await.unwrap();
                    LoginOutcome::SessionGone
                };
                flights.run(key(session), &endpoint(node), login).await
            })
        };
        let waiting: Vec<_> = (0..60).map(|n| wait(n % 2, ["q1", "q2", "q3"][usize::from(n) / 2 % 3])).collect();
        while logins.load(Ordering::SeqCst) < 6 {
            tokio::task::yield_now().await;
        }
        open.add_permits(6);
        for waiting in waiting {
            assert!(matches!(waiting.await.unwrap(), LoginOutcome::SessionGone));
        }
        assert_eq!(logins.load(Ordering::SeqCst), 6);
        assert!(flights.running.lock().is_empty());
    }

    #[tokio::test]
    async fn a_cancelled_request_does_not_cancel_the_login() {
        let flights = Arc::<SingleFlight>::default();
        let open = Arc::new(Semaphore::new(0));
        let login = |open: Arc<Semaphore>| {
            move || async move {
                let _ = open.acquire().await.unwrap();
                LoginOutcome::SessionGone
            }
        };
        let q1 = endpoint("q1");
        let mut first = Box::pin(flights.run(key(1), &q1, login(open.clone())));
        assert!(poll_once(&mut first).await.is_none());
        drop(first);
        open.add_permits(1);
        let second = flights.run(key(1), &q1, || async { panic!("a second login") }).await;
        assert!(matches!(second, LoginOutcome::SessionGone));
    }

    /// Polls `future` once.
    async fn poll_once<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        std::future::poll_fn(|cx| match std::pin::Pin::new(&mut *future).poll(cx) {
            std::task::Poll::Ready(output) => std::task::Poll::Ready(Some(output)),
            std::task::Poll::Pending => std::task::Poll::Ready(None),
        })
        .await
    }

    #[tokio::test]
    async fn a_login_that_panics_leaves_no_request_waiting() {
        let flights = Arc::<SingleFlight>::default();
        let broken = flights.run(key(1), &endpoint("q1"), || async { panic!("on purpose") }).await;
        assert!(matches!(broken, LoginOutcome::NotReady(_)));
        assert!(flights.running.lock().is_empty());
    }

    #[test]
    fn unused_locks_are_removed() {
        let flights = SingleFlight::default();
        let kept = flights.lock(key(0));
        for n in 0..5000_u32 {
            let mut bytes = [1; 16];
            bytes[..4].copy_from_slice(&n.to_be_bytes());
            drop(flights.lock(SessionKey::from_bytes(bytes)));
        }
        assert!(flights.locks.lock().len() <= 1025);
        assert!(Arc::ptr_eq(&kept, &flights.lock(key(0))));
    }
}
