//! What is known of a request.
//!
//! - [`RequestContext`]: everything that the proxy knows of one request, read from its head once and handed down by reference.
//! - [`RequestView`]: what a policy may read: a borrowed view, so that a pick neither touches the body nor allocates.

mod client;
mod context;
mod view;

pub use client::ClientAddr;
pub(crate) use context::RequestContext;
pub use view::RequestView;

pub use crate::kylin::query::QueryKeys;
