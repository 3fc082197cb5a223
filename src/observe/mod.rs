//! Events of requests, endpoints, session stores and discovery, for logs, metrics and traces.
//!
//! An application implements [`Observer`], whose methods have empty bodies by default. It passes
//! the observer to [`ProxyBuilder::observer`](crate::proxy::ProxyBuilder::observer) for the events
//! of requests, and to a [`Watch`] for the events of state. Without an observer, no event is built.
//!
//! # Events of a request
//!
//! | order | event | how often |
//! |---|---|---|
//! | 1 | [`received`](Observer::received) | once |
//! | 2 | [`classified`](Observer::classified) | once, in a Kylin-aware proxy |
//! | 3 | [`session`](Observer::session) | after the lookup, and when the response binds or moves the session |
//! | 4 | [`queued`](Observer::queued), [`dispatched`](Observer::dispatched) | for each attempt of a query that waits for a slot |
//! | 4 | [`shared`](Observer::shared), instead of the attempts | once, for a query that gets a copy of the response to an identical one |
//! | 4 | `cache` (feature `cache`) | for each query that is looked up in the result cache |
//! | 5 | [`picked`](Observer::picked), [`attempt_began`](Observer::attempt_began), [`attempt_ended`](Observer::attempt_ended) | for each attempt |
//! | 6 | [`retried`](Observer::retried) | between two attempts |
//! | 7 | [`response_head`](Observer::response_head) | once, unless the client leaves before |
//! | 8 | [`finished`](Observer::finished) | exactly once, when the body of the response has ended or is dropped |
//!
//! Requests of the crate itself have no such events: probes, the metastore check, relayed logins.
//! Their results appear as events of [`endpoint_changed`](Observer::endpoint_changed), whose
//! [`FoundBy`] distinguishes probes from requests.
//!
//! The library itself logs changes of state through `tracing`, with the target `kylin_lb::state`.
//! An application that logs the events of a [`Watch`] should turn that target off.
//!
//! # Request ids and traces
//!
//! An observed request has an id, which its node gets as `x-request-id`. The id is the
//! [`RequestId`] in the extensions of the request, else the client's header, else a new one of 32
//! hexadecimal digits. The header of any client is accepted if it consists of 1 to 128 letters,
//! digits and `-_.:+/=@`; any other value is replaced. So an id finds the lines of one request in
//! several logs. It proves nothing, because a client may reuse an id.
//!
//! If a `tracing` subscriber enables the target `kylin_lb::request` at debug, each request has a
//! span `request`, and in it each attempt has a span `attempt`:
//!
//! - `request` has `request_id`, `traceparent`, `method`, `path`, `user`, `class`, `status`,
//!   `bytes`, `attempts` and `end`;
//! - `attempt` has `number`, `endpoint`, `reason`, `status`, `phase` and `end`.
//!
//! The span of a request lasts until the response body has ended, and is a child of the span in
//! which the application calls the proxy. `traceparent` (W3C Trace Context) reaches the node
//! unchanged. An application whose subscriber continues traces sets its own with
//! [`HeaderEdits`](crate::proxy::HeaderEdits).
//!
//! # Secrets
//!
//! No event contains credentials, cookies or session ids. Targets are
//! [masked](ObservedRequest::target). An event contains the SQL of a query only if the application
//! asks for it with [`Detail::Sql`]. The fingerprint of a query is a hash of the SQL without its
//! literals.
//!
//! ```
//! use kylin_lb::observe::{Finished, Observer};
//!
//! struct Print;
//!
//! impl Observer for Print {
//!     fn finished(&self, event: &Finished<'_>) {
//!         println!("{} {} {:?}", event.request.method(), event.request.path(), event.times.total);
//!     }
//! }
//!
//! # fn build(cluster: kylin_lb::Cluster) -> Result<(), Box<dyn std::error::Error>> {
//! let proxy = kylin_lb::Proxy::builder(cluster).observer(Print).build()?;
//! # Ok(())
//! # }
//! ```

