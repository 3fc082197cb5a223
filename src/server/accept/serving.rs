//! The handler and settings of a listener, which a reload can replace while connections are open.

use std::sync::Arc;

use arc_swap::ArcSwap;
use arc_swap::cache::Cache;

use crate::server::ListenOptions;
use crate::server::limits::Limits;

/// The handler and settings that serve the connections of a listener.
pub(in crate::server) struct Serving<H> {
    pub(in crate::server) handler: H,
    pub(in crate::server) options: ListenOptions,
    pub(in crate::server) limits: Limits,
}

/// The current [`Serving`] of a listener.
pub(in crate::server) type SharedServing<H> = Arc<ArcSwap<Serving<H>>>;

/// The handler of a connection. After a reload, it is the new one from the next request on.
pub(in crate::server) struct CurrentHandler<H> {
    shared: SharedServing<H>,
    cache: Cache<SharedServing<H>, Arc<Serving<H>>>,
}

impl<H> CurrentHandler<H> {
    pub(in crate::server) fn of(serving: &SharedServing<H>) -> Self {
        CurrentHandler { shared: Arc::clone(serving), cache: Cache::new(Arc::clone(serving)) }
    }

    /// Returns a handler that is never replaced.
    pub(in crate::server) fn fixed(handler: H, limits: Limits) -> Self {
        let serving = Serving { handler, options: ListenOptions::new(), limits };
        CurrentHandler::of(&Arc::new(ArcSwap::from_pointee(serving)))
    }

    /// Returns the handler of the next request. Without a reload this is one atomic load, and cores
    /// do not contend.
    pub(in crate::server) fn get(&mut self) -> &H {
        &self.cache.load().handler
    }

    /// Returns the shared value from which the streams of an HTTP/2 connection load their handlers.
    pub(in crate::server) fn shared(&self) -> &SharedServing<H> {
        &self.shared
    }
}
