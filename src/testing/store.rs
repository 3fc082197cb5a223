//! The conformance suite of [`SessionStore`], for tests of implementations.
//!
//! ```
//! use std::sync::Arc;
//! use kylin_lb::session::{MemoryStore, SessionStore};
//! use kylin_lb::testing::store::{Pair, conformance};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! conformance(|| async {
//!     // A test of a store on a server opens it twice here, as two front ends would.
//!     let store: Arc<dyn SessionStore> = Arc::new(MemoryStore::new());
//!     Pair { one: Arc::clone(&store), other: store }
//! })
//! .await;
//! # });
//! ```

use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Clock as _, SystemClock};
use crate::endpoint::EndpointId;
use crate::session::{Precondition, SaveOutcome, SessionKey, SessionRecord, SessionStore, StoreError, Stored};

/// Two handles to one store, like those of two front ends.
#[derive(Debug)]
pub struct Pair {
    /// The handle of one front end.
    pub one: Arc<dyn SessionStore>,
    /// The handle of the other front end.
    pub other: Arc<dyn SessionStore>,
}

/// Longer than every check, but short enough to clean up soon.
const TTL: Duration = Duration::from_secs(60);
/// The minimum time to live that a store must support.
const MIN_TTL: Duration = Duration::from_secs(1);
/// How late a record may expire.
const EXPIRY_TOLERANCE: Duration = Duration::from_secs(10);
/// The number of concurrent writers of one key.
const WRITERS: usize = 16;

/// Checks the guarantees of [`SessionStore`] on the store that `open` returns. Takes some seconds
/// of real time, because records must expire.
///
/// Keys are random, so the store may be in use, and several suites may run on it concurrently.
///
/// # Panics
/// Panics if the store breaks a guarantee; the message names it.
pub async fn conformance<F, P>(open: F)
where
    F: Fn() -> P,
    P: Future<Output = Pair>,
{
    let pair = open().await;
    both_handles_load_a_saved_record(&pair).await;
    a_save_needs_a_matching_precondition(&pair).await;
    versions_change_with_the_record(&pair).await;
    a_removed_record_is_absent_for_both_handles(&pair).await;
    a_touch_does_not_create_a_record(&pair).await;
    records_of_every_size_are_loaded_whole(&pair).await;
    keys_differ_by_every_bit(&pair).await;
    for _ in 0..20 {
        one_of_many_concurrent_first_writes_succeeds(&pair).await;
        one_of_many_concurrent_replacements_succeeds(&pair).await;
    }
    records_expire_unless_touched(&pair).await;
}

fn key() -> SessionKey {
    SessionKey::from_bytes(fastrand::u128(..).to_be_bytes())
}

/// Makes a record that is bound to the endpoint with this number.
fn record(number: usize) -> SessionRecord {
    SessionRecord::bound(EndpointId::new(&format!("endpoint-{number}")).expect("a valid id"))
}

async fn load(store: &Arc<dyn SessionStore>, key: &SessionKey) -> Option<Stored> {
    store.load(key).await.expect("load succeeds")
}

async fn save(
    store: &Arc<dyn SessionStore>,
    key: &SessionKey,
    record: &SessionRecord,
    precondition: Precondition,
) -> SaveOutcome {
    store.save(key, record, precondition, TTL).await.expect("save succeeds")
}

fn stored(outcome: SaveOutcome) -> u64 {
    match outcome {
        SaveOutcome::Stored(version) => version,
        SaveOutcome::Conflict(current) => panic!("a save with a matching precondition succeeds; found {current:?}"),
    }
}

fn conflict(outcome: SaveOutcome) -> Option<Stored> {
    match outcome {
        SaveOutcome::Conflict(current) => current,
        SaveOutcome::Stored(_) => panic!("a save without a matching precondition is a conflict"),
    }
}

async fn both_handles_load_a_saved_record(Pair { one, other }: &Pair) {
    let key = key();
    assert_eq!(load(one, &key).await, None, "a new key has no record");
    let version = stored(save(one, &key, &record(1), Precondition::Absent).await);
    let expected = Some(Stored { record: record(1), version });
    assert_eq!(load(one, &key).await, expected, "a record is loaded with the version of its save");
    assert_eq!(load(other, &key).await, expected, "the other handle loads the same");
}

