//! Lowers the share of an endpoint whose node refuses connections, as TCP lowers its rate: each
//! burst of refusals halves the share, and it grows with time.
//!
//! A node at its limit of connections refuses some and completes others. The load that it refuses
//! goes to the other nodes, and the endpoint stays in service.

use std::sync::atomic::{AtomicU64, Ordering};

use super::impaired::ImpairedCount;
use super::slow_start::WHOLE;

/// The reduced share of an endpoint. Picks read it, so it is one word.
#[derive(Debug)]
pub(crate) struct ReducedShare {
    /// 0 while the share is whole. Otherwise the upper 16 bits hold the share after the last
    /// refusal that lowered it, and the rest the time of that refusal.
    word: AtomicU64,
    impaired: ImpairedCount,
}

const AT_BITS: u32 = 48;

/// The minimum share, with which some requests still test whether the node refuses connections.
const MIN: u32 = WHOLE / 16;

/// Refusals within this time are one burst, which halves the share once.
const BURST_MS: u64 = 100;

/// The time in which a share grows from nothing to the whole.
const RECOVERY_MS: u64 = 10_000;

impl ReducedShare {
    pub(crate) fn new(impaired: ImpairedCount) -> Self {
        ReducedShare { word: AtomicU64::new(0), impaired }
    }

    /// Halves the share, unless it was halved just before.
    pub(crate) fn halve(&self, now: u64) {
        let halved = self.word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
            let recent = word != 0 && now.saturating_sub(at(word)) < BURST_MS;
            (!recent).then(|| pack((share_at(word, now) / 2).max(MIN), now))
        });
        if let Ok(before) = halved {
            self.impaired.change(before != 0, true);
        }
    }

    /// Makes the share whole.
    pub(crate) fn restore(&self) {
        self.impaired.change(self.word.swap(0, Ordering::Relaxed) != 0, false);
    }

    /// Returns the current share, out of [`WHOLE`]; never 0. `now` is called only while the share
    /// is reduced.
    pub(crate) fn share(&self, now: impl FnOnce() -> u64) -> u32 {
        let word = self.word.load(Ordering::Relaxed);
        if word == 0 {
            return WHOLE;
        }
        let share = share_at(word, now());
        if share >= WHOLE && self.word.compare_exchange(word, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.impaired.change(true, false);
        }
        share
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.word.load(Ordering::Relaxed) == 0
    }
}

impl Drop for ReducedShare {
    fn drop(&mut self) {
        self.restore();
    }
}

fn pack(share: u32, at: u64) -> u64 {
    u64::from(share) << AT_BITS | at & ((1 << AT_BITS) - 1)
}

fn at(word: u64) -> u64 {
    word & ((1 << AT_BITS) - 1)
}

fn share_at(word: u64, now: u64) -> u32 {
    if word == 0 {
        return WHOLE;
    }
    let grown = now.saturating_sub(at(word)).min(RECOVERY_MS) * u64::from(WHOLE) / RECOVERY_MS;
    // Both are at most the whole.
    ((word >> AT_BITS) as u32 + grown as u32).min(WHOLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_halves_the_share_once_and_it_grows_back_in_time() {
        let impaired = ImpairedCount::default();
        let reduced = ReducedShare::new(impaired.clone());
        assert_eq!(reduced.share(|| panic!("read")), WHOLE);
        for now in [1_000, 1_000, 1_099] {
            reduced.halve(now);
            assert_eq!(reduced.share(|| 1_000), WHOLE / 2);
        }
        reduced.halve(1_100);
        assert_eq!(reduced.share(|| 1_100), (WHOLE / 2 + 10) / 2);
        (12..100).for_each(|n| reduced.halve(n * 100));
        assert_eq!(reduced.share(|| 9_900), MIN);
        assert!(!impaired.is_zero());
        assert_eq!(reduced.share(|| 14_900), MIN + WHOLE / 2);
        assert_eq!((reduced.share(|| 19_900), impaired.is_zero()), (WHOLE, true));
        assert_eq!(reduced.share(|| panic!("read")), WHOLE);
        reduced.halve(20_000);
        reduced.restore();
        assert!(impaired.is_zero() && reduced.is_whole());
        reduced.halve(20_000);
        drop(reduced);
        assert!(impaired.is_zero());
    }
}
