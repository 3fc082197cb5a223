//! The memory of a session, as the allocator counts it, and the time of a lookup.
//!
//! For comparison, measures the time of one random read from a table with 64 bytes per session, the
//! lower bound of a lookup.

use std::hint::black_box;
use std::num::NonZeroUsize;
use std::time::Duration;

use allocation_counter::measure;
use kylin_lb::clock::{Clock, SystemClock};
use kylin_lb::endpoint::EndpointId;
use kylin_lb::session::{MemoryStore, Precondition, SessionKey, SessionRecord, SessionStore};

pub fn run() {
    let ids = ["q1", "q2", "q3"].map(|id| EndpointId::new(id).unwrap());
    println!("{:>12} {:>18} {:>14} {:>18}", "sessions", "bytes per session", "ns per lookup", "ns per random read");
    for count in [10_000_u64, 100_000, 1_000_000, 10_000_000] {
        let store = MemoryStore::bounded(limit(20_000_000), limit(4 << 30));
        let allocated = measure(|| {
            for n in 0..count {
                let record = SessionRecord::bound(ids[(n % 3) as usize].clone());
                let key = key(n);
                let saved = store.save(&key, &record, Precondition::Absent, Duration::from_secs(28_800));
                black_box(saved.into_ready().unwrap().unwrap());
            }
        });
        let bytes = allocated.bytes_current as f64 / count as f64;
        let mut best = f64::MAX;
        for round in 0..5_u64 {
            let begun = SystemClock.now();
            const LOOKUPS: u64 = 1_000_000;
            let mut n = round;
            for _ in 0..LOOKUPS {
                n = n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let key = key((n >> 20) % count);
                let found = store.load(&key).into_ready().unwrap().unwrap();
                assert!(black_box(found).is_some());
            }
            best = best.min((SystemClock.now() - begun).as_nanos() as f64 / LOOKUPS as f64);
        }
        drop(store);
        println!("{count:>12} {bytes:>18.1} {best:>14.1} {:>18.1}", random_read(count));
    }
}

/// Returns the nanoseconds of a random read from memory, where each read depends on the previous
/// one.
fn random_read(lines: u64) -> f64 {
    const READS: u64 = 1_000_000;
    // Not zeros, because the system would not allocate memory for them.
    let memory: Vec<[u64; 8]> = (0..lines).map(|n| [n | 1; 8]).collect();
    let mut best = f64::MAX;
    for round in 0..5_u64 {
        let (begun, mut n) = (SystemClock.now(), round);
        for _ in 0..READS {
            n = n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            n ^= memory[((n >> 20) % lines) as usize][0];
        }
        black_box(n);
        best = best.min((SystemClock.now() - begun).as_nanos() as f64 / READS as f64);
    }
    best
}

fn limit(limit: usize) -> NonZeroUsize {
    NonZeroUsize::new(limit).unwrap()
}

pub(crate) fn key(n: u64) -> SessionKey {
    let mut bits = [0; 16];
    for (half, seed) in bits.chunks_exact_mut(8).zip([n, n ^ u64::MAX]) {
        let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        half.copy_from_slice(&(z ^ (z >> 31)).to_be_bytes());
    }
    SessionKey::from_bytes(bits)
}
