mod outage;

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::clock::ManualClock;
use crate::endpoint::EndpointId;
use crate::maybe_ready::MaybeReady;
use crate::session::{MemoryStore, Secret};

fn secret(n: u8) -> Secret {
    Secret::new([n; 32])
}

fn bound(id: &str) -> SessionRecord {
    SessionRecord::bound(EndpointId::new(id).unwrap())
}

const TTL: Duration = Duration::from_secs(600);

async fn bind(sessions: &Sessions, id: &[u8], endpoint: &str) -> Lookup {
    sessions.save(ClientAddr::Unix, sessions.key(id), bound(endpoint), Precondition::Absent, TTL).await
}

async fn find(sessions: &Sessions, id: &[u8]) -> Option<String> {
    match sessions.find(ClientAddr::Unix, sessions.key(id), id, Some(TTL)).await {
        Lookup::Found(record, _) | Lookup::UnderOldKey(record) => record.endpoint().map(ToString::to_string),
        _ => None,
    }
}

#[test]
fn keys_differ_by_secret_and_by_id() {
    let (one, two) = (Sessions::local(MemoryStore::new(), secret(1)), Sessions::local(MemoryStore::new(), secret(2)));
    assert_eq!(one.key(b"A"), Sessions::remote(MemoryStore::new(), secret(1)).key(b"A"));
    assert_ne!(one.key(b"A"), two.key(b"A"));
    assert_ne!(one.key(b"A"), one.key(b"B"));
}

/// Front ends of several versions share a store. The expected key was computed with Python's
/// `hmac`.
#[test]
fn a_key_is_that_of_other_versions() {
    let secret = Secret::new(std::array::from_fn(|index| index as u8));
    let key = Sessions::remote(MemoryStore::new(), secret).key(b"A1B2C3");
    assert_eq!(key.to_hex(), "9547c79fb757c43b541ce9aaecd9bd40");
}

#[test]
fn a_store_in_this_process_responds_at_once() {
    let sessions = Sessions::local(MemoryStore::new(), secret(1));
    let key = sessions.key(b"A");
    assert!(matches!(sessions.find(ClientAddr::Unix, key, b"A", Some(TTL)), MaybeReady::Ready(Lookup::Absent)));
    assert!(matches!(
        sessions.save(ClientAddr::Unix, key, bound("q1"), Precondition::Absent, TTL),
        MaybeReady::Ready(Lookup::Found(..))
    ));
    assert!(matches!(sessions.find(ClientAddr::Unix, key, b"A", Some(TTL)), MaybeReady::Ready(Lookup::Found(..))));
    sessions.remove(key);
    assert!(matches!(sessions.find(ClientAddr::Unix, key, b"A", Some(TTL)), MaybeReady::Ready(Lookup::Absent)));
}

#[test]
fn a_near_cache_that_cannot_hold_one_session_is_an_error() {
    let builder = |bytes| {
        let (entries, bytes) = (NonZeroUsize::MIN, NonZeroUsize::new(bytes).unwrap());
        Sessions::builder(MemoryStore::new(), secret(1)).near_cache(entries, bytes).build()
    };
    assert!(builder(17_407).is_err() && builder(17_408).is_ok());
}

#[tokio::test]
async fn the_loser_of_a_race_receives_the_record_of_the_winner() {
    let store = MemoryStore::new();
    let (one, two) = (Sessions::remote(store.clone(), secret(1)), Sessions::remote(store, secret(1)));
    bind(&one, b"A", "q1").await;
    assert!(matches!(bind(&two, b"A", "q2").await, Lookup::Found(record, Some(_)) if record == bound("q1")));
    assert_eq!(find(&two, b"A").await.as_deref(), Some("q1"));
}

