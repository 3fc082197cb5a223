//! Admission: what happens to a request between its arrival and the pick of an endpoint. Each part works without the others.

pub(crate) mod flight;
pub(crate) mod queue;

pub use flight::SingleFlightStatus;
pub use queue::QueueRules;
