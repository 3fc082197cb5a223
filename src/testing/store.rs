//! What every [`SessionStore`] promises, as a suite that its implementers run.
//!
//! ```
//! use std::sync::Arc;
//! use kylin_lb::session::{MemoryStore, SessionStore};
//! use kylin_lb::testing::store::{Pair, conformance};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! conformance(|| async {
//!     // A store over the network is opened twice here, as two front ends would open it.
//!     let store: Arc<dyn SessionStore> = Arc::new(MemoryStore::new());
//!     Pair { one: Arc::clone(&store), other: store }
//! })
//! .await;
//! # });
//! ```

use std::sync::Arc;
use std::time::Duration;

use crate::endpoint::EndpointId;
use crate::session::{Precondition, SaveOutcome, SessionKey, SessionRecord, SessionStore, StoreError, Stored};

/// Two handles on one store, as two front ends have them.
#[derive(Debug)]
pub struct Pair {
    /// One front end's.
    pub one: Arc<dyn SessionStore>,
    /// The other's.
    pub other: Arc<dyn SessionStore>,
}

/// Long enough for every check, short enough to leave a store clean soon.
const TTL: Duration = Duration::from_secs(60);
/// The shortest time to live that a store must keep.
const SHORTEST: Duration = Duration::from_secs(1);
/// How much later than asked a record may be gone.
const LATE: Duration = Duration::from_secs(10);
/// How many writers race for one key.
const WRITERS: usize = 16;

/// HealthCheck every promise of the trait on stores that `open` gives. Keys are drawn at random, so a store may be in use and
/// several suites may run on it at once. Takes some seconds, for records have to expire.
///
/// # Panics
/// When a promise is broken, with the promise.
pub async fn conformance<F, P>(open: F)
where
    F: Fn() -> P,
    P: Future<Output = Pair>,
{
    let pair = open().await;
    what_was_saved_is_loaded_by_both(&pair).await;
    a_writer_must_know_what_is_there(&pair).await;
    versions_change_with_the_record(&pair).await;
    a_removed_record_is_gone_for_both(&pair).await;
    touching_nothing_makes_nothing(&pair).await;
    records_of_every_size_come_back_whole(&pair).await;
    keys_are_told_apart_by_every_bit(&pair).await;
    for _ in 0..20 {
        one_of_many_first_writers_wins(&pair).await;
        one_of_many_successors_wins(&pair).await;
    }
    records_expire_unless_touched(&pair).await;
}

fn key() -> SessionKey {
    SessionKey::from_bytes(fastrand::u128(..).to_be_bytes())
}

/// A record bound to the endpoint of this number.
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
    expect: Precondition,
) -> SaveOutcome {
    store.save(key, record, expect, TTL).await.expect("save succeeds")
}

fn done(saved: SaveOutcome) -> u64 {
    match saved {
        SaveOutcome::Stored(version) => version,
        SaveOutcome::Conflict(there) => panic!("a writer who knows what is there must not lose; there is {there:?}"),
    }
}

fn lost(saved: SaveOutcome) -> Option<Stored> {
    match saved {
        SaveOutcome::Conflict(there) => there,
        SaveOutcome::Stored(_) => panic!("a writer who is wrong about what is there must lose"),
    }
}

async fn what_was_saved_is_loaded_by_both(Pair { one, other }: &Pair) {
    let key = key();
    assert_eq!(load(one, &key).await, None, "nothing is under a new key");
    let version = done(save(one, &key, &record(1), Precondition::Absent).await);
    let expected = Some(Stored { record: record(1), version });
    assert_eq!(load(one, &key).await, expected, "a record is loaded with the version that its writing made");
    assert_eq!(load(other, &key).await, expected, "the other front end loads the same");
}

