//! The function that takes the values of variables.

use std::io::{Cursor, Write as _};

/// Takes a value piece by piece, so that evaluating a variable needs no allocation.
pub(super) type Sink<'s> = &'s mut dyn FnMut(&[u8]);

/// Formats on the stack; the longest IPv6 address has 45 characters.
pub(super) fn display(value: impl std::fmt::Display, sink: Sink<'_>) {
    let mut buffer = Cursor::new([0_u8; 64]);
    if write!(buffer, "{value}").is_ok() {
        let length = usize::try_from(buffer.position()).unwrap_or_default();
        sink(&buffer.get_ref()[..length]);
    }
}
