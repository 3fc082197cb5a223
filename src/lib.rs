//! Embeddable load balancing for clusters of Apache Kylin and Kyligence (KAP) nodes.

pub mod backend;
pub mod balance;
pub mod body;
pub mod clock;
pub mod cluster;
pub mod endpoint;
mod hash;
mod health;
#[cfg(feature = "nginx")]
pub mod nginx;
pub mod proxy;
mod request;
#[cfg(feature = "server")]
pub mod server;
#[cfg(feature = "test-util")]
pub mod testing;
mod view;

#[doc(inline)]
pub use backend::{Backend, HttpBackend, SendError};
#[doc(inline)]
pub use body::Body;
#[doc(inline)]
pub use cluster::Cluster;
#[doc(inline)]
pub use endpoint::{Endpoint, EndpointId, Lease, Outcome};
#[doc(inline)]
pub use proxy::Proxy;
pub use request::{ClientAddr, RequestView};
