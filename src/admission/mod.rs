//! Admission: the result cache, single flight, and the queues of endpoints. A request passes
//! through them between its arrival and its attempt. Each part works without the others.

#[cfg(feature = "cache")]
pub(crate) mod cache;
pub(crate) mod flight;
pub(crate) mod queue;

pub use crate::observe::SingleFlightStatus;
#[cfg(feature = "cache")]
#[cfg_attr(docsrs, doc(cfg(feature = "cache")))]
pub use cache::CacheRules;
pub use queue::QueueRules;
