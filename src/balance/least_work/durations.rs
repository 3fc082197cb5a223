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

/// 1024 sets of 4 places, 32 KB: room for some thousands of shapes in use.
const SETS: usize = 1 << 10;
const PLACES: usize = 4;

/// How many durations the mean of a shape remembers: it is the plain mean of the first so many and from then on an
/// exponentially weighted one. Enough for a heavy tail to average out, few enough to follow what a data load changes.
const MEMORY: f32 = 32.0;

/// The same for a mean over many shapes, as many as can be counted in a place.
const MEMORY_OF_ALL: f32 = 255.0;

/// What is expected while nothing at all is known. Any value does: all requests then weigh the same.
const AT_FIRST: Duration = Duration::from_secs(1);

/// Mean durations of queries by shape.
pub(super) struct Durations {
    sets: Box<[Set]>,
    overall: Mean,
    /// So that nobody outside can choose shapes that meet in one set. Nothing is placed by it, so front ends may differ.
    seed: u64,
}

/// Half a cache line.
#[derive(Default)]
#[repr(align(32))]
struct Set([AtomicU64; PLACES]);

impl Durations {
    pub(super) fn new(seed: u64) -> Self {
        Durations { sets: (0..SETS).map(|_| Set::default()).collect(), overall: Mean::default(), seed }
    }

    /// What a query of `shape` is expected to take: the mean of its shape, or of all queries while that is not known.
    pub(super) fn expected(&self, shape: u64) -> Duration {
        let (set, tag) = self.find(shape);
        set.places().find(|place| place.tag == tag).map_or_else(|| self.overall(), Place::duration)
    }

    /// What any query is expected to take.
    pub(super) fn overall(&self) -> Duration {
        self.overall.duration()
    }

    fn find(&self, shape: u64) -> (&Set, u32) {
        let mixed = hash::mix(shape, self.seed);
        // No tag is 0, so that a place that was never taken belongs to nobody.
        (&self.sets[mixed as usize % SETS], ((mixed >> 40) as u32).max(1))
    }
}

impl Set {
    fn places(&self) -> impl Iterator<Item = Place> {
        self.0.iter().map(|word| Place::of(word.load(Ordering::Relaxed)))
    }

    fn learn(&self, tag: u32, micros: f32) {
        if let Some(own) = self.places().position(|place| place.tag == tag) {
            // When another has taken the place in this moment the duration is lost, which does no harm.
            change(&self.0[own], |place| (place.tag == tag).then(|| place.after(micros, MEMORY)));
            return;
        }
        let least = self.places().enumerate().min_by_key(|(_, place)| place.used);
        if let Some((least, _)) = least {
            change(&self.0[least], |place| {
                Some(match place.used {
                    0 => Place { tag, used: 1, mean_micros: micros },
                    used => Place { used: used - 1, ..place },
                })
            });
        }
    }
}

impl Learner for Durations {
    fn learn(&self, shape: u64, took: Duration) {
        self.overall.learn(shape, took);
        let (set, tag) = self.find(shape);
        set.learn(tag, took.as_micros() as f32);
    }
}

impl fmt::Debug for Durations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Durations").field("overall", &self.overall).finish_non_exhaustive()
    }
}

/// One mean of everything it is told. On cache lines of its own, because every core writes to it.
#[derive(Default)]
#[repr(align(128))]
pub(super) struct Mean(AtomicU64);

impl Mean {
    pub(super) fn duration(&self) -> Duration {
        match Place::of(self.0.load(Ordering::Relaxed)) {
            Place { used: 0, .. } => AT_FIRST,
            place => place.duration(),
        }
    }
}

impl Learner for Mean {
    fn learn(&self, _shape: u64, took: Duration) {
        change(&self.0, |place| Some(place.after(took.as_micros() as f32, MEMORY_OF_ALL)));
    }
}

impl fmt::Debug for Mean {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.duration().fmt(f)
    }
}