#[tokio::test]
async fn the_near_cache_serves_entries_up_to_the_staleness() {
    let (store, clock) = (MemoryStore::new(), ManualClock::new());
    let one = Sessions::builder(store.clone(), secret(1)).clock(clock.clone()).build().unwrap();
    let two = Sessions::builder(store, secret(1)).clock(clock.clone()).staleness(Duration::from_secs(1));
    let two = two.build().unwrap();
    let Lookup::Found(_, Some(version)) = bind(&one, b"A", "q1").await else { panic!("not bound") };
    assert_eq!(find(&two, b"A").await.as_deref(), Some("q1"));
    one.save(ClientAddr::Unix, one.key(b"A"), bound("q2"), Precondition::Version(version), TTL).await;
    assert!(
        matches!(two.find(ClientAddr::Unix, two.key(b"A"), b"A", Some(TTL)), MaybeReady::Ready(Lookup::Found(..))),
        "from the near cache"
    );
    clock.advance(Duration::from_millis(1100));
    assert_eq!(find(&two, b"A").await.as_deref(), Some("q2"));
}

/// The store was emptied, and its connections stay open.
#[tokio::test]
async fn a_binding_that_the_store_has_lost_is_written_again_when_it_is_used() {
    let (store, clock) = (MemoryStore::new(), ManualClock::new());
    let one = Sessions::builder(store.clone(), secret(1)).clock(clock.clone()).build().unwrap();
    let (used, moved) = (one.key(b"A"), one.key(b"B"));
    bind(&one, b"A", "q1").await;
    let Lookup::Found(_, Some(version)) = bind(&one, b"B", "q1").await else { panic!("not bound") };
    store.remove(&used).await.unwrap();
    store.remove(&moved).await.unwrap();
    clock.advance(Duration::from_secs(4));
    assert_eq!(find(&one, b"A").await.as_deref(), Some("q1"));
    one.save(ClientAddr::Unix, moved, bound("q2"), Precondition::Version(version), TTL).await;
    let other = Sessions::remote(store, secret(1));
    assert_eq!(find(&other, b"A").await.as_deref(), Some("q1"));
    assert_eq!(find(&other, b"B").await.as_deref(), Some("q2"));
}

#[tokio::test]
async fn sessions_under_a_previous_secret_are_found() {
    let store = MemoryStore::new();
    bind(&Sessions::remote(store.clone(), secret(1)), b"A", "q1").await;
    let rotated = Sessions::remote(store.clone(), secret(2).with_previous(secret(1)));
    let found = rotated.find(ClientAddr::Unix, rotated.key(b"A"), b"A", Some(TTL)).await;
    assert_eq!(found, Lookup::UnderOldKey(bound("q1")), "to be saved under the new one");
    assert_eq!(find(&Sessions::remote(store, secret(2)), b"A").await, None);
}

#[cfg(feature = "login-relay")]
#[tokio::test]
async fn one_of_several_front_ends_gets_a_claim() {
    let (entries, bytes) = (NonZeroUsize::new(100).unwrap(), NonZeroUsize::new(1 << 20).unwrap());
    let clock = ManualClock::new();
    let store = MemoryStore::with_clock(entries, bytes, clock.clone());
    let [one, two] = [(); 2].map(|()| Sessions::remote(store.clone(), secret(1)));
    let key = one.key(b"A");
    assert!(one.claim(key, TTL).await && !two.claim(key, TTL).await && !one.claim(key, TTL).await);
    let longer = TTL + Duration::from_millis(1);
    clock.advance(longer);
    assert!(two.claim(key, TTL).await && !one.claim(key, TTL).await);
    two.extend_claim(key, 2 * TTL).await;
    clock.advance(longer);
    assert!(!one.claim(key, TTL).await);
    clock.advance(longer);
    assert!(one.claim(key, TTL).await);
}

/// Counts touches and never fails.
#[derive(Debug, Default)]
struct TouchCounter(AtomicUsize);

impl SessionStore for Arc<TouchCounter> {
    fn load<'a>(&'a self, _: &'a SessionKey) -> StoreFuture<'a, Option<Stored>> {
        StoreFuture::Ready(Ok(None))
    }

