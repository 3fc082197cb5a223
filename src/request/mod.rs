//! The facts of a request that the proxy reads once.
//!
//! - [`RequestContext`]: the facts of one request, read from its head once and passed by reference.
//! - [`ClientLimit`]: counts the open requests or connections of each client, up to a limit.
//! - [`RequestView`]: the part that a policy may read. It borrows, so that a pick does not
//!   allocate.

mod client;
mod client_limit;
mod context;
mod observed;
mod view;

pub(crate) use crate::client_key::ClientKey;
pub use client::{ClientAddr, LocalAddr};
pub(crate) use client_limit::ClientLimit;
#[cfg(feature = "server")]
pub(crate) use client_limit::LimitReached;
pub(crate) use context::RequestContext;
pub(crate) use observed::ObservedQuery;
pub use view::RequestView;

pub use crate::kylin::query::QueryKeys;