mod change;
mod event;
#[cfg(feature = "metrics")]
mod metrics;
mod observers;
mod recorder;
mod request;
mod served_by;
mod span;
mod target;
mod termination;
mod timestamp;
mod watch;

use std::sync::Arc;

pub use self::change::{
    ClusterChange, ClusterChanged, DiscoveryChanged, EndpointChange, EndpointChanged, FoundBy, StoreChanged,
};
pub use self::event::{
    Attempt, AttemptBegan, AttemptEnd, AttemptEnded, AttemptPhase, Classified, Dispatched, EndpointPicked, EventKind,
    Finished, Queued, Received, ResponseHead, Retried, RetryReason, SessionEvent, SessionOutcome, SharedResponse,
    SingleFlightStatus, Times,
};
#[cfg(feature = "cache")]
pub use self::event::{CacheLookup, CacheOutcome, CacheStatus};
#[cfg(feature = "metrics")]
pub use self::metrics::Metrics;
pub(crate) use self::observers::Observers;
pub use self::observers::RequestObserver;
pub(crate) use self::recorder::RequestRecorder;
pub(crate) use self::request::{BorrowedHeaders, ShownHeaders};
pub use self::request::{ObservedRequest, RequestId, basic_user};
pub use self::served_by::ServedBy;
pub(crate) use self::span::in_span;
pub use self::target::{is_secret_name, masked_query, masked_target};
pub use self::termination::Termination;
#[cfg(feature = "server")]
pub(crate) use self::termination::{Cut, CutScope};
pub use self::timestamp::Timestamp;
pub use self::watch::Watch;
pub use crate::kylin::response::QueryFlags;

