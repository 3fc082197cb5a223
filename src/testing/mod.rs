//! Parts for tests and demonstrations.
//!
//! What a balancer does shows only against nodes that behave, and misbehave, as real ones do. [`kylin::KylinNode`] is
//! such a node, in process or behind a socket; [`Scripted`] is the other extreme: a backend of a few lines for unit tests
//! that care about the order of answers and nothing else. [`store::conformance`] checks what a session store of one's own
//! promises, and [`backend::conformance`] what a backend does.

pub mod backend;
pub mod kylin;
mod scripted;
pub mod store;

#[doc(inline)]
pub use kylin::KylinNode;
pub use scripted::{Scripted, Step};
