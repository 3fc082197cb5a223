use std::mem::replace;

use bytes::{Bytes, BytesMut};

/// Pieces of a body, joined into one buffer. A single piece, the usual case, is kept as it is.
/// Several pieces are copied, because many small pieces would keep alive the large buffers that
/// they are slices of.
#[derive(Default)]
pub(crate) struct Joined {
    first: Bytes,
    all: BytesMut,
}

impl Joined {
    pub(crate) fn push(&mut self, piece: Bytes) {
        if self.all.is_empty() && self.first.is_empty() {
            self.first = piece;
            return;
        }
        if self.all.is_empty() {
            self.all.extend_from_slice(&replace(&mut self.first, Bytes::new()));
        }
        self.all.extend_from_slice(&piece);
    }

    pub(crate) fn len(&self) -> usize {
        self.first.len() + self.all.len()
    }

    pub(crate) fn into_bytes(self) -> Bytes {
        if self.all.is_empty() { self.first } else { self.all.freeze() }
    }
}
