use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Detail, Observer};

/// An observer of one request, which an application puts into the request's extensions. It gets the events of that request after
/// the observers of the proxy.
///
/// It can hold the application's own data about the request, so the application needs no table of requests. The proxy removes it
/// from the extensions.
#[derive(Clone)]
#[must_use]
pub struct RequestObserver(pub(super) Vec<Arc<dyn Observer>>);

impl RequestObserver {
    /// Returns an observer for the extensions of a request.
    pub fn new(observer: impl Observer) -> Self {
        RequestObserver(vec![Arc::new(observer)])
    }

    /// Adds an observer, which gets each event after those before it.
    pub fn and(mut self, observer: impl Observer) -> Self {
        self.0.push(Arc::new(observer));
        self
    }
}

impl fmt::Debug for RequestObserver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestObserver").finish_non_exhaustive()
    }
}

/// The observers of a proxy. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Observers {
    all: Vec<Arc<dyn Observer>>,
    detail: Detail,
    reads_query_flags: bool,
}

impl Observers {
    pub(crate) fn add(&mut self, observer: Arc<dyn Observer>) {
        self.detail = self.detail.max(observer.detail());
        self.reads_query_flags |= observer.reads_query_flags();
        self.all.push(observer);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Returns which facts the events must hold.
    pub(crate) fn detail(&self) -> Detail {
        self.detail
    }

    /// Returns whether the end of the response to a query is read.
    pub(crate) fn reads_query_flags(&self) -> bool {
        self.reads_query_flags
    }

    pub(super) fn all(&self) -> &[Arc<dyn Observer>] {
        &self.all
    }
}

impl fmt::Debug for Observers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observers").field("count", &self.all.len()).finish_non_exhaustive()
    }
}

/// Calls an observer. Events are sent while values are dropped, where a second panic would abort the process.
pub(super) fn call(observer: &dyn Observer, event: impl FnOnce(&dyn Observer)) {
    if catch_unwind(AssertUnwindSafe(|| event(observer))).is_err() {
        log_panic();
    }
}

/// Calls each observer.
pub(super) fn call_all(observers: &[Arc<dyn Observer>], event: impl Fn(&dyn Observer)) {
    let mut observers = observers.iter();
    // The observer that panics is taken before it is called, so the next round calls those behind it.
    let mut call_rest = || {
        for observer in observers.by_ref() {
            event(&**observer);
        }
    };
    while catch_unwind(AssertUnwindSafe(&mut call_rest)).is_err() {
        log_panic();
    }
}

#[cold]
fn log_panic() {
    static LOGGED: AtomicBool = AtomicBool::new(false);
    if !LOGGED.swap(true, Ordering::Relaxed) {
        tracing::error!("an observer panicked; its events are lost");
    }
}
