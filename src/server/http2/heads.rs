//! The heads of the requests in flight on a connection, which are decoded and stay in memory until
//! their responses are complete.

use std::net::SocketAddr;

use http::{Request, StatusCode};
use parking_lot::Mutex;

use super::MIN_RESERVED;
use crate::body::Body;
use crate::buffer::Reservation;
use crate::header_walk::walk;
use crate::proxy::ErrorResponse;
use crate::refusals::Refusal;
use crate::server::NO_MEMORY_FOR_HEAD;
use crate::server::limits::Limits;
use crate::sync::{AtomicUsize, Ordering};

/// The overhead of a header in bytes: its entry in the map. A client can repeat an earlier header
/// with one byte.
const HEADER_COST: usize = 128;

/// The minimum growth of the reservation, in bytes.
const STEP: usize = 4 * 1024;

/// The bytes that stay reserved while requests are in flight, even if the heads no longer need
/// them. The next heads then need no lock.
const SPARE: usize = 16 * 1024;

/// Reserves the heads of the requests of a connection.
pub(super) struct HeadAccount {
    /// The bytes of all heads.
    used: AtomicUsize,
    /// [`MIN_RESERVED`] plus the bytes of `reservation`. It is read without the lock, which most
    /// connections never need.
    reserved: AtomicUsize,
    reservation: Mutex<Reservation>,
}

impl HeadAccount {
    /// Creates an account. `reservation` is for all bytes beyond the first [`MIN_RESERVED`].
    pub(super) fn new(reservation: Reservation) -> Self {
        let (used, reserved) = (AtomicUsize::new(0), AtomicUsize::new(MIN_RESERVED));
        HeadAccount { used, reserved, reservation: Mutex::new(reservation) }
    }

    /// Counts a head; returns false if the budget has no bytes for it.
    pub(super) fn reserve(&self, bytes: usize) -> bool {
        let used = self.used.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if used <= self.reserved.load(Ordering::Relaxed) {
            return true;
        }
        let mut reservation = self.reservation.lock();
        let missing = self.used.load(Ordering::Relaxed).saturating_sub(MIN_RESERVED + reservation.bytes());
        if missing > 0 && !reservation.grow(missing.max(STEP)) {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
            return false;
        }
        self.reserved.store(MIN_RESERVED + reservation.bytes(), Ordering::Relaxed);
        true
    }

    pub(super) fn release(&self, bytes: usize) {
        let used = self.used.fetch_sub(bytes, Ordering::Relaxed) - bytes;
        let most = if used == 0 { MIN_RESERVED } else { used.saturating_add(SPARE) };
        if self.reserved.load(Ordering::Relaxed) > most {
            let mut reservation = self.reservation.lock();
            reservation.shrink_to(self.used.load(Ordering::Relaxed).saturating_sub(MIN_RESERVED));
            self.reserved.store(MIN_RESERVED + reservation.bytes(), Ordering::Relaxed);
        }
    }
}

/// Reserves memory for the head of a request, and returns its bytes. A head over the limits or the
/// budget is refused, with the status that an HTTP/1.1 client gets.
pub(super) fn admit(
    request: &Request<Body>,
    limits: &Limits,
    heads: &HeadAccount,
    peer: Option<SocketAddr>,
) -> Result<usize, ErrorResponse> {
    let admitted = check(request, limits).and_then(|length| {
        let bytes = length.saturating_add(request.headers().len() * HEADER_COST);
        let no_memory = (Refusal::NoMemory, StatusCode::SERVICE_UNAVAILABLE, NO_MEMORY_FOR_HEAD);
        heads.reserve(bytes).then_some(bytes).ok_or(no_memory)
    });
    admitted.map_err(|(refusal, status, message)| {
        refusal.report(peer, &message);
        ErrorResponse::new(status, message)
    })
}

/// Returns the length of a head. Refuses a head over the limits.
///
/// A value that begins or ends with whitespace is malformed (RFC 9113, 8.2.1), and is refused too.
/// An HTTP/1.1 node would read it without the whitespace.
fn check(request: &Request<Body>, limits: &Limits) -> Result<usize, (Refusal, StatusCode, &'static str)> {
    let (limits, buffers) = (limits.head, limits.line_buffers);
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    let longest = buffers.map_or(limits.bytes, |buffers| buffers.first.max(buffers.size));
    if target > longest {
        return Err((Refusal::TooLarge, StatusCode::URI_TOO_LONG, "the target of the request is too long"));
    }
    let headers = request.headers();
    let authority = request.uri().authority().map_or(0, |authority| authority.as_str().len());
    let (mut bytes, mut longest_header, mut is_padded) = (target + authority, authority, false);
    for (name, value) in walk(headers) {
        let length = name.as_str().len() + value.len();
        (bytes, longest_header) = (bytes + length, longest_header.max(length));
        is_padded |= matches!(value.as_bytes(), [b' ' | b'\t', ..] | [.., b' ' | b'\t']);
    }
    let is_too_long = bytes > limits.bytes || (buffers.is_some() && longest_header > longest);
    if headers.len() > limits.headers || is_too_long {
        let status = match buffers {
            Some(_) if is_too_long => StatusCode::BAD_REQUEST,
            Some(_) | None => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        };
        return Err((Refusal::TooLarge, status, "the head of the request is too large"));
    }
    if is_padded {
        let message = "a header value begins or ends with a blank";
        return Err((Refusal::Malformed, StatusCode::BAD_REQUEST, message));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;
    use crate::buffer::BufferBudget;

    #[test]
    fn heads_beyond_the_minimum_are_reserved_in_steps_until_their_requests_end() {
        let budget = BufferBudget::new(NonZeroUsize::new(64 * 1024));
        let account = HeadAccount::new(budget.reservation(None));
        let used = || budget.status().used;
        for _ in 0..4 {
            assert!(account.reserve(1024));
        }
        assert_eq!(used(), 0, "the connection has a reservation for them");
        assert!(account.reserve(1));
        assert_eq!(used(), STEP);
        assert!(account.reserve(50 * 1024));
        let most = used();
        assert!(!account.reserve(16 * 1024), "the budget has not as many");
        assert_eq!((used(), budget.status().refused), (most, 1));
        account.release(10 * 1024);
        assert_eq!(used(), most, "spare bytes for the next heads");
        account.release(40 * 1024);
        assert_eq!(used(), 1);
        account.release(4 * 1024 + 1);
        assert_eq!(used(), 0);
    }

    #[test]
    fn the_length_of_a_head_is_that_of_target_authority_and_headers() {
        let request = Request::get("http://kylin:80/a?b").header("x-a", "12").header("x-a", "345");
        let request = request.body(Body::empty()).unwrap();
        let limits = |bytes| {
            let mut limits = Limits::default();
            limits.head.bytes = bytes;
            limits
        };
        let length = "kylin:80".len() + "/a?b".len() + "x-a12".len() + "x-a345".len();
        assert_eq!(check(&request, &limits(length)).ok(), Some(length));
        assert!(check(&request, &limits(length - 1)).is_err());
    }
}
