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

/// Front ends of several versions share a store. The key is made with `hmac` of Python.
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
    one.remove(one.key(b"A"));
    tokio::task::yield_now().await;
    clock.advance(Duration::from_millis(1100));
    assert_eq!(find(&two, b"A").await, None);
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

/// Fails until `works` is set, and counts operations.
#[derive(Debug, Default)]
struct Failing {
    works: std::sync::atomic::AtomicBool,
    operations: AtomicUsize,
}

impl Failing {
    fn respond<T>(&self, response: T) -> StoreFuture<'_, T> {
        self.operations.fetch_add(1, Ordering::SeqCst);
        let works = self.works.load(Ordering::SeqCst);
        StoreFuture::Ready(if works { Ok(response) } else { Err(StoreError::Unavailable("it is down".into())) })
    }
}

impl SessionStore for Arc<Failing> {
    fn load<'a>(&'a self, _: &'a SessionKey) -> StoreFuture<'a, Option<Stored>> {
        self.respond(None)
    }

    fn save<'a>(
        &'a self,
        _: &'a SessionKey,
        _: &'a SessionRecord,
        _: Precondition,
        _: Duration,
    ) -> StoreFuture<'a, SaveOutcome> {
        self.respond(SaveOutcome::Stored(1))
    }

    fn touch<'a>(&'a self, _: &'a SessionKey, _: Duration) -> StoreFuture<'a, ()> {
        self.respond(())
    }

    fn remove<'a>(&'a self, _: &'a SessionKey) -> StoreFuture<'a, ()> {
        self.respond(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_probes_the_store_while_it_is_unavailable_and_a_handle_exists() {
    let store = Arc::new(Failing::default());
    let sessions = Sessions::remote(Arc::clone(&store), secret(1));
    let metrics = tokio::runtime::Handle::current().metrics();
    let fail = async || {
        for _ in 0..5 {
            assert_eq!(find(&sessions, b"A").await, None);
        }
        assert!(!sessions.is_store_available());
    };
    fail().await;
    let before = store.operations.load(Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(10_500)).await;
    assert_eq!(store.operations.load(Ordering::SeqCst) - before, 10, "once a second, without any request");

    store.works.store(true, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(sessions.is_store_available() && metrics.num_alive_tasks() == 0, "available again");

    store.works.store(false, Ordering::SeqCst);
    fail().await;
    assert_eq!(metrics.num_alive_tasks(), 1, "unavailable again");
    drop(sessions);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!((metrics.num_alive_tasks(), Arc::strong_count(&store)), (0, 1), "no handle is left");
}

#[cfg(feature = "login-relay")]
#[tokio::test(start_paused = true)]
async fn a_session_that_was_logged_out_while_the_store_is_unavailable_stays_logged_out() {
    for restore in [RestoreAfterLoss::Alone, RestoreAfterLoss::Shared] {
        let store = Arc::new(Failing::default());
        let sessions = Sessions::builder(Arc::clone(&store), secret(1)).restore_after_loss(restore).build().unwrap();
        let (client, key, precondition) = (ClientAddr::Unix, sessions.key(b"A"), Precondition::Absent);
        let record = SessionRecord::default().with_sealed(bytes::Bytes::from_static(b"login"));
        assert!(sessions.save(client, key, record.clone(), precondition, TTL).await.is_bound());
        sessions.end_now(key, TTL).await;
        assert_eq!(sessions.save(client, key, record.clone(), precondition, TTL).await, Lookup::Absent);
        // A request that was in flight meanwhile.
        let lookup = Lookup::Found(record.clone(), Some(1));
        sessions.store.remember(client, &key, &lookup, sessions.store.loss_epoch(), true);
        let end =
            |sessions: &Sessions| !matches!(sessions.store.pending.get(&key), Some((Write::Save { .. }, _)) | None);
        sessions.store.pending.push(key, Write::Save { client, record, precondition, ttl: TTL });
        assert!(end(&sessions) && !sessions.find(client, key, b"A", Some(TTL)).await.is_bound());
        assert!(!sessions.find_fresh(client, key, Some(TTL)).await.is_bound());
        // A binding has no logout: it may be saved again after it was removed.
        let other = sessions.key(b"B");
        sessions.store.pending.push(other, Write::Remove);
        sessions.store.pending.push(other, Write::Save { client, record: bound("q1"), precondition, ttl: TTL });
        assert!(matches!(sessions.store.pending.get(&other), Some((Write::Save { .. }, _))));
    }
}

#[test]
fn the_end_of_a_session_takes_the_place_of_a_binding_when_too_many_writes_are_pending() {
    let pending = PendingWrites::default();
    let key = |n: u32| SessionKey::from_bytes(u128::from(n).to_be_bytes());
    let bind =
        || Write::Save { client: ClientAddr::Unix, record: bound("q1"), precondition: Precondition::Absent, ttl: TTL };
    let max = 100_000;
    (0..max + 5).for_each(|n| pending.push(key(n), bind()));
    assert_eq!((pending.len(), pending.dropped()), (100_000, 5));
    (max..max + 100).for_each(|n| pending.push(key(n), Write::End { ttl: TTL }));
    pending.push(key(2 * max), Write::Remove);
    assert!((max..max + 100).all(|n| matches!(pending.get(&key(n)), Some((Write::End { .. }, _)))));
    assert!(matches!(pending.get(&key(2 * max)), Some((Write::Remove, _))));
    assert_eq!((pending.len(), pending.dropped()), (100_000, 106));
    // A binding does not come back in the place of an end.
    pending.push(key(3 * max), bind());
    assert!(pending.get(&key(3 * max)).is_none());
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
            // Each cookie is used once more, and one that no node has issued is looked up.
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

#[cfg(all(feature = "login-relay", feature = "test-util"))]
#[tokio::test(start_paused = true)]
async fn another_secret_forgets_neither_logouts_nor_sessions_of_an_outage() {
    use crate::testing::{FailingStore, StoreFault};

    let store = FailingStore::new();
    let builder = Sessions::builder(store.clone(), secret(1)).restore_after_loss(RestoreAfterLoss::Alone);
    let (sessions, client) = (builder.build().unwrap(), ClientAddr::Unix);
    // Sessions of the login relay, which keep their keys.
    let (ended, new) = (sessions.key(b"A"), sessions.key(b"B"));
    let record = SessionRecord::default().with_sealed(bytes::Bytes::from_static(b"login"));
    assert!(sessions.save(client, ended, record.clone(), Precondition::Absent, TTL).await.is_bound());
    store.set_fault(Some(StoreFault::Fails));
    sessions.end_now(ended, TTL).await;
    assert!(sessions.save(client, new, record, Precondition::Absent, TTL).await.is_bound());
    // Twice, because the writes that wait are those of the first.
    let rotated = sessions.with_secret(&secret(2)).with_secret(&secret(3));
    drop(sessions);
    let find = async |key| rotated.find(client, key, b"id", Some(TTL)).await.is_bound();
    assert!(!find(ended).await);
    store.set_fault(None);
    assert!(!find(ended).await, "the record is still in the store");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(!find(ended).await && find(new).await, "the writes were made");
}

/// A session is changed while the store is unavailable, and another front end ends it as soon as the store works again.
#[cfg(all(feature = "login-relay", feature = "test-util"))]
#[tokio::test(start_paused = true)]
async fn a_change_of_a_session_that_another_front_end_has_ended_does_not_make_it_again() {
    use crate::testing::{FailingStore, StoreFault};

    let record =
        |login: &'static str| SessionRecord::default().with_sealed(bytes::Bytes::from_static(login.as_bytes()));
    for restore in [RestoreAfterLoss::Never, RestoreAfterLoss::Shared] {
        for is_pending in [true, false] {
            let store = FailingStore::new();
            let front = || Sessions::builder(store.clone(), secret(1)).restore_after_loss(restore).build().unwrap();
            let (one, two, client) = (front(), front(), ClientAddr::Unix);
            let key = one.key(b"A");
            let saved = two.save(client, key, record("first"), Precondition::Absent, TTL).await;
            let Lookup::Found(_, Some(version)) = saved else { panic!("{saved:?}") };
            store.set_fault(Some(StoreFault::Fails));
            assert!(matches!(
                two.replace(client, key, record("second"), Some(version), TTL).await,
                Lookup::Found(_, None)
            ));
            // While the store does not work, the last change counts.
            assert!(two.replace(client, key, record("third"), None, TTL).await.is_bound());
            store.set_fault(None);
            one.end_now(key, TTL).await;
            if !is_pending {
                tokio::time::sleep(Duration::from_secs(60)).await;
            }
            two.replace(client, key, record("fourth"), None, TTL).await;
            tokio::time::sleep(Duration::from_secs(60)).await;
            assert_eq!(two.pending_writes(), 0);
            for front in [&one, &two] {
                let found = front.find(client, key, b"A", Some(TTL)).await;
                let is_alive = matches!(&found, Lookup::Found(record, _) if *record != super::ended::tombstone());
                assert!(!is_alive, "{restore:?} {is_pending}: {found:?}");
            }
        }
    }
}

/// Without a logout, the last change is stored when the store works again.
#[cfg(all(feature = "login-relay", feature = "test-util"))]
#[tokio::test(start_paused = true)]
async fn the_last_change_of_a_session_during_an_outage_is_stored() {
    use crate::testing::{FailingStore, StoreFault};

    let record =
        |login: &'static str| SessionRecord::default().with_sealed(bytes::Bytes::from_static(login.as_bytes()));
    let store = FailingStore::new();
    let (front, client) = (Sessions::remote(store.clone(), secret(1)), ClientAddr::Unix);
    let key = front.key(b"A");
    store.set_fault(Some(StoreFault::Fails));
    assert!(front.save(client, key, record("new"), Precondition::Absent, TTL).await.is_bound());
    assert!(front.replace(client, key, record("changed"), None, TTL).await.is_bound());
    store.set_fault(None);
    tokio::time::sleep(Duration::from_secs(60)).await;
    let stored = store.records().load(&key).await.unwrap().unwrap();
    assert_eq!(stored.record, record("changed"));
    // A change by a request that has the record of the outage finds that of the store, and is made anew.
    assert_eq!(
        front.replace(client, key, record("later"), None, TTL).await,
        Lookup::Found(record("changed"), Some(stored.version))
    );
}

#[test]
fn a_later_write_of_a_session_that_the_store_no_longer_has_is_dropped() {
    let pending = PendingWrites::default();
    let (key, version) = (SessionKey::from_bytes([7; 16]), Precondition::Version(1));
    let save = |record| Write::Save { client: ClientAddr::Unix, record, precondition: version, ttl: TTL };
    let login = SessionRecord::default().with_sealed(bytes::Bytes::from_static(b"login"));
    for (record, is_dropped) in [(login, true), (bound("q1"), false)] {
        pending.push(key, save(record.clone()));
        let (_, number) = pending.get(&key).unwrap();
        pending.push(key, save(record));
        assert_eq!(pending.complete(&key, number, None), is_dropped);
        assert_eq!(pending.len(), usize::from(!is_dropped));
    }
}
