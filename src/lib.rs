//! Embeddable load balancing for clusters of Apache Kylin and Kyligence (KAP) nodes.

pub mod backend;
pub mod body;
pub mod clock;
pub mod endpoint;
mod hash;
mod health;
#[cfg(feature = "nginx")]
pub mod nginx;
#[cfg(feature = "test-util")]
pub mod testing;

#[doc(inline)]
pub use backend::{Backend, HttpBackend, SendError};
#[doc(inline)]
pub use body::Body;
#[doc(inline)]
pub use endpoint::{Endpoint, EndpointId, Lease, Outcome};
