//! Several pieces written as one.

use std::io::IoSlice;

use smallvec::SmallVec;

/// Pieces that together are no longer than this are copied into one.
const GATHERED: usize = 4096;

/// Room for pieces that are put together. It is not cleared first, unlike an array's.
pub(super) type Room = SmallVec<[u8; GATHERED]>;

/// `bufs` one after the other in `room`, which is empty; none when they are one piece already, or too long.
///
/// hyper writes frames and their data as pieces. For the kernel a vectored write costs more than a plain one, more than
/// copying some kilobytes does.
pub(super) fn gather<'r>(bufs: &[IoSlice<'_>], room: &'r mut Room) -> Option<&'r [u8]> {
    let length: usize = bufs.iter().map(|buf| buf.len()).sum();
    if bufs.len() < 2 || length > GATHERED {
        return None;
    }
    for buf in bufs {
        room.extend_from_slice(buf);
    }
    Some(room)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joins_what_fits_and_leaves_alone_what_does_not() {
        let pieces = |pieces: &[&'static [u8]]| pieces.iter().map(|piece| IoSlice::new(piece)).collect::<Vec<_>>();
        assert_eq!(gather(&pieces(&[b"ab", b"", b"cd"]), &mut Room::new()), Some(&b"abcd"[..]));
        assert_eq!(gather(&pieces(&[&[0; GATHERED - 1], b"c"]), &mut Room::new()).map(<[u8]>::len), Some(GATHERED));
        assert_eq!(gather(&pieces(&[&[0; GATHERED], b"c"]), &mut Room::new()), None);
        assert_eq!(gather(&pieces(&[b"ab"]), &mut Room::new()), None);
        assert_eq!(gather(&[], &mut Room::new()), None);
    }
}