/// Receives the events of requests and endpoints.
///
/// Every method has an empty body by default, so an implementation defines only the methods for the
/// events that it needs. The proxy calls the methods on the request path, so they must not block,
/// and should leave I/O to a task of their own. If a method panics, the observer loses this event;
/// the request proceeds, and the panic is logged once.
///
/// Several observers may observe one proxy. Each gets every event that it [wants](Self::wants), in
/// the order in which they were added.
pub trait Observer: Send + Sync + 'static {
    /// Returns which facts the events must contain. Called once, when the proxy is built. Default:
    /// [`Detail::Request`].
    fn detail(&self) -> Detail {
        Detail::Request
    }

    /// Returns whether the observer reads [`Finished::query_flags`], which also needs
    /// [`Detail::Query`] or more. The last 4 KiB of the response to each query are then copied.
    /// Called once, when the proxy is built. Default: no.
    fn reads_query_flags(&self) -> bool {
        false
    }

    /// Returns whether the observer gets events of this kind; other events are not built. Called
    /// once for each kind, when the proxy is built. An observer of [one request](RequestObserver)
    /// gets all events. Default: yes.
    fn wants(&self, _kind: EventKind) -> bool {
        true
    }

    /// Called when a request has arrived, and its head is known.
    fn received(&self, _event: &Received<'_>) {}

    /// Called when the class of a request is known, and the path is open to clients.
    fn classified(&self, _event: &Classified<'_>) {}

    /// Called when the session of a request was looked up, and when the response has bound or moved
    /// it.
    fn session(&self, _event: &SessionEvent<'_>) {}

    /// Called when a query begins to [wait](crate::admission::QueueRules) for a slot of an
    /// endpoint. Called again if another endpoint is picked for the query because the first left,
    /// drains or is ejected.
    fn queued(&self, _event: &Queued<'_>) {}

    /// Called when a query that waited has its slot. Not called if the query is refused, waits too
    /// long, or its client leaves.
    fn dispatched(&self, _event: &Dispatched<'_>) {}

    /// Called when a request gets a copy of the response to an identical one. The request may have
    /// had attempts before, which failed.
    fn shared(&self, _event: &SharedResponse<'_>) {}

    /// Called when a query was looked up in the result cache. After a hit there is no attempt.
    #[cfg(feature = "cache")]
    #[cfg_attr(docsrs, doc(cfg(feature = "cache")))]
    fn cache(&self, _event: &CacheLookup<'_>) {}

    /// Called when an endpoint was picked for the next attempt.
    fn picked(&self, _event: &EndpointPicked<'_>) {}

    /// Called when an attempt begins: the request is about to be sent.
    fn attempt_began(&self, _event: &AttemptBegan<'_>) {}

    /// Called when an attempt has ended. The attempt whose response the client gets ends with the
    /// body of that response.
    fn attempt_ended(&self, _event: &AttemptEnded<'_>) {}

    /// Called before a request is sent again.
    fn retried(&self, _event: &Retried<'_>) {}

    /// Called when the head of the response for the client is known.
    fn response_head(&self, _event: &ResponseHead<'_>) {}

    /// Called when a request has ended, exactly once for each [`received`](Self::received).
    fn finished(&self, _event: &Finished<'_>) {}

    /// Called when the health or the administrative state of an endpoint has changed, or the
    /// endpoint was added or removed.
    fn endpoint_changed(&self, _event: &EndpointChanged<'_>) {}

    /// Called when a cluster has lost its last endpoint that is up, or has one again.
    fn cluster_changed(&self, _event: &ClusterChanged<'_>) {}

    /// Called when a session store became unavailable, or available again.
    fn store_changed(&self, _event: &StoreChanged<'_>) {}

    /// Called when a source of nodes fails, works again, or has changed the membership.
    fn discovery_changed(&self, _event: &DiscoveryChanged<'_>) {}
}

/// The facts that the events of a request must contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
#[non_exhaustive]
pub enum Detail {
    /// Facts of the head, and times.
    #[default]
    Request,
    /// Also the fingerprint and the project of a query, which costs a hash over its SQL.
    Query,
    /// Also the SQL, with its literals.
    Sql,
}

impl<O: Observer + ?Sized> Observer for Arc<O> {
    fn detail(&self) -> Detail {
        (**self).detail()
    }

    fn reads_query_flags(&self) -> bool {
        (**self).reads_query_flags()
    }

    fn wants(&self, kind: EventKind) -> bool {
        (**self).wants(kind)
    }

    fn received(&self, event: &Received<'_>) {
        (**self).received(event);
    }

    fn classified(&self, event: &Classified<'_>) {
        (**self).classified(event);
    }

    fn session(&self, event: &SessionEvent<'_>) {
        (**self).session(event);
    }

    fn queued(&self, event: &Queued<'_>) {
        (**self).queued(event);
    }

    fn dispatched(&self, event: &Dispatched<'_>) {
        (**self).dispatched(event);
    }

    fn shared(&self, event: &SharedResponse<'_>) {
        (**self).shared(event);
    }

    #[cfg(feature = "cache")]
    fn cache(&self, event: &CacheLookup<'_>) {
        (**self).cache(event);
    }

    fn picked(&self, event: &EndpointPicked<'_>) {
        (**self).picked(event);
    }

    fn attempt_began(&self, event: &AttemptBegan<'_>) {
        (**self).attempt_began(event);
    }

    fn attempt_ended(&self, event: &AttemptEnded<'_>) {
        (**self).attempt_ended(event);
    }

    fn retried(&self, event: &Retried<'_>) {
        (**self).retried(event);
    }

    fn response_head(&self, event: &ResponseHead<'_>) {
        (**self).response_head(event);
    }

    fn finished(&self, event: &Finished<'_>) {
        (**self).finished(event);
    }

    fn endpoint_changed(&self, event: &EndpointChanged<'_>) {
        (**self).endpoint_changed(event);
    }

    fn cluster_changed(&self, event: &ClusterChanged<'_>) {
        (**self).cluster_changed(event);
    }

    fn store_changed(&self, event: &StoreChanged<'_>) {
        (**self).store_changed(event);
    }

    fn discovery_changed(&self, event: &DiscoveryChanged<'_>) {
        (**self).discovery_changed(event);
    }
}