async fn a_save_needs_a_matching_precondition(Pair { one, other }: &Pair) {
    let key = key();
    assert_eq!(
        conflict(save(one, &key, &record(1), Precondition::Version(1)).await),
        None,
        "there is no record to replace"
    );
    assert_eq!(load(one, &key).await, None, "a conflict writes nothing");

    let version = stored(save(one, &key, &record(1), Precondition::Absent).await);
    let current = Some(Stored { record: record(1), version });
    assert_eq!(
        conflict(save(other, &key, &record(2), Precondition::Absent).await),
        current,
        "a conflict returns the current record"
    );
    let wrong = Precondition::Version(version ^ 1);
    assert_eq!(conflict(save(other, &key, &record(2), wrong).await), current, "another version is a conflict too");
    assert_eq!(load(other, &key).await, current, "a conflict changes nothing");

    let second = stored(save(other, &key, &record(2), Precondition::Version(version)).await);
    let current = Some(Stored { record: record(2), version: second });
    assert_eq!(
        conflict(save(one, &key, &record(3), Precondition::Version(version)).await),
        current,
        "an old version is a conflict"
    );
}

async fn versions_change_with_the_record(Pair { one, other }: &Pair) {
    let key = key();
    let mut versions = vec![stored(save(one, &key, &record(0), Precondition::Absent).await)];
    for n in 1..10 {
        let (writer, last) = (if n % 2 == 0 { one } else { other }, Precondition::Version(versions[n - 1]));
        // Two records in turn, because a version must not be a hash of the record.
        versions.push(stored(save(writer, &key, &record(n % 2), last).await));
    }
    let mut distinct = versions.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), versions.len(), "every save has a version of its own: {versions:?}");

    one.touch(&key, TTL).await.expect("touch succeeds");
    let current = load(other, &key).await.expect("a touched record stays");
    assert_eq!(Some(&current.version), versions.last(), "touching changes no version");

    // A writer with the version of a removed record must not replace its successor.
    one.remove(&key).await.expect("remove succeeds");
    let recreated = stored(save(other, &key, &record(0), Precondition::Absent).await);
    assert!(!versions.contains(&recreated), "a version is used again after a removal: {recreated} in {versions:?}");
}

async fn a_removed_record_is_absent_for_both_handles(Pair { one, other }: &Pair) {
    let key = key();
    one.remove(&key).await.expect("removing nothing is no error");
    let version = stored(save(one, &key, &record(1), Precondition::Absent).await);
    other.remove(&key).await.expect("remove succeeds");
    assert_eq!(load(one, &key).await, None, "a removed record is absent");
    assert_eq!(conflict(save(one, &key, &record(2), Precondition::Version(version)).await), None, "also for writers");
    stored(save(one, &key, &record(2), Precondition::Absent).await);
}

async fn a_touch_does_not_create_a_record(Pair { one, other }: &Pair) {
    let key = key();
    one.touch(&key, TTL).await.expect("touching nothing is no error");
    assert_eq!(load(other, &key).await, None, "a touch creates no record");
    stored(save(one, &key, &record(1), Precondition::Absent).await);
}

async fn records_of_every_size_are_loaded_whole(Pair { one, other }: &Pair) {
    let max = SessionRecord::MAX_LEN - record(1).encode().len();
    for length in [0, 1, 100, 1000, 4000, max] {
        let key = key();
        let sealed: Vec<u8> = (0..length).map(|n| (n % 256) as u8).collect();
        let long = record(1).with_sealed(sealed.clone());
        let version = stored(save(one, &key, &long, Precondition::Absent).await);
        assert_eq!(load(other, &key).await, Some(Stored { record: long, version }), "{length} sealed bytes are loaded");

        let unbound = SessionRecord::default().with_sealed(sealed);
        let version = stored(save(other, &key, &unbound, Precondition::Version(version)).await);
        let current = load(one, &key).await;
        assert_eq!(
            current,
            Some(Stored { record: unbound, version }),
            "without an endpoint, {length} bytes are loaded"
        );
        one.remove(&key).await.expect("remove succeeds");
    }
    let key = key();
    let too_long = record(1).with_sealed(vec![0; max + 1]);
    let refused = one.save(&key, &too_long, Precondition::Absent, TTL).await;
    assert!(matches!(refused, Err(StoreError::TooLong(_))), "a record that is too long is refused: {refused:?}");
    assert_eq!(load(one, &key).await, None, "and writes nothing");
}

