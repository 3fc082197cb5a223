//! What the sides towards clients and towards nodes share in how they use hyper and sockets.

use std::io::IoSlice;

/// How many fields hyper takes in a head unless told otherwise. It has room for these on its stack; told any number, this
/// one included, it allocates and clears the room for every message, which cost a seventh of all instructions.
pub(crate) const HYPERS_MAX_HEADERS: usize = 100;

/// Pieces that together are no longer than this are copied into one.
pub(crate) const GATHERED: usize = 4096;

/// `bufs` one after the other in `room`; none when they are one piece already, or do not fit.
///
/// hyper writes a head and a body as two pieces. For the kernel a vectored write costs more than a plain one, more than
/// copying some kilobytes does.
pub(crate) fn gather<'r, const N: usize>(bufs: &[IoSlice<'_>], room: &'r mut [u8; N]) -> Option<&'r [u8]> {
    let length: usize = bufs.iter().map(|buf| buf.len()).sum();
    if bufs.len() < 2 || length > N {
        return None;
    }
    let mut at = 0;
    for buf in bufs {
        room[at..at + buf.len()].copy_from_slice(buf);
        at += buf.len();
    }
    Some(&room[..length])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joins_what_fits_and_leaves_alone_what_does_not() {
        let pieces =
            |pieces: &'static [&'static [u8]]| pieces.iter().map(|piece| IoSlice::new(piece)).collect::<Vec<_>>();
        assert_eq!(gather(&pieces(&[b"ab", b"", b"cd"]), &mut [0; 4]), Some(&b"abcd"[..]));
        assert_eq!(gather(&pieces(&[b"ab", b"cde"]), &mut [0; 4]), None);
        assert_eq!(gather(&pieces(&[b"ab"]), &mut [0; 4]), None);
        assert_eq!(gather(&[], &mut [0; 4]), None);
    }
}
