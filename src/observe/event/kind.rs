#[cfg(feature = "cache")]
use super::CacheLookup;
use super::{
    AttemptBegan, AttemptEnded, Classified, Dispatched, EndpointPicked, Finished, Queued, Received, ResponseHead,
    Retried, SessionEvent, SharedResponse,
};
use crate::observe::Observer;

/// The kinds of events of a request, one per method of [`Observer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EventKind {
    /// [`received`](Observer::received).
    Received,
    /// [`classified`](Observer::classified).
    Classified,
    /// [`session`](Observer::session).
    Session,
    /// [`queued`](Observer::queued).
    Queued,
    /// [`dispatched`](Observer::dispatched).
    Dispatched,
    /// [`shared`](Observer::shared).
    Shared,
    /// `cache` (feature `cache`).
    Cache,
    /// [`picked`](Observer::picked).
    Picked,
    /// [`attempt_began`](Observer::attempt_began).
    AttemptBegan,
    /// [`attempt_ended`](Observer::attempt_ended).
    AttemptEnded,
    /// [`retried`](Observer::retried).
    Retried,
    /// [`response_head`](Observer::response_head).
    ResponseHead,
    /// [`finished`](Observer::finished).
    Finished,
}

impl EventKind {
    /// All kinds.
    pub(in crate::observe) const ALL: [EventKind; 13] = [
        EventKind::Received,
        EventKind::Classified,
        EventKind::Session,
        EventKind::Queued,
        EventKind::Dispatched,
        EventKind::Shared,
        EventKind::Cache,
        EventKind::Picked,
        EventKind::AttemptBegan,
        EventKind::AttemptEnded,
        EventKind::Retried,
        EventKind::ResponseHead,
        EventKind::Finished,
    ];
}

/// An event of a request.
pub(in crate::observe) trait RequestEvent {
    const KIND: EventKind;

    /// Calls the method of `observer` that gets the event.
    fn tell(&self, observer: &dyn Observer);
}

impl RequestEvent for Received<'_> {
    const KIND: EventKind = EventKind::Received;

    fn tell(&self, observer: &dyn Observer) {
        observer.received(self);
    }
}

impl RequestEvent for Classified<'_> {
    const KIND: EventKind = EventKind::Classified;

    fn tell(&self, observer: &dyn Observer) {
        observer.classified(self);
    }
}

impl RequestEvent for SessionEvent<'_> {
    const KIND: EventKind = EventKind::Session;

    fn tell(&self, observer: &dyn Observer) {
        observer.session(self);
    }
}

impl RequestEvent for Queued<'_> {
    const KIND: EventKind = EventKind::Queued;

    fn tell(&self, observer: &dyn Observer) {
        observer.queued(self);
    }
}

impl RequestEvent for Dispatched<'_> {
    const KIND: EventKind = EventKind::Dispatched;

    fn tell(&self, observer: &dyn Observer) {
        observer.dispatched(self);
    }
}

impl RequestEvent for SharedResponse<'_> {
    const KIND: EventKind = EventKind::Shared;

    fn tell(&self, observer: &dyn Observer) {
        observer.shared(self);
    }
}

#[cfg(feature = "cache")]
impl RequestEvent for CacheLookup<'_> {
    const KIND: EventKind = EventKind::Cache;

    fn tell(&self, observer: &dyn Observer) {
        observer.cache(self);
    }
}

impl RequestEvent for EndpointPicked<'_> {
    const KIND: EventKind = EventKind::Picked;

    fn tell(&self, observer: &dyn Observer) {
        observer.picked(self);
    }
}

impl RequestEvent for AttemptBegan<'_> {
    const KIND: EventKind = EventKind::AttemptBegan;

    fn tell(&self, observer: &dyn Observer) {
        observer.attempt_began(self);
    }
}

impl RequestEvent for AttemptEnded<'_> {
    const KIND: EventKind = EventKind::AttemptEnded;

    fn tell(&self, observer: &dyn Observer) {
        observer.attempt_ended(self);
    }
}

impl RequestEvent for Retried<'_> {
    const KIND: EventKind = EventKind::Retried;

    fn tell(&self, observer: &dyn Observer) {
        observer.retried(self);
    }
}

impl RequestEvent for ResponseHead<'_> {
    const KIND: EventKind = EventKind::ResponseHead;

    fn tell(&self, observer: &dyn Observer) {
        observer.response_head(self);
    }
}

impl RequestEvent for Finished<'_> {
    const KIND: EventKind = EventKind::Finished;

    fn tell(&self, observer: &dyn Observer) {
        observer.finished(self);
    }
}
