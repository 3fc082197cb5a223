//! HTTP/1.1 on the wire: what the side towards clients (`server`) and the side towards nodes (`backend`) have in common.
//!
//! Reading is strict. A message that two parsers might read in two ways is refused, whichever side it comes from: between the
//! two readings lies request smuggling.

pub(crate) mod chunks;
pub(crate) mod fields;
pub(crate) mod framing;
pub(crate) mod lines;
pub(crate) mod out;
