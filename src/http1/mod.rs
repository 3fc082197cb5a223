//! The HTTP/1.1 wire format that the server (towards clients) and the backend (towards nodes)
//! share.
//!
//! Parsing is strict. A message that two parsers could read in two ways is refused, regardless of
//! which side sends it. Request smuggling exploits the difference between two such readings.
#![cfg_attr(
    not(all(feature = "client", feature = "server")),
    allow(dead_code, reason = "some parts serve only requests or only responses")
)]

pub(crate) mod body_decoder;
mod chunked;
pub(crate) mod encode;
pub(crate) mod framing;
pub(crate) mod head;
pub(crate) mod headers;
pub(crate) mod writer;

#[cfg(fuzzing)]
pub(crate) use chunked::fuzz as fuzz_chunked;

/// Splits `data` at the position that its first byte selects.
#[cfg(fuzzing)]
pub(crate) fn in_two(data: &[u8]) -> [&[u8]; 2] {
    let at = usize::from(data.first().copied().unwrap_or(0)) % (data.len() + 1);
    [&data[..at], &data[at..]]
}
