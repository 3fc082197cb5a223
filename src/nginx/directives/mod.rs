//! Reads directives into a typed model.
//!
//! [`catalogue`] lists every name and the blocks that it may stand in. Each of the other modules
//! reads one block or one family of directives.

pub(crate) mod access_log;
pub(crate) mod catalogue;
pub(crate) mod comments;
pub(crate) mod context;
pub(crate) mod left_out;
pub(crate) mod location;
pub(crate) mod remarks;
pub(crate) mod reply;
pub(crate) mod rewrite;
pub(crate) mod server;
pub(crate) mod settings;
pub(crate) mod upstream;