async fn keys_differ_by_every_bit(Pair { one, .. }: &Pair) {
    let bits = fastrand::u128(..);
    stored(save(one, &SessionKey::from_bytes(bits.to_be_bytes()), &record(1), Precondition::Absent).await);
    for bit in 0..128 {
        let other = SessionKey::from_bytes((bits ^ (1 << bit)).to_be_bytes());
        assert_eq!(load(one, &other).await, None, "a key that differs in bit {bit} is another key");
    }
}

/// Saves to one key from many tasks, on both handles. Exactly one may succeed.
async fn race(pair: &Pair, key: SessionKey, precondition: Precondition) {
    let writers: Vec<_> = (0..WRITERS)
        .map(|n| {
            let store = Arc::clone(if n % 2 == 0 { &pair.one } else { &pair.other });
            tokio::spawn(async move { (n, save(&store, &key, &record(n), precondition).await) })
        })
        .collect();
    let (mut stored, mut conflicts) = (Vec::new(), Vec::new());
    for writer in writers {
        match writer.await.expect("a writer ends") {
            (n, SaveOutcome::Stored(version)) => stored.push(Stored { record: record(n), version }),
            (_, SaveOutcome::Conflict(current)) => conflicts.push(current),
        }
    }
    assert_eq!(stored.len(), 1, "exactly one of {WRITERS} concurrent saves succeeds");
    let winner = stored.pop();
    assert!(
        conflicts.iter().all(|current| *current == winner),
        "every conflict returns the stored record: {winner:?} {conflicts:?}"
    );
    assert_eq!(load(&pair.one, &key).await, winner, "the stored record stays");
}

async fn one_of_many_concurrent_first_writes_succeeds(pair: &Pair) {
    race(pair, key(), Precondition::Absent).await;
}

async fn one_of_many_concurrent_replacements_succeeds(pair: &Pair) {
    let key = key();
    let version = stored(save(&pair.one, &key, &record(99), Precondition::Absent).await);
    race(pair, key, Precondition::Version(version)).await;
}

/// Runs in real time, because a test cannot advance a server's clock.
async fn records_expire_unless_touched(Pair { one, other }: &Pair) {
    let short = key();
    stored(one.save(&short, &record(1), Precondition::Absent, MIN_TTL).await.expect("save succeeds"));
    let (touched, replaced) = loop {
        let (touched, replaced, began) = (key(), key(), SystemClock.now());
        for key in [&touched, &replaced] {
            stored(one.save(key, &record(1), Precondition::Absent, 4 * MIN_TTL).await.expect("save succeeds"));
        }
        one.touch(&touched, TTL).await.expect("touch succeeds");
        let version = load(one, &replaced).await.map(|found| found.version);
        let replacing = Precondition::Version(version.unwrap_or_default());
        let outcome = save(other, &replaced, &record(2), replacing).await;
        // On a busy machine, the calls may take longer than the records live; they then show
        // nothing.
        if SystemClock.now() - began < 3 * MIN_TTL {
            stored(outcome);
            break (touched, replaced);
        }
    };
    let last = key();
    stored(one.save(&last, &record(1), Precondition::Absent, 4 * MIN_TTL).await.expect("save succeeds"));
    for (key, ttl) in [(&short, MIN_TTL), (&last, 4 * MIN_TTL)] {
        let mut waited = Duration::ZERO;
        while load(one, key).await.is_some() {
            assert!(waited < EXPIRY_TOLERANCE, "a record of {ttl:?} is still there after {waited:?}");
            let interval = Duration::from_millis(100);
            tokio::time::sleep(interval).await;
            waited += interval;
        }
    }
    assert_eq!(load(other, &short).await, None, "the record is expired for both handles");
    stored(save(other, &short, &record(2), Precondition::Absent).await);
    assert!(load(other, &touched).await.is_some(), "a touched record lives on");
    assert!(load(other, &replaced).await.is_some(), "a replaced record lives for the time of its last save");
    for key in [&short, &touched, &replaced] {
        one.remove(key).await.expect("remove succeeds");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::MemoryStore;

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn the_memory_store_conforms() {
        conformance(|| async {
            let store = MemoryStore::new();
            Pair { one: Arc::new(store.clone()), other: Arc::new(store) }
        })
        .await;
    }
}