async fn a_writer_must_know_what_is_there(Pair { one, other }: &Pair) {
    let key = key();
    assert_eq!(lost(save(one, &key, &record(1), Precondition::Version(1)).await), None, "there is nothing to replace");
    assert_eq!(load(one, &key).await, None, "a lost write leaves nothing");

    let version = done(save(one, &key, &record(1), Precondition::Absent).await);
    let there = Some(Stored { record: record(1), version });
    assert_eq!(
        lost(save(other, &key, &record(2), Precondition::Absent).await),
        there,
        "the loser gets the winner's record"
    );
    let wrong = Precondition::Version(version ^ 1);
    assert_eq!(lost(save(other, &key, &record(2), wrong).await), there, "so does one with another version");
    assert_eq!(load(other, &key).await, there, "a lost write changes nothing");

    let second = done(save(other, &key, &record(2), Precondition::Version(version)).await);
    let there = Some(Stored { record: record(2), version: second });
    assert_eq!(lost(save(one, &key, &record(3), Precondition::Version(version)).await), there, "an old version loses");
}

async fn versions_change_with_the_record(Pair { one, other }: &Pair) {
    let key = key();
    let mut versions = vec![done(save(one, &key, &record(0), Precondition::Absent).await)];
    for n in 1..10 {
        let (writer, last) = (if n % 2 == 0 { one } else { other }, Precondition::Version(versions[n - 1]));
        // The same two records over and over: a version is no hash of the record.
        versions.push(done(save(writer, &key, &record(n % 2), last).await));
    }
    let mut distinct = versions.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), versions.len(), "each write makes a version of its own: {versions:?}");

    one.touch(&key, TTL).await.expect("touch succeeds");
    let there = load(other, &key).await.expect("a touched record stays");
    assert_eq!(Some(&there.version), versions.last(), "touching changes no version");

    // Whoever still has the version of a record that was removed must not overwrite its successor.
    one.remove(&key).await.expect("remove succeeds");
    let reborn = done(save(other, &key, &record(0), Precondition::Absent).await);
    assert!(!versions.contains(&reborn), "a version comes back after a removal: {reborn} in {versions:?}");
}

async fn a_removed_record_is_gone_for_both(Pair { one, other }: &Pair) {
    let key = key();
    one.remove(&key).await.expect("removing nothing is no error");
    let version = done(save(one, &key, &record(1), Precondition::Absent).await);
    other.remove(&key).await.expect("remove succeeds");
    assert_eq!(load(one, &key).await, None, "a removed record is gone");
    assert_eq!(lost(save(one, &key, &record(2), Precondition::Version(version)).await), None, "for writers too");
    done(save(one, &key, &record(2), Precondition::Absent).await);
}

async fn touching_nothing_makes_nothing(Pair { one, other }: &Pair) {
    let key = key();
    one.touch(&key, TTL).await.expect("touching nothing is no error");
    assert_eq!(load(other, &key).await, None, "touching makes no record");
    done(save(one, &key, &record(1), Precondition::Absent).await);
}

async fn records_of_every_size_come_back_whole(Pair { one, other }: &Pair) {
    let room = SessionRecord::MAX_LEN - record(1).encode().len();
    for length in [0, 1, 100, 1000, 4000, room] {
        let key = key();
        let sealed: Vec<u8> = (0..length).map(|n| (n % 256) as u8).collect();
        let long = record(1).with_sealed(sealed.clone());
        let version = done(save(one, &key, &long, Precondition::Absent).await);
        assert_eq!(load(other, &key).await, Some(Stored { record: long, version }), "{length} sealed bytes come back");

        let unbound = SessionRecord::default().with_sealed(sealed);
        let version = done(save(other, &key, &unbound, Precondition::Version(version)).await);
        let there = load(one, &key).await;
        assert_eq!(there, Some(Stored { record: unbound, version }), "without an endpoint, {length} bytes come back");
        one.remove(&key).await.expect("remove succeeds");
    }
    let key = key();
    let too_long = record(1).with_sealed(vec![0; room + 1]);
    let refused = one.save(&key, &too_long, Precondition::Absent, TTL).await;
    assert!(matches!(refused, Err(StoreError::TooLong(_))), "a record that is too long is refused: {refused:?}");
    assert_eq!(load(one, &key).await, None, "and leaves nothing");
}

