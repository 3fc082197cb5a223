//! Checks for every store that front ends share, beyond the conformance suite of the library.

use std::sync::Arc;
use std::time::Duration;

use kylin_lb::EndpointId;
use kylin_lb::session::{self, Precondition, SaveOutcome, SessionKey, SessionRecord, SessionStore, StoreError, Stored};

/// Long enough for any test.
pub(crate) const TTL: Duration = Duration::from_secs(600);
/// The time limit for an operation on a store that is down.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(30);
/// The time limit for a store to become available again.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(60);

/// Opens the store at an address, like a front end.
pub(crate) fn front_end(url: &str) -> Arc<dyn SessionStore> {
    session::open(url).unwrap_or_else(|error| panic!("{error}"))
}

pub(crate) fn key(number: u128) -> SessionKey {
    SessionKey::from_bytes(number.to_be_bytes())
}

/// Makes a record that is bound to an endpoint of this name.
pub(crate) fn bound(endpoint: &str) -> SessionRecord {
    SessionRecord::bound(EndpointId::new(endpoint).expect("a valid id"))
}

/// Binds a new session.
pub(crate) async fn bind(
    store: &Arc<dyn SessionStore>,
    key: &SessionKey,
    endpoint: &str,
) -> Result<SaveOutcome, StoreError> {
    store.save(key, &bound(endpoint), Precondition::Absent, TTL).await
}

/// Two front ends bind the same new sessions at the same time, each to another endpoint. For every
/// session, one must write its record, and the other must receive that record.
pub(crate) async fn settle_concurrent_bindings(
    one: Arc<dyn SessionStore>,
    other: Arc<dyn SessionStore>,
    sessions: u128,
) {
    const CONCURRENCY: u128 = 32;
    let first = fastrand::u128(..);
    let tasks: Vec<_> = (0..CONCURRENCY)
        .map(|task| {
            let (one, other) = (one.clone(), other.clone());
            tokio::spawn(async move {
                let mut disagreements = 0;
                for number in (task..sessions).step_by(CONCURRENCY as usize) {
                    let key = key(first.wrapping_add(number));
                    let (left, right) = tokio::join!(bind(&one, &key, "left"), bind(&other, &key, "right"));
                    let agreed = match (left.unwrap(), right.unwrap()) {
                        (SaveOutcome::Stored(version), SaveOutcome::Conflict(there)) => {
                            there == stored("left", version)
                        }
                        (SaveOutcome::Conflict(there), SaveOutcome::Stored(version)) => {
                            there == stored("right", version)
                        }
                        _ => false,
                    };
                    disagreements += u32::from(!agreed);
                    one.remove(&key).await.unwrap();
                }
                disagreements
            })
        })
        .collect();
    let mut disagreements = 0;
    for task in tasks {
        disagreements += task.await.unwrap();
    }
    assert_eq!(disagreements, 0, "of {sessions}");
}

fn stored(endpoint: &str, version: u64) -> Option<Stored> {
    Some(Stored { record: bound(endpoint), version })
}

/// Checks that every operation on a store that is down fails as unavailable, and quickly.
pub(crate) async fn fails_as_unavailable(store: &Arc<dyn SessionStore>) {
    let key = key(fastrand::u128(..));
    for _ in 0..50 {
        let loaded = tokio::time::timeout(OPERATION_TIMEOUT, store.load(&key)).await.expect("a load does not hang");
        assert!(matches!(loaded, Err(StoreError::Unavailable(_))), "{loaded:?}");
        let saved =
            tokio::time::timeout(OPERATION_TIMEOUT, bind(store, &key, "q1")).await.expect("a save does not hang");
        assert!(matches!(saved, Err(StoreError::Unavailable(_))), "{saved:?}");
    }
}

/// Waits until a store is available again to the same handle. Each operation has a deadline, as in
/// the front end.
pub(crate) async fn recovers(store: &Arc<dyn SessionStore>, key: &SessionKey) {
    let until = tokio::time::Instant::now() + RECOVERY_TIMEOUT;
    loop {
        match tokio::time::timeout(Duration::from_millis(50), store.load(key)).await {
            Ok(Ok(_)) => break,
            failed => assert!(tokio::time::Instant::now() < until, "the store does not recover: {failed:?}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let other = self::key(fastrand::u128(..));
    assert!(matches!(bind(store, &other, "q1").await, Ok(SaveOutcome::Stored(_))), "the store accepts writes");
}

/// Drops callers at any point of an operation, and checks that no other caller receives their
/// response.
pub(crate) async fn keeps_responses_apart(store: Arc<dyn SessionStore>) {
    let first = fastrand::u128(..);
    for number in 0..20 {
        bind(&store, &key(first ^ number), &format!("endpoint-{number}")).await.unwrap();
    }
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                for _ in 0..300 {
                    let number = fastrand::u128(0..20);
                    let (key, deadline) = (key(first ^ number), Duration::from_micros(fastrand::u64(0..1500)));
                    // Whether the response is in time depends on the machine; its content must not.
                    if let Ok(loaded) = tokio::time::timeout(deadline, store.load(&key)).await {
                        let there = loaded.unwrap().expect("it was bound");
                        assert_eq!(there.record, bound(&format!("endpoint-{number}")));
                    }
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    for number in 0..20 {
        let there = store.load(&key(first ^ number)).await.unwrap().expect("it was bound");
        assert_eq!(there.record, bound(&format!("endpoint-{number}")));
    }
}

/// Returns the text of an error and all its sources, which a log could show.
pub(crate) fn full_text(error: &StoreError) -> String {
    let mut text = format!("{error:?}");
    let mut next: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = next {
        text += &format!(": {error}");
        next = error.source();
    }
    text
}