    fn save<'a>(
        &'a self,
        _: &'a SessionKey,
        _: &'a SessionRecord,
        _: Precondition,
        _: Duration,
    ) -> StoreFuture<'a, SaveOutcome> {
        StoreFuture::Ready(Ok(SaveOutcome::Stored(1)))
    }

    fn touch<'a>(&'a self, _: &'a SessionKey, _: Duration) -> StoreFuture<'a, ()> {
        self.0.fetch_add(1, Ordering::SeqCst);
        StoreFuture::Ready(Ok(()))
    }

    fn remove<'a>(&'a self, _: &'a SessionKey) -> StoreFuture<'a, ()> {
        StoreFuture::Ready(Ok(()))
    }
}

#[tokio::test(start_paused = true)]
async fn background_tasks_end_with_the_last_handle_and_with_the_last_session_in_use() {
    let (store, clock) = (Arc::new(TouchCounter::default()), ManualClock::new());
    let sessions = Sessions::builder(Arc::clone(&store), secret(1)).clock(clock.clone()).build().unwrap();
    bind(&sessions, b"A", "q1").await;
    let (one, two) = (sessions.use_now(sessions.key(b"A"), TTL), sessions.use_now(sessions.key(b"A"), TTL));
    clock.advance(TTL / 4);
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(store.0.load(Ordering::SeqCst), 1, "once, for both");
    drop((one, two));
    clock.advance(TTL / 4);
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(store.0.load(Ordering::SeqCst), 1);
    let metrics = tokio::runtime::Handle::current().metrics();
    assert_eq!(metrics.num_alive_tasks(), 0, "no session is in use, no task runs");

    let again = sessions.use_now(sessions.key(b"A"), TTL);
    drop(sessions);
    drop(again);
    // The touch in progress ends at its deadline.
    tokio::time::sleep(Duration::from_millis(51)).await;
    assert_eq!(Arc::strong_count(&store), 1, "no task holds the sessions");
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(metrics.num_alive_tasks(), 0);
}

#[test]
fn a_deadline_of_zero_is_an_error() {
    let error = Sessions::builder(MemoryStore::new(), secret(1)).deadline(Duration::ZERO).build().unwrap_err();
    assert_eq!(error.to_string(), "session store, the deadline: expected more than zero");
}

/// Sessions in a store with a near cache, and sessions in memory.
#[tokio::test]
async fn a_client_that_makes_many_sessions_evicts_none_of_others() {
    const HONEST: u32 = 10_000;
    let near = NonZeroUsize::new(20_000).unwrap();
    let bytes = NonZeroUsize::new(8 << 20).unwrap();
    let remote = Arc::new(MemoryStore::bounded(near, bytes));
    let cached = Sessions::builder(Arc::clone(&remote) as Arc<dyn SessionStore>, secret(1)).near_cache(near, bytes);
    for sessions in [cached.build().unwrap(), Sessions::local(MemoryStore::bounded(near, bytes), secret(1))] {
        let client = |n: u32| ClientAddr::from(std::net::IpAddr::from(n.to_be_bytes()));
        let id = |n: u32| n.to_be_bytes();
        for n in 0..HONEST {
            let key = sessions.key(&id(n));
            sessions.save(client(n), key, bound("q1"), Precondition::Absent, TTL).await;
        }
        for n in 0..100_000 {
            let key = sessions.key(&id(HONEST + n));
            sessions.save(client(1 << 24), key, bound("q1"), Precondition::Absent, TTL).await;
            // Each cookie is used once more, and a cookie that no node has issued is looked up.
            sessions.find(client(1 << 24), key, &id(HONEST + n), Some(TTL)).await;
            sessions.find(client(1 << 24), sessions.key(b"invented"), b"invented", Some(TTL)).await;
        }
        let (mut near, mut kept) = (0, 0);
        for n in 0..HONEST {
            near += u32::from(sessions.store.near.is_none() || sessions.store.recall(&sessions.key(&id(n))).is_some());
            kept += u32::from(find(&sessions, &id(n)).await.is_some());
        }
        assert!(near >= HONEST / 100 * 99 && kept >= HONEST / 100 * 99, "{near} in the near cache, {kept} found");
    }
}
