//! Withholds an incomplete frame or header block from the codec, until the rest of it arrives.
//!
//! The codec would hold the decoded headers of a block without a time limit and without a
//! reservation. A few bytes may decode to a hundred times as much memory. So an incomplete block is
//! held here, encoded as the client sent it, within the budget.

use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::frame_scanner::{FrameScanner, MAX_FRAME};
use super::{MEMORY_RETRY_INTERVAL, MIN_RESERVED};
use crate::buffer::Reservation;
use crate::refusals::Refusal;
use crate::server::NO_MEMORY_FOR_HEAD;

/// The size of the first allocation, in bytes.
const MIN_CAPACITY: usize = 512;

/// The size of one read of an incomplete frame.
const READ_SIZE: usize = 4 * 1024;

/// The number of retries for memory. A second in all, as for a body.
const MAX_MEMORY_RETRIES: u32 = 10;

/// A HEADERS frame that does not end its header block.
const EMPTY_HEADERS: &[u8] = &[0, 0, 0, 1, 0, 0, 0, 0, 1];

/// A CONTINUATION frame that does not end its header block.
const EMPTY_CONTINUATION: &[u8] = &[0, 0, 0, 9, 0, 0, 0, 0, 1];

/// The frames of a client on their way to the codec.
pub(super) struct WholeFrames {
    scanner: FrameScanner,
    /// The beginning of a frame or header block. Empty while the codec has all bytes that have
    /// arrived.
    held: Vec<u8>,
    /// The number of held bytes that the codec has; `None` while the rest has not arrived.
    passed: Option<usize>,
    reservation: Reservation,
    peer: Option<SocketAddr>,
    /// The most bytes of a header block.
    max: usize,
    timeout: Duration,
    /// Runs while the client does not send the rest of the held bytes.
    timer: Option<Pin<Box<Sleep>>>,
    /// Runs while the budget allows no more bytes.
    memory_timer: Option<Pin<Box<Sleep>>>,
    memory_retries: u32,
    is_refused: bool,
}

impl WholeFrames {
    /// `reservation`: for more than the first [`MIN_RESERVED`] bytes. `max_list`: the largest
    /// header list that the codec accepts. `timeout`: the time for the rest of a header block.
    /// `peer`: for the log of refusals.
    pub(super) fn new(reservation: Reservation, max_list: u32, timeout: Duration, peer: Option<SocketAddr>) -> Self {
        WholeFrames {
            scanner: FrameScanner::new(max_continuations(max_list)),
            held: Vec::new(),
            passed: None,
            reservation,
            peer,
            max: max_list.saturating_add(MAX_FRAME) as usize,
            timeout,
            timer: None,
            memory_timer: None,
            memory_retries: 0,
            is_refused: false,
        }
    }

