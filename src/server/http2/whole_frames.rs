//! Keeps what has arrived of an incomplete frame or header block from the codec, until the rest of it arrives.
//!
//! The codec would hold the decoded headers of a block without a bound in time, and without a reservation: some bytes may decode to
//! a hundred times as much memory. So its part of an incomplete block is held here, as it came from the client, within the budget.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::MIN_RESERVED;
use super::frame_scanner::{FrameScanner, MAX_FRAME};
use crate::buffer::Reservation;

/// The first allocation, in bytes.
const MIN_CAPACITY: usize = 512;

/// The size of one read of an incomplete frame.
const READ_SIZE: usize = 4 * 1024;

/// The time after which a client that waits for memory tries again.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// The number of times that a client tries again. A second in all, as for a body.
const MAX_LOOKS: u32 = 10;

/// A frame HEADERS that does not end its header block.
const EMPTY_HEADERS: &[u8] = &[0, 0, 0, 1, 0, 0, 0, 0, 1];

/// A frame CONTINUATION that does not end its header block.
const EMPTY_CONTINUATION: &[u8] = &[0, 0, 0, 9, 0, 0, 0, 0, 1];

/// The frames of a client on their way to the codec.
pub(super) struct WholeFrames {
    scanner: FrameScanner,
    /// The begin of a frame or header block. Empty while the codec has all bytes that have arrived.
    held: Vec<u8>,
    /// How many of the held bytes the codec has; `None` while the rest has not arrived.
    passed: Option<usize>,
    reservation: Reservation,
    /// The most bytes of a header block.
    max: usize,
    timeout: Duration,
    /// Runs while the client sends no more of what is held.
    timer: Option<Pin<Box<Sleep>>>,
    /// Runs while the budget has no bytes for more of what is held.
    memory_timer: Option<Pin<Box<Sleep>>>,
    /// How many times the budget had no bytes.
    looks: u32,
    is_refused: bool,
    /// The client may be sending bytes that are not read.
    lingers: bool,
}

impl WholeFrames {
    /// `reservation`: for more than the first [`MIN_RESERVED`] bytes. `max_list`: the largest header list that the codec accepts.
    /// `timeout`: the time for the rest of a header block.
    pub(super) fn new(reservation: Reservation, max_list: usize, timeout: Duration) -> Self {
        WholeFrames {
            scanner: FrameScanner::new(),
            held: Vec::new(),
            passed: None,
            reservation,
            max: max_list.saturating_add(MAX_FRAME as usize),
            timeout,
            timer: None,
            memory_timer: None,
            looks: 0,
            is_refused: false,
            lingers: false,
        }
    }

    /// Returns whether the client of a connection that ends may be sending bytes that are not read.
    pub(super) fn lingers(&self) -> bool {
        self.lingers
    }

    /// Reads bytes of `stream` for the codec, up to the end of a frame or within DATA.
    fn poll_read<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.held.is_empty() {
            if self.is_refused {
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            }
            let before = buf.filled().len();
            ready!(Pin::new(&mut *stream).poll_read(cx, buf))?;
            let read = &buf.filled()[before..];
            let whole = self.scanner.scan(read);
            if whole == read.len() {
                return Poll::Ready(Ok(()));
            }
            let rest = &read[whole..];
            if !self.make_room(rest.len()) {
                // One read of the codec for each connection.
                self.reservation.grow_anyway(rest.len());
            }
            self.hold(rest);
            buf.set_filled(before + whole);
            if whole > 0 {
                return Poll::Ready(Ok(()));
            }
        }
        while self.passed.is_none() {
            let size = self.scanner.needed().min(READ_SIZE);
            if self.held.len() + size > self.max {
                self.refuse("it is too long");
                break;
            }
            if !ready!(self.poll_room(size, cx)) {
                self.refuse("there is no memory for it");
                self.lingers = true;
                break;
            }
            let mut bytes = [const { MaybeUninit::uninit() }; READ_SIZE];
            let mut bytes = ReadBuf::uninit(&mut bytes[..size]);
            if Pin::new(&mut *stream).poll_read(cx, &mut bytes)?.is_pending() {
                let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(self.timeout)));
                ready!(timer.as_mut().poll(cx));
                self.refuse("it does not arrive in time");
                self.lingers = true;
            } else if bytes.filled().is_empty() {
                return Poll::Ready(Ok(()));
            } else {
                self.scanner.scan(bytes.filled());
                self.hold(bytes.filled());
            }
        }
        self.pass(buf);
        Poll::Ready(Ok(()))
    }

    /// Waits for room for more bytes; false if there is none for too long.
    fn poll_room(&mut self, more: usize, cx: &mut Context<'_>) -> Poll<bool> {
        loop {
            if let Some(timer) = &mut self.memory_timer {
                ready!(timer.as_mut().poll(cx));
                self.memory_timer = None;
            }
            if self.make_room(more) {
                self.looks = 0;
                return Poll::Ready(true);
            }
            if self.looks == MAX_LOOKS {
                self.reservation.count_refusal();
                return Poll::Ready(false);
            }
            self.looks += 1;
            self.memory_timer = Some(Box::pin(sleep(LOOK_AGAIN)));
        }
    }

    /// Reserves and allocates room for more bytes; false if the budget does not allow it.
    fn make_room(&mut self, more: usize) -> bool {
        let length = self.held.len() + more;
        if length <= self.held.capacity() {
            return true;
        }
        let capacity = length.next_power_of_two().clamp(MIN_CAPACITY, self.max.max(length));
        let missing = capacity.saturating_sub(MIN_RESERVED + self.reservation.bytes());
        if missing > 0 && !self.reservation.try_grow(missing) {
            return false;
        }
        self.held.reserve_exact(capacity - self.held.len());
        true
    }

    /// Holds more of an incomplete frame or header block.
    fn hold(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
        self.passed = self.scanner.is_whole().then_some(0);
    }

    /// Ends the connection: the codec gets more empty frames of one header block than it accepts, and sends GOAWAY with the code
    /// ENHANCE_YOUR_CALM.
    fn refuse(&mut self, reason: &'static str) {
        tracing::debug!(reason, "header block of an HTTP/2 client refused");
        // The codec accepts a quarter more frames than the longest block needs, and at least 5.
        let frames = 16 + 2 * self.max / MAX_FRAME as usize;
        self.held = [EMPTY_HEADERS, &EMPTY_CONTINUATION.repeat(frames)].concat();
        (self.passed, self.is_refused) = (Some(0), true);
        self.release();
    }

    /// Passes held bytes to the codec.
    fn pass(&mut self, buf: &mut ReadBuf<'_>) {
        let passed = self.passed.unwrap_or_default();
        let end = self.held.len().min(passed + buf.remaining());
        buf.put_slice(&self.held[passed..end]);
        self.passed = Some(end);
        if end == self.held.len() {
            (self.held, self.passed) = (Vec::new(), None);
            self.release();
        }
    }

    fn release(&mut self) {
        self.timer = None;
        self.reservation.shrink_to(0);
    }
}

/// A client's socket, of which frames are read.
pub(super) struct FrameReader<'c, S> {
    pub(super) frames: &'c mut WholeFrames,
    pub(super) stream: &'c mut S,
}

impl<S: AsyncRead + Unpin> AsyncRead for FrameReader<'_, S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let FrameReader { frames, stream } = &mut *self;
        frames.poll_read(*stream, cx, buf)
    }
}
