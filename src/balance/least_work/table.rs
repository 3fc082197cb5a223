//! What requests took, by the shape of their query, in a table of fixed size.
//!
//! Queries come from outside, and so do their shapes: a client that makes up a new one for every request must neither make
//! the table grow nor push out what is known of the busy ones. So a shape may stand in a few places only (one *set* of the
//! table), each place remembers how much it is used, and a newcomer that finds its set full lowers the least used by one and
//! gets the place only once that has come to nothing. Strangers that come once fight each other for one place in a set;
//! shapes that have gone out of use give way in time.
//!
//! A place is one word, changed by compare-and-swap: no lock, and no half-written place to be read.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::endpoint::Learner;
use crate::hash;

/// 1024 sets of 4: 32 KB, for some thousands of shapes in use.
const SETS: usize = 1 << 10;
const PLACES: usize = 4;

/// A mean follows the last so many durations (an exponentially weighted mean from then on): long enough for a heavy tail to
/// average out, short enough to follow a day's changes of data.
const MEMORY: f32 = 32.0;
/// The same for the mean over everything.
const OVERALL_MEMORY: f32 = 1024.0;

/// What is expected while nothing at all is known. Any value does: all requests then weigh the same.
const AT_FIRST: Duration = Duration::from_secs(1);

/// Mean durations by shape.
pub(super) struct Durations {
    sets: Box<[Set]>,
    overall: AtomicU64,
    /// So that nobody outside can choose shapes that meet in one set. Nothing is placed by it, so front ends may differ.
    seed: u64,
}

/// Half a cache line.
#[derive(Default)]
#[repr(align(32))]
struct Set([AtomicU64; PLACES]);

impl Durations {
    pub(super) fn new(seed: u64) -> Self {
        Durations { sets: (0..SETS).map(|_| Set::default()).collect(), overall: AtomicU64::new(0), seed }
    }

    /// What a request of `shape` is expected to take: the mean of its shape, or of all requests while that is not known.
    pub(super) fn expected(&self, shape: u64) -> Duration {
        let (set, tag) = self.find(shape);
        let known = set.0.iter().map(|place| Place::of(place.load(Ordering::Relaxed))).find(|place| place.tag == tag);
        known.map_or_else(|| self.overall(), Place::duration)
    }

    /// What any request is expected to take.
    pub(super) fn overall(&self) -> Duration {
        match Place::of(self.overall.load(Ordering::Relaxed)) {
            place if place.used == 0 => AT_FIRST,
            place => place.duration(),
        }
    }

    fn find(&self, shape: u64) -> (&Set, u32) {
        let mixed = hash::mix(shape, self.seed);
        // No tag is 0, so that a place that was never taken belongs to nobody.
        (&self.sets[mixed as usize % SETS], ((mixed >> 40) as u32).max(1))
    }
}

impl Learner for Durations {
    fn learn(&self, shape: u64, took: Duration) {
        let micros = took.as_micros() as f32;
        change(&self.overall, |place| Some(Place { used: place.used.saturating_add(1), ..place.learned(micros, OVERALL_MEMORY) }));

        let (set, tag) = self.find(shape);
        if let Some(own) = set.0.iter().find(|place| Place::of(place.load(Ordering::Relaxed)).tag == tag) {
            // Another may have taken the place since: then this duration is lost, and no harm done.
            change(own, |place| (place.tag == tag).then(|| place.learned(micros, MEMORY)));
            return;
        }
        let least = set.0.iter().min_by_key(|place| Place::of(place.load(Ordering::Relaxed)).used);
        if let Some(least) = least {
            change(least, |place| {
                Some(match place.used {
                    0 => Place { tag, used: 1, mean_micros: micros },
                    used => Place { used: used - 1, ..place },
                })
            });
        }
    }
}

fn change(word: &AtomicU64, change: impl Fn(Place) -> Option<Place>) {
    let _ = word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| change(Place::of(word)).map(Place::word));
}

impl fmt::Debug for Durations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Durations").field("overall", &self.overall()).finish_non_exhaustive()
    }
}

/// One place of the table: 24 bits of tag, 8 of use, and a mean as `f32`.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Place {
    tag: u32,
    /// How often it was used lately, at most 255: both how much it resists newcomers and how much its mean is worth.
    used: u8,
    mean_micros: f32,
}

impl Place {
    fn of(word: u64) -> Self {
        Place { tag: (word >> 40) as u32, used: (word >> 32) as u8, mean_micros: f32::from_bits(word as u32) }
    }

    fn word(self) -> u64 {
        u64::from(self.tag) << 40 | u64::from(self.used) << 32 | u64::from(self.mean_micros.to_bits())
    }

    /// After one more duration: the plain mean of the first few, then one that forgets.
    fn learned(self, micros: f32, memory: f32) -> Self {
        let used = self.used.saturating_add(1);
        let share = 1.0 / f32::from(used).min(memory);
        Place { used, mean_micros: self.mean_micros + (micros - self.mean_micros) * share, ..self }
    }

    fn duration(self) -> Duration {
        Duration::from_micros(self.mean_micros as u64)
    }
}
