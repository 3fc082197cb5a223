//! Reads directives into a typed model.
//!
//! [`catalogue`] knows every name and where it may stand. The other modules read one block or one
//! family of directives each.

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
