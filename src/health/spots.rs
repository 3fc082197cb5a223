use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many spots there are on the endpoints of a cluster: what may keep an endpoint from serving. An endpoint has one while
/// nginx's rule counts failures of it, and one while it is ejected as an outlier, down by the word of probes, or not known to be
/// one of the cluster.
///
/// Where there are none, as is the rule, a pick need not look at the endpoints one by one: that would be a cache line for each,
/// which every request that ends elsewhere takes away.
#[derive(Debug, Clone, Default)]
pub(crate) struct Spots(Arc<Line>);

/// On cache lines of its own, since it is read in every pick and hardly ever written.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Line(AtomicUsize);

impl Spots {
    #[inline]
    pub(crate) fn are_none(&self) -> bool {
        self.0.0.load(Ordering::Relaxed) == 0
    }

    /// What was or was not a spot before now is one or is none.
    pub(crate) fn change(&self, before: bool, now: bool) {
        match (before, now) {
            (false, true) => _ = self.0.0.fetch_add(1, Ordering::Relaxed),
            (true, false) => _ = self.0.0.fetch_sub(1, Ordering::Relaxed),
            _ => {}
        }
    }
}
