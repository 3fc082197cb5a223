//! What is asked of every store that front ends share, beyond the suite that the library brings.

use std::sync::Arc;
use std::time::Duration;

use kylin_lb::EndpointId;
use kylin_lb::session::{self, Precondition, SaveOutcome, SessionKey, SessionRecord, SessionStore, StoreError, Stored};

/// Long enough for any test.
pub(crate) const TTL: Duration = Duration::from_secs(600);
/// How long an operation on a store that is down may take before it counts as stuck.
const STUCK: Duration = Duration::from_secs(10);
/// How long a store may take to be found again.
const PATIENCE: Duration = Duration::from_secs(60);

/// A handle on the store at an address, as a front end has it.
pub(crate) fn front_end(url: &str) -> Arc<dyn SessionStore> {
    session::open(url).unwrap_or_else(|error| panic!("{error}"))
}

pub(crate) fn key(number: u128) -> SessionKey {
    SessionKey::from_bytes(number.to_be_bytes())
}

/// The 32 digits of a key, as stores with textual keys have it.
pub(crate) fn hex(key: &SessionKey) -> String {
    String::from_utf8(key.hex().to_vec()).expect("digits")
}

/// The record bound to an endpoint of this name.
pub(crate) fn bound(endpoint: &str) -> SessionRecord {
    SessionRecord::bound(EndpointId::new(endpoint).expect("a valid id"))
}

/// Binds a session that nobody has seen.
pub(crate) async fn bind(
    store: &Arc<dyn SessionStore>,
    key: &SessionKey,
    endpoint: &str,
) -> Result<SaveOutcome, StoreError> {
    store.save(key, &bound(endpoint), Precondition::Absent, TTL).await
}

/// Two front ends see sessions for the first time at once, and each binds them to another endpoint. Both must end up with the
/// same: one of them writes it, and the other is told what the first has written.
pub(crate) async fn settle_first_sights(one: Arc<dyn SessionStore>, other: Arc<dyn SessionStore>, sessions: u128) {
    const AT_ONCE: u128 = 32;
    let first = fastrand::u128(..);
    let lanes: Vec<_> = (0..AT_ONCE)
        .map(|lane| {
            let (one, other) = (one.clone(), other.clone());
            tokio::spawn(async move {
                let mut disagreements = 0;
                for number in (lane..sessions).step_by(AT_ONCE as usize) {
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
    for lane in lanes {
        disagreements += lane.await.unwrap();
    }
    assert_eq!(disagreements, 0, "of {sessions}");
}

fn stored(endpoint: &str, version: u64) -> Option<Stored> {
    Some(Stored { record: bound(endpoint), version })
}

/// Asks a store that is down: every operation says so, and soon.
pub(crate) async fn says_that_it_is_down(store: &Arc<dyn SessionStore>) {
    let key = key(fastrand::u128(..));
    for _ in 0..50 {
        let loaded = tokio::time::timeout(STUCK, store.load(&key)).await.expect("a load does not hang");
        assert!(matches!(loaded, Err(StoreError::Unavailable(_))), "{loaded:?}");
        let saved = tokio::time::timeout(STUCK, bind(store, &key, "q1")).await.expect("a save does not hang");
        assert!(matches!(saved, Err(StoreError::Unavailable(_))), "{saved:?}");
    }
}

/// Waits until a store serves again, by the same handle; each operation under a deadline, as the front end has them.
pub(crate) async fn comes_back(store: &Arc<dyn SessionStore>, key: &SessionKey) {
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        match tokio::time::timeout(Duration::from_millis(50), store.load(key)).await {
            Ok(Ok(_)) => break,
            failed => assert!(tokio::time::Instant::now() < until, "the store does not come back: {failed:?}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let other = self::key(fastrand::u128(..));
    assert!(matches!(bind(store, &other, "q1").await, Ok(SaveOutcome::Stored(_))), "and it can be written to");
}

/// Callers that go in the middle of an operation, at all moments, leave no answer behind that another caller would get.
pub(crate) async fn keeps_answers_apart(store: Arc<dyn SessionStore>) {
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
                    // Whether it is in time depends on the machine; what it says must not.
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

/// The whole text of an error: what a log would show of it.
pub(crate) fn whole_text(error: &StoreError) -> String {
    let mut text = format!("{error:?}");
    let mut next: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = next {
        text += &format!(": {error}");
        next = error.source();
    }
    text
}