async fn keys_are_told_apart_by_every_bit(Pair { one, .. }: &Pair) {
    let bits = fastrand::u128(..);
    done(save(one, &SessionKey::from_bytes(bits.to_be_bytes()), &record(1), Precondition::Absent).await);
    for bit in 0..128 {
        let near = SessionKey::from_bytes((bits ^ (1 << bit)).to_be_bytes());
        assert_eq!(load(one, &near).await, None, "a key that differs in bit {bit} is another key");
    }
}

/// Many tasks, on both handles, write what only one can be the first to write.
async fn race(pair: &Pair, key: SessionKey, expect: Precondition) {
    let writers: Vec<_> = (0..WRITERS)
        .map(|n| {
            let store = Arc::clone(if n % 2 == 0 { &pair.one } else { &pair.other });
            tokio::spawn(async move { (n, save(&store, &key, &record(n), expect).await) })
        })
        .collect();
    let (mut winners, mut losers) = (Vec::new(), Vec::new());
    for writer in writers {
        match writer.await.expect("a writer ends") {
            (n, SaveOutcome::Stored(version)) => winners.push(Stored { record: record(n), version }),
            (_, SaveOutcome::Conflict(there)) => losers.push(there),
        }
    }
    assert_eq!(winners.len(), 1, "exactly one of {WRITERS} racing writers wins");
    let winner = winners.pop();
    assert!(losers.iter().all(|there| *there == winner), "every loser gets the winner's record: {winner:?} {losers:?}");
    assert_eq!(load(&pair.one, &key).await, winner, "the winner's record stays");
}

async fn one_of_many_first_writers_wins(pair: &Pair) {
    race(pair, key(), Precondition::Absent).await;
}

async fn one_of_many_successors_wins(pair: &Pair) {
    let key = key();
    let version = done(save(&pair.one, &key, &record(99), Precondition::Absent).await);
    race(pair, key, Precondition::Version(version)).await;
}

/// In real time: what a store in another process calls a second nobody can advance.
async fn records_expire_unless_touched(Pair { one, other }: &Pair) {
    let (short, touched, replaced) = (key(), key(), key());
    done(one.save(&short, &record(1), Precondition::Absent, SHORTEST).await.expect("save succeeds"));
    // Time enough for the next three calls, however busy the machine is.
    for key in [&touched, &replaced] {
        done(one.save(key, &record(1), Precondition::Absent, 4 * SHORTEST).await.expect("save succeeds"));
    }
    one.touch(&touched, TTL).await.expect("touch succeeds");
    let version = load(one, &replaced).await.expect("it lives still").version;
    done(save(other, &replaced, &record(2), Precondition::Version(version)).await);
    let last = key();
    done(one.save(&last, &record(1), Precondition::Absent, 4 * SHORTEST).await.expect("save succeeds"));
    for (key, ttl) in [(&short, SHORTEST), (&last, 4 * SHORTEST)] {
        let mut waited = Duration::ZERO;
        while load(one, key).await.is_some() {
            assert!(waited < LATE, "a record of {ttl:?} is still there after {waited:?}");
            let pause = Duration::from_millis(100);
            tokio::time::sleep(pause).await;
            waited += pause;
        }
    }
    assert_eq!(load(other, &short).await, None, "it has expired for both");
    done(save(other, &short, &record(2), Precondition::Absent).await);
    assert!(load(other, &touched).await.is_some(), "a touched record lives on");
    assert!(load(other, &replaced).await.is_some(), "a replaced record lives as long as its last writer said");
    for key in [&short, &touched, &replaced] {
        one.remove(key).await.expect("remove succeeds");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::MemoryStore;

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn the_store_in_memory_conforms() {
        conformance(|| async {
            let store = MemoryStore::new();
            Pair { one: Arc::new(store.clone()), other: Arc::new(store) }
        })
        .await;
    }
}
