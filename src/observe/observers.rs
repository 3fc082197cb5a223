use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::event::RequestEvent;
use super::{Detail, EventKind, Observer};

/// An observer of one request, which an application adds to the request's extensions. It gets the
/// events of that request after the observers of the proxy.
///
/// It can hold the application's own data about the request, so the application needs no table of
/// requests. The proxy removes it from the extensions.
#[derive(Clone)]
#[must_use]
pub struct RequestObserver(pub(super) Vec<Arc<dyn Observer>>);

impl RequestObserver {
    /// Returns an observer for the extensions of a request.
    pub fn new(observer: impl Observer) -> Self {
        RequestObserver(vec![Arc::new(observer)])
    }

    /// Adds an observer, which gets each event after those that were added before.
    pub fn and(mut self, observer: impl Observer) -> Self {
        self.0.push(Arc::new(observer));
        self
    }

    /// Passes an event to each observer.
    pub(super) fn tell(&self, event: &impl RequestEvent) {
        call_all(self.0.iter().map(|observer| &**observer), event);
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
    all: Vec<(EventKinds, Arc<dyn Observer>)>,
    /// The kinds that an observer wants.
    wanted: EventKinds,
    detail: Detail,
    reads_query_flags: bool,
}

/// A set of kinds of events, one bit each.
#[derive(Clone, Copy, Default)]
struct EventKinds(u16);

impl EventKinds {
    fn wanted_by(observer: &dyn Observer) -> Self {
        let wanted = EventKind::ALL.into_iter().filter(|kind| observer.wants(*kind));
        EventKinds(wanted.fold(0, |kinds, kind| kinds | 1 << kind as u16))
    }

    fn contains(self, kind: EventKind) -> bool {
        self.0 >> kind as u16 & 1 == 1
    }
}

impl Observers {
    pub(crate) fn add(&mut self, observer: impl Observer) {
        let observer = shared(observer);
        let wanted = EventKinds::wanted_by(&*observer);
        self.wanted.0 |= wanted.0;
        self.detail = self.detail.max(observer.detail());
        self.reads_query_flags |= observer.reads_query_flags();
        self.all.push((wanted, observer));
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

    /// Passes an event to each observer that wants it.
    pub(super) fn tell<E: RequestEvent>(&self, event: &E) {
        if self.wanted.contains(E::KIND) {
            let wanting = self.all.iter().filter(|(wanted, _)| wanted.contains(E::KIND));
            call_all(wanting.map(|(_, observer)| &**observer), event);
        }
    }
}

impl fmt::Debug for Observers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observers").field("count", &self.all.len()).finish_non_exhaustive()
    }
}

/// Calls an observer and catches its panic. Events are sent while values are dropped, where a
/// second panic would abort the process.
pub(super) fn call(observer: &dyn Observer, event: impl FnOnce(&dyn Observer)) {
    if catch_unwind(AssertUnwindSafe(|| event(observer))).is_err() {
        log_panic();
    }
}

/// Returns the observer behind a reference that several places can hold. The observer may already
/// be such a reference.
fn shared(observer: impl Observer) -> Arc<dyn Observer> {
    let mut observer = Some(observer);
    let any: &mut dyn Any = &mut observer;
    if let Some(shared) = any.downcast_mut::<Option<Arc<dyn Observer>>>().and_then(Option::take) {
        return shared;
    }
    Arc::new(observer.expect("taken only if it is shared"))
}

/// Passes an event to these observers.
fn call_all<'o>(mut observers: impl Iterator<Item = &'o dyn Observer>, event: &impl RequestEvent) {
    // The observer that panics is taken before it is called, so the next round calls the observers
    // after it.
    let mut call_rest = || {
        for observer in observers.by_ref() {
            event.tell(observer);
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
