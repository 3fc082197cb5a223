//! The part of a response's body that is read ahead of its client.

use std::collections::VecDeque;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::{Body, BodyError};
use crate::buffer::Reservation;

/// The capacity of a piece, in bytes, unless a frame is longer.
const PIECE: usize = 16 * 1024;

/// The bytes of a body that its reader has not taken yet, in order, and the end of the body.
///
/// Frames are copied into the spool's own pieces. A frame may be a small slice of a large buffer,
/// and all the memory that it keeps allocated must be within the budget.
pub(crate) struct Spool {
    pieces: VecDeque<Vec<u8>>,
    /// A frame for which the budget had no bytes. Nothing more is read until it is taken.
    frame: Bytes,
    length: usize,
    max: usize,
    /// Set when the body has ended.
    end: Option<Result<(), BodyError>>,
    reservation: Reservation,
}

impl Spool {
    /// Returns an empty spool for up to `max` bytes.
    pub(crate) fn new(reservation: Reservation, max: usize) -> Self {
        Spool { pieces: VecDeque::new(), frame: Bytes::new(), length: 0, max, end: None, reservation }
    }

    /// Reads the available bytes of the body, up to the limit, without waiting. The task is woken
    /// when the body has more, unless the limit is reached.
    pub(crate) fn fill(&mut self, body: &mut Body, cx: &mut Context<'_>) {
        while self.end.is_none() && self.frame.is_empty() && self.length < self.max {
            match body.poll_next(cx) {
                Poll::Pending => return,
                Poll::Ready(None) => self.end = Some(Ok(())),
                Poll::Ready(Some(Err(error))) => self.end = Some(Err(error)),
                Poll::Ready(Some(Ok(frame))) => {
                    let Ok(data) = frame.into_data() else { continue };
                    if !self.keep(&data) {
                        self.frame = data;
                    }
                }
            }
        }
    }

    /// Returns the next bytes and whether they are reserved, or the end of the body. Returns `None`
    /// if the body must be polled.
    pub(crate) fn next(&mut self) -> Option<Option<Result<(Bytes, bool), BodyError>>> {
        if let Some(piece) = self.pieces.pop_front() {
            self.length -= piece.len();
            let reservation = self.reservation.split(piece.capacity());
            return Some(Some(Ok((reservation.hold(piece), true))));
        }
        if !self.frame.is_empty() {
            return Some(Some(Ok((std::mem::take(&mut self.frame), false))));
        }
        match self.end.take()? {
            Ok(()) => Some(None),
            Err(error) => Some(Some(Err(error))),
        }
    }

    /// Returns true if the spool has neither bytes nor the end of the body.
    pub(crate) fn is_empty(&self) -> bool {
        self.pieces.is_empty() && self.frame.is_empty() && !matches!(self.end, Some(Err(_)))
    }

    /// Copies a frame. Returns false if the budget has no bytes left for it.
    fn keep(&mut self, data: &[u8]) -> bool {
        let free = self.pieces.back().map_or(0, |last| last.capacity() - last.len());
        let (first, rest) = data.split_at(free.min(data.len()));
        if !rest.is_empty() && !self.reservation.grow(rest.len().max(PIECE)) {
            return false;
        }
        if let Some(last) = self.pieces.back_mut() {
            last.extend_from_slice(first);
        }
        if !rest.is_empty() {
            let mut piece = Vec::new();
            piece.reserve_exact(rest.len().max(PIECE));
            piece.extend_from_slice(rest);
            self.pieces.push_back(piece);
        }
        self.length += data.len();
        true
    }
}
