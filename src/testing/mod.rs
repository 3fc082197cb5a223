//! Parts for tests and demonstrations.
//!
//! - [`kylin::KylinNode`] is a Kylin node that runs in process or behind a socket, and fails on
//!   demand.
//! - [`Scripted`] is a backend with a list of responses, for unit tests.
//! - [`FailingStore`] is a session store that fails on demand.
//! - [`store::conformance`] checks an implementation of
//!   [`SessionStore`](crate::session::SessionStore).
//! - [`backend::conformance`] checks an implementation of [`Backend`](crate::Backend).

pub mod backend;
mod failing_store;
pub mod kylin;
mod scripted;
pub mod store;

pub use failing_store::{FailingStore, StoreFault};
#[doc(inline)]
pub use kylin::KylinNode;
pub use scripted::{Scripted, Step};
