use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts the open connections to a node, idle or not.
pub(super) struct OpenCount {
    open: Arc<AtomicUsize>,
    max: Option<NonZeroUsize>,
}

/// The permit for one open connection.
pub(super) struct OpenPermit(Arc<AtomicUsize>);

impl OpenCount {
    pub(super) fn new(max: Option<NonZeroUsize>) -> Self {
        OpenCount { open: Arc::default(), max }
    }

    pub(super) fn get(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Returns a permit, or `None` at the limit.
    pub(super) fn acquire(&self) -> Option<OpenPermit> {
        let open = self.open.fetch_add(1, Ordering::Relaxed);
        let permit = OpenPermit(Arc::clone(&self.open));
        self.max.is_none_or(|max| open < max.get()).then_some(permit)
    }
}

impl Drop for OpenPermit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
