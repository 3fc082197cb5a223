//! The sessions while the store does not work, and the writes once it works again.

use super::*;

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
    // A binding does not replace an end.
    pending.push(key(3 * max), bind());
    assert!(pending.get(&key(3 * max)).is_none());
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

/// A session is changed while the store is unavailable. Another front end ends it as soon as the
/// store works again.
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
            // While the store does not work, the last change wins.
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

/// Without a logout, the last change is stored once the store works again.
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
    // A request that changes the session, and has the record from the outage, finds the record of
    // the store and repeats its change.
    assert_eq!(
        front.replace(client, key, record("later"), None, TTL).await,
        Lookup::Found(record("changed"), Some(stored.version))
    );
}

#[test]
fn a_later_write_of_a_session_that_the_store_no_longer_has_is_dropped() {
    let pending = PendingWrites::default();
    let version = Precondition::Version(1);
    let save = |record| Write::Save { client: ClientAddr::Unix, record, precondition: version, ttl: TTL };
    let login = SessionRecord::default().with_sealed(bytes::Bytes::from_static(b"login"));
    let cases = [
        (login.clone(), Written::Gone, true),
        (bound("q1"), Written::Gone, false),
        // A record that the store does not accept says nothing about the session.
        (login, Written::Refused, false),
    ];
    for (number, (record, written, is_dropped)) in (0..).zip(cases) {
        let key = SessionKey::from_bytes([number; 16]);
        pending.push(key, save(record.clone()));
        let (_, number) = pending.get(&key).unwrap();
        pending.push(key, save(record));
        assert_eq!(pending.complete(&key, number, written), is_dropped);
        assert_eq!(pending.get(&key).is_none(), is_dropped);
        if written == Written::Refused {
            let kept = pending.get(&key).map(|(write, _)| write);
            assert!(matches!(kept, Some(Write::Save { precondition: Precondition::Version(1), .. })));
        }
    }
}
