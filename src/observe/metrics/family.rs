use std::ptr;
use std::sync::OnceLock;

/// The metrics of one name, keyed by the value of one label from a small set. A recorder looks up a
/// metric by hashing its name and all its labels, which costs more than the rest of an event. A
/// family does this only once per value.
///
/// It is a list that only grows, so a request takes no lock and hashes nothing.
pub(super) struct Family<M> {
    first: Next<M>,
}

type Next<M> = OnceLock<Box<Known<M>>>;

struct Known<M> {
    value: &'static str,
    metric: M,
    next: Next<M>,
}

impl<M> Family<M> {
    /// Returns the metric of `value`, which `register` makes the first time.
    #[inline]
    pub(super) fn get(&self, value: &'static str, register: impl Fn() -> M) -> &M {
        match self.first.get() {
            // Usually the first value matches: queries, and complete responses.
            Some(known) if ptr::eq(known.value, value) => &known.metric,
            _ => self.find(value, register),
        }
    }

    fn find(&self, value: &'static str, register: impl Fn() -> M) -> &M {
        let mut next = &self.first;
        loop {
            let known = match next.get() {
                Some(known) => known,
                None => next.get_or_init(|| Box::new(Known { value, metric: register(), next: OnceLock::new() })),
            };
            if ptr::eq(known.value, value) || known.value == value {
                return &known.metric;
            }
            next = &known.next;
        }
    }
}

impl<M> Default for Family<M> {
    fn default() -> Self {
        Family { first: OnceLock::new() }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn threads_share_one_metric_for_each_value() {
        let (family, made) = (Family::default(), AtomicUsize::new(0));
        let register = || {
            made.fetch_add(1, Ordering::Relaxed);
            AtomicUsize::new(0)
        };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        for value in ["a", "b", "c"] {
                            family.get(value, register).fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        for value in ["c", "a", "b"] {
            assert_eq!(family.get(value, register).load(Ordering::Relaxed), 4000, "{value}");
        }
        assert_eq!(made.load(Ordering::Relaxed), 3);
    }
}
