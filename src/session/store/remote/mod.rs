//! What the stores over the network have in common.
//!
//! None of it knows a protocol: addresses as hosts write them, faults in words of our own, versions that never repeat, the pause
//! before a server is tried again, connections that callers take turns with.

mod envelope;
mod fault;
mod gate;
#[cfg(any(feature = "mysql", feature = "memcached"))]
mod pool;
#[cfg(any(feature = "redis", feature = "mysql"))]
pub(super) mod tls;
pub(super) mod url;

#[cfg(feature = "memcached")]
pub(super) use envelope::pack;
#[cfg(any(feature = "redis", feature = "memcached"))]
pub(super) use envelope::{LONGEST, prefixed, unpack};
pub(super) use envelope::{encode, fresh_version};
pub(super) use fault::Fault;
pub(super) use gate::Gate;
#[cfg(any(feature = "mysql", feature = "memcached"))]
pub(super) use pool::{Dial, Failed, Pool};
pub(super) use url::StoreUrl;
