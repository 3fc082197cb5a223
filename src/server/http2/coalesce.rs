//! Writes several buffers as one.

use std::io::IoSlice;

use smallvec::SmallVec;

/// The maximum total length of buffers that are copied into one.
const MAX_COALESCED: usize = 4096;

/// The memory for coalesced buffers. Unlike an array, it is not cleared first.
pub(super) type CoalesceBuffer = SmallVec<[u8; MAX_COALESCED]>;

/// Copies `bufs` into the empty `buffer`; `None` if there are fewer than two or they are too long.
///
/// hyper writes frames and their data as separate buffers. A vectored write costs the kernel more
/// than a plain write and a copy of some kilobytes.
pub(super) fn coalesce<'b>(bufs: &[IoSlice<'_>], buffer: &'b mut CoalesceBuffer) -> Option<&'b [u8]> {
    let length: usize = bufs.iter().map(|buf| buf.len()).sum();
    if bufs.len() < 2 || length > MAX_COALESCED {
        return None;
    }
    for buf in bufs {
        buffer.extend_from_slice(buf);
    }
    Some(buffer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_buffers_are_joined_and_long_ones_are_not() {
        let bufs = |bufs: &[&'static [u8]]| bufs.iter().map(|buf| IoSlice::new(buf)).collect::<Vec<_>>();
        let length = |slices: &[&'static [u8]]| coalesce(&bufs(slices), &mut CoalesceBuffer::new()).map(<[u8]>::len);
        assert_eq!(coalesce(&bufs(&[b"ab", b"", b"cd"]), &mut CoalesceBuffer::new()), Some(&b"abcd"[..]));
        assert_eq!(length(&[&[0; MAX_COALESCED - 1], b"c"]), Some(MAX_COALESCED));
        assert_eq!(length(&[&[0; MAX_COALESCED], b"c"]), None);
        assert_eq!(length(&[b"ab"]), None);
        assert_eq!(length(&[]), None);
    }
}
