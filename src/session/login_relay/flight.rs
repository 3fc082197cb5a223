//! One login for all who wait for it, and no second one with credentials that were refused.
//!
//! Kylin 5 locks a user after three wrong passwords, and a directory behind Kylin may do the same. So a login runs in a task of
//! its own, which a client that goes away does not end; whoever needs the same login waits for the same task; logins with
//! the same credentials follow one another, so that the first refusal stops all others.

use std::sync::{Arc, Weak};

use ahash::AHashMap;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::login::Outcome;
use crate::endpoint::EndpointId;
use crate::session::SessionKey;
use crate::session::store::latest::Latest;

/// Which session is logged in at which endpoint.
type Flight = (SessionKey, EndpointId);

/// Logins under way, and credentials that were refused.
#[derive(Default)]
pub(super) struct Flights {
    under_way: Mutex<AHashMap<Flight, watch::Receiver<Option<Outcome>>>>,
    gates: Mutex<AHashMap<SessionKey, Weak<Gate>>>,
    refused: Mutex<Latest<SessionKey, ()>>,
}

/// Lets one login with the same credentials through at a time.
pub(super) type Gate = tokio::sync::Mutex<()>;

/// How many refused credentials are remembered.
const REFUSED: usize = 10_000;

impl Flights {
    /// What comes of `login` into the session under `key` at `endpoint`, or of the same login if it is under way already.
    /// `login` has a deadline of its own.
    pub(super) async fn once<F>(
        self: &Arc<Self>,
        key: SessionKey,
        endpoint: &EndpointId,
        login: impl FnOnce() -> F,
    ) -> Outcome
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        let mut outcome = {
            let mut under_way = self.under_way.lock();
            match under_way.get(&(key, endpoint.clone())) {
                Some(outcome) => outcome.clone(),
                None => {
                    let (tell, outcome) = watch::channel(None);
                    under_way.insert((key, endpoint.clone()), outcome.clone());
                    let landing = Landing { flights: Arc::clone(self), at: (key, endpoint.clone()) };
                    let login = login();
                    tokio::spawn(async move {
                        let outcome = login.await;
                        // First nobody finds the flight any more, then those who did are told.
                        drop(landing);
                        tell.send_replace(Some(outcome));
                    });
                    outcome
                }
            }
        };
        // An error means that the task was ended with its runtime.
        let outcome = outcome.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
        outcome.unwrap_or(Outcome::UNREACHABLE)
    }

    /// What logins with these credentials wait at for each other.
    pub(super) fn gate(&self, credentials: SessionKey) -> Arc<Gate> {
        let mut gates = self.gates.lock();
        if let Some(gate) = gates.get(&credentials).and_then(Weak::upgrade) {
            return gate;
        }
        if gates.len() >= 1024 {
            gates.retain(|_, gate| gate.strong_count() > 0);
        }
        let gate = Arc::new(Gate::default());
        gates.insert(credentials, Arc::downgrade(&gate));
        gate
    }

    pub(super) fn is_refused(&self, credentials: &SessionKey) -> bool {
        self.refused.lock().get(credentials).is_some()
    }

    pub(super) fn refuse(&self, credentials: SessionKey) {
        self.refused.lock().put(credentials, (), REFUSED);
    }

    /// The credentials were accepted. True when they were refused before.
    pub(super) fn accept(&self, credentials: &SessionKey) -> bool {
        self.refused.lock().remove(credentials)
    }
}

/// Takes a flight off the list when it has ended, however it did.
struct Landing {
    flights: Arc<Flights>,
    at: Flight,
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.flights.under_way.lock().remove(&self.at);
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
    async fn many_who_wait_cause_one_login_per_session_and_node() {
        let (flights, logins) = (Arc::<Flights>::default(), Arc::<AtomicUsize>::default());
        let open = Arc::new(Semaphore::new(0));
        let wait = |session: u8, node: &'static str| {
            let (flights, logins, open) = (flights.clone(), logins.clone(), open.clone());
            tokio::spawn(async move {
                let login = || async move {
                    logins.fetch_add(1, Ordering::SeqCst);
                    let _ = open.acquire().await.unwrap();
                    Outcome::Gone
                };
                flights.once(key(session), &endpoint(node), login).await
            })
        };
        let waiting: Vec<_> = (0..60).map(|n| wait(n % 2, ["q1", "q2", "q3"][usize::from(n) / 2 % 3])).collect();
        while logins.load(Ordering::SeqCst) < 6 {
            tokio::task::yield_now().await;
        }
        open.add_permits(6);
        for waiting in waiting {
            assert!(matches!(waiting.await.unwrap(), Outcome::Gone));
        }
        assert_eq!(logins.load(Ordering::SeqCst), 6);
        assert!(flights.under_way.lock().is_empty());
    }

    #[tokio::test]
    async fn a_client_that_goes_away_ends_no_login() {
        let flights = Arc::<Flights>::default();
        let open = Arc::new(Semaphore::new(0));
        let login = |open: Arc<Semaphore>| {
            move || async move {
                let _ = open.acquire().await.unwrap();
                Outcome::Gone
            }
        };
        let q1 = endpoint("q1");
        let mut first = Box::pin(flights.once(key(1), &q1, login(open.clone())));
        assert!(futures_poll(&mut first).await.is_none());
        drop(first);
        open.add_permits(1);
        let second = flights.once(key(1), &q1, || async { panic!("a second login") }).await;
        assert!(matches!(second, Outcome::Gone));
    }

    /// One poll of `future`.
    async fn futures_poll<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        std::future::poll_fn(|cx| match std::pin::Pin::new(&mut *future).poll(cx) {
            std::task::Poll::Ready(output) => std::task::Poll::Ready(Some(output)),
            std::task::Poll::Pending => std::task::Poll::Ready(None),
        })
        .await
    }

    #[tokio::test]
    async fn a_login_that_breaks_leaves_nobody_waiting() {
        let flights = Arc::<Flights>::default();
        let broken = flights.once(key(1), &endpoint("q1"), || async { panic!("on purpose") }).await;
        assert!(matches!(broken, Outcome::Unready(_)));
        assert!(flights.under_way.lock().is_empty());
    }

    #[test]
    fn refused_credentials_are_remembered_until_they_are_accepted() {
        let flights = Flights::default();
        flights.refuse(key(1));
        assert!(flights.is_refused(&key(1)) && !flights.is_refused(&key(2)));
        assert!(flights.accept(&key(1)) && !flights.accept(&key(1)));
        assert!(!flights.is_refused(&key(1)));
    }

    #[test]
    fn gates_of_credentials_that_nobody_uses_go() {
        let flights = Flights::default();
        let kept = flights.gate(key(0));
        for n in 0..5000_u32 {
            let mut bytes = [1; 16];
            bytes[..4].copy_from_slice(&n.to_be_bytes());
            drop(flights.gate(SessionKey::from_bytes(bytes)));
        }
        assert!(flights.gates.lock().len() <= 1025);
        assert!(Arc::ptr_eq(&kept, &flights.gate(key(0))));
    }
}