/// One place of the table: 24 bits of tag, 8 of use, and a mean as `f32`.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Place {
    tag: u32,
    /// How often it was used lately, at most 255: both how long it resists newcomers and how much its mean is worth.
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
    fn after(self, micros: f32, memory: f32) -> Self {
        let used = self.used.saturating_add(1);
        let share = 1.0 / f32::from(used).min(memory);
        Place { used, mean_micros: self.mean_micros + (micros - self.mean_micros) * share, ..self }
    }

    fn duration(self) -> Duration {
        Duration::from_micros(self.mean_micros as u64)
    }
}

fn change(word: &AtomicU64, change: impl Fn(Place) -> Option<Place>) {
    let _ = word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| change(Place::of(word)).map(Place::word));
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOT: u64 = 7;
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_shape_is_learned_and_a_stranger_is_taken_for_an_average_query() {
        let table = Durations::new(1);
        assert_eq!(table.expected(HOT), AT_FIRST);
        for _ in 0..10 {
            table.learn(HOT, 3 * SECOND);
            table.learn(HOT + 1, SECOND);
        }
        assert_eq!(table.expected(HOT), 3 * SECOND);
        assert_eq!(table.expected(HOT + 1), SECOND);
        assert_eq!(table.expected(99).as_millis(), 2000, "the mean of both");
    }

    #[test]
    fn the_mean_is_plain_at_first_and_then_forgets() {
        let table = Durations::new(1);
        for seconds in 1..=9 {
            table.learn(HOT, seconds * SECOND);
        }
        assert_eq!(table.expected(HOT).as_millis(), 5000);
        for _ in 0..200 {
            table.learn(HOT, 20 * SECOND);
        }
        assert!(table.expected(HOT) > 19 * SECOND, "{table:?}");
    }

    #[test]
    fn a_million_hostile_shapes_do_not_push_out_those_in_use() {
        let table = Durations::new(2);
        let hot: Vec<u64> = (0..200).collect();
        let mut random = fastrand::Rng::with_seed(5);
        for _ in 0..100 {
            hot.iter().for_each(|shape| table.learn(*shape, SECOND * (1 + *shape as u32)));
        }
        for stranger in 0..1_000_000_u64 {
            table.learn(random.u64(1000..), 3600 * SECOND);
            // Meanwhile the others are used as before, each a hundredth as often as a stranger comes.
            if stranger % 100 == 0 {
                for shape in &hot {
                    table.learn(*shape, SECOND * (1 + *shape as u32));
                }
            }
        }
        let known = |shape: &u64| table.expected(*shape).as_millis() == 1000 * (1 + u128::from(*shape));
        assert_eq!(hot.iter().filter(|shape| known(shape)).count(), hot.len());
    }

    #[test]
    fn a_shape_that_comes_into_use_displaces_those_that_went_out_of_it() {
        let table = Durations::new(3);
        // Twice as many as there are places, each used as much as can be counted.
        for old in 0..2 * (SETS * PLACES) as u64 {
            (0..300).for_each(|_| table.learn(old, SECOND));
        }
        let new = 1 << 40;
        (0..300).for_each(|_| table.learn(new, 9 * SECOND));
        assert_eq!(table.expected(new), 9 * SECOND);
    }

    #[test]
    fn threads_that_learn_at_once_leave_a_mean_of_what_they_learned() {
        let table = Durations::new(4);
        std::thread::scope(|scope| {
            for thread in 0..4_u64 {
                let table = &table;
                scope.spawn(move || {
                    for n in 0..20_000 {
                        table.learn(n % 50, SECOND * (1 + (n % 50) as u32));
                        table.learn(1000 + n * 4 + thread, 500 * SECOND);
                    }
                });
            }
        });
        for shape in 0..50 {
            assert_eq!(table.expected(shape), SECOND * (1 + shape as u32), "{shape}");
        }
    }

    #[test]
    fn no_duration_breaks_a_mean() {
        let table = Durations::new(5);
        for took in [Duration::ZERO, Duration::MAX, Duration::ZERO, Duration::from_nanos(1)] {
            table.learn(HOT, took);
            let _ = (table.expected(HOT), table.overall());
        }
    }
}