    /// Returns whether a header block was refused. Its client may still be sending bytes that are
    /// not read.
    pub(super) fn is_refused(&self) -> bool {
        self.is_refused
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
            if !self.reserve(rest.len()) {
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
            if self.scanner.has_too_many_frames() {
                self.refuse(Refusal::TooLarge, "the head of the request has too many frames");
                break;
            }
            let size = self.scanner.needed().min(READ_SIZE);
            if self.held.len() + size > self.max {
                self.refuse(Refusal::TooLarge, "the head of the request is too large");
                break;
            }
            if !ready!(self.poll_reserve(size, cx)) {
                self.refuse(Refusal::NoMemory, NO_MEMORY_FOR_HEAD);
                break;
            }
            let mut bytes = [const { MaybeUninit::uninit() }; READ_SIZE];
            let mut bytes = ReadBuf::uninit(&mut bytes[..size]);
            if Pin::new(&mut *stream).poll_read(cx, &mut bytes)?.is_pending() {
                let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(self.timeout)));
                ready!(timer.as_mut().poll(cx));
                self.refuse(Refusal::Slow, "a frame or the head of a request did not arrive in time");
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

    /// Reserves and allocates memory for more bytes. Waits if the budget does not allow it; false
    /// if it does not for too long.
    fn poll_reserve(&mut self, more: usize, cx: &mut Context<'_>) -> Poll<bool> {
        loop {
            if let Some(timer) = &mut self.memory_timer {
                ready!(timer.as_mut().poll(cx));
                self.memory_timer = None;
            }
            if self.reserve(more) {
                self.memory_retries = 0;
                return Poll::Ready(true);
            }
            if self.memory_retries == MAX_MEMORY_RETRIES {
                self.reservation.count_refusal();
                return Poll::Ready(false);
            }
            self.memory_retries += 1;
            self.memory_timer = Some(Box::pin(sleep(MEMORY_RETRY_INTERVAL)));
        }
    }

    /// Reserves and allocates memory for more bytes; false if the budget does not allow it.
    fn reserve(&mut self, more: usize) -> bool {
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

    /// Ends the connection: the codec gets more empty frames of one header block than it accepts,
    /// and sends GOAWAY with the code ENHANCE_YOUR_CALM.
    fn refuse(&mut self, refusal: Refusal, message: &'static str) {
        refusal.report(self.peer, &message);
        // Twice as many as it accepts, because a later version of it may accept some more.
        let frames = 2 * self.scanner.max_continuations();
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

/// Returns how many frames CONTINUATION of a header block the codec accepts, beside the one that
/// ends it: a quarter more than the longest block needs, and at least 5 (h2:
/// `calc_max_continuation_frames`).
fn max_continuations(max_list: u32) -> usize {
    let needed = (max_list / MAX_FRAME).max(1);
    needed.saturating_add(needed / 4).max(5) as usize
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

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::task::{JoinHandle, yield_now};

    use super::*;
    use crate::buffer::BufferBudget;
    use crate::clock::timer_in;
    use crate::refusals;

    const MAX_LIST: u32 = 128 << 10;
    const TIMEOUT: Duration = Duration::from_secs(60);

    /// Returns a client that has sent its preface and `begun`, and what the codec gets until the
    /// connection ends.
    async fn read(budget: &BufferBudget, begun: &[u8]) -> (DuplexStream, JoinHandle<(Vec<u8>, WholeFrames)>) {
        let (mut client, mut server) = duplex(1 << 20);
        client.write_all(&[&[b'p'; 24][..], begun].concat()).await.unwrap();
        let mut frames = WholeFrames::new(budget.reservation(None), MAX_LIST, TIMEOUT, None);
        let reading = tokio::spawn(async move {
            let mut read = Vec::new();
            // The read fails after a refusal.
            _ = FrameReader { frames: &mut frames, stream: &mut server }.read_to_end(&mut read).await;
            (read.split_off(24), frames)
        });
        (client, reading)
    }

    /// Returns the begin of a block of 10,009 bytes, and its rest.
    fn block() -> (Vec<u8>, Vec<u8>) {
        let mut begun = [&[0, 0x27, 0x10, 1, 4, 0, 0, 0, 1][..], &[b'x'; 10_000]].concat();
        let rest = begun.split_off(9_000);
        (begun, rest)
    }

    fn refused(refusal: Refusal) -> u64 {
        refusals::counts().find(|(name, _)| *name == refusal.as_str()).unwrap().1
    }

    // Time is paused in these tests. When all tasks wait, it moves to the next timer.

    #[tokio::test(start_paused = true)]
    async fn a_block_that_waits_for_memory_is_passed_once_the_budget_has_it() {
        let budget = BufferBudget::new(NonZeroUsize::new(64 << 10));
        let mut other = budget.reservation(None);
        assert!(other.grow(64 << 10));
        let (begun, rest) = block();
        let (mut client, reading) = read(&budget, &begun).await;
        client.write_all(&rest).await.unwrap();
        client.shutdown().await.unwrap();
        sleep(MEMORY_RETRY_INTERVAL * MAX_MEMORY_RETRIES - Duration::from_millis(1)).await;
        assert!(!reading.is_finished());
        drop(other);
        let (passed, frames) = reading.await.unwrap();
        assert!(passed == [begun, rest].concat() && !frames.is_refused());
        assert_eq!((budget.status().used, budget.status().refused), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_block_is_refused_and_counted_if_the_budget_has_no_memory_or_the_rest_is_late() {
        for (limit, refusal, after) in [
            (Some(1_024), Refusal::NoMemory, MEMORY_RETRY_INTERVAL * MAX_MEMORY_RETRIES),
            (None, Refusal::Slow, TIMEOUT),
        ] {
            let budget = BufferBudget::new(limit.and_then(NonZeroUsize::new));
            let (before, began) = (refused(refusal), timer_in(Duration::ZERO));
            let (_client, reading) = read(&budget, &block().0).await;
            let (passed, frames) = reading.await.unwrap();
            assert!(passed.starts_with(EMPTY_HEADERS) && frames.is_refused(), "{refusal:?}");
            assert_eq!(began.elapsed(), after, "{refusal:?}");
            // Tests of the server run beside this one.
            assert!(refused(refusal) > before, "{refusal:?}");
            assert_eq!(budget.status().used, 0, "{refusal:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_block_of_too_many_frames_is_refused_however_it_arrives() {
        let open = |frames| [EMPTY_HEADERS, &EMPTY_CONTINUATION.repeat(frames)].concat();
        let end = [0, 0, 0, 9, 4, 0, 0, 0, 1];
        // A head of 64 KiB: 8 frames are needed, and a quarter more accepted.
        for (frames, is_refused) in [(10, false), (11, true)] {
            for (rest, piece) in [(&[][..], 7), (&end[..], 7), (&end[..], 1_000)] {
                let before = refused(Refusal::TooLarge);
                let budget = BufferBudget::new(None);
                let sent = [&open(frames)[..], rest].concat();
                let (mut client, reading) = read(&budget, &[]).await;
                for piece in sent.chunks(piece) {
                    yield_now().await;
                    // Fails after the refusal.
                    _ = client.write_all(piece).await;
                }
                drop(client);
                let (passed, frames) = reading.await.unwrap();
                assert_eq!(frames.is_refused(), is_refused);
                assert!(refused(Refusal::TooLarge) >= before + u64::from(is_refused));
                match is_refused {
                    true => assert_eq!(passed, open(20)),
                    false => assert_eq!(passed, if rest.is_empty() { &[][..] } else { &sent[..] }),
                }
            }
        }
    }
}
