//! The facts of a request that the proxy reads once.
//!
//! - [`RequestContext`]: the facts of one request, read from its head once and passed by reference.
//! - [`RequestView`]: the part that a policy may read. It borrows, so that a pick does not allocate.

mod client;
mod context;
mod observed;
mod view;

#[allow(unused_imports, reason = "limits for each client follow")]
pub(crate) use crate::client_key::ClientKey;
pub use client::ClientAddr;
pub(crate) use context::RequestContext;
pub(crate) use observed::ObservedQuery;
pub use view::RequestView;

pub use crate::kylin::query::QueryKeys;
