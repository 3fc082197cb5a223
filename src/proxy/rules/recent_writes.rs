//! Read your writes: which endpoint took the last write of a client.
//!
//! A node learns of another node's writes seconds later, and its responses are stale until then.
//! Kylin 2-4 broadcasts a write, and drops the broadcast after three failures. Kylin 5 catches up
//! with the audit log every 5 s. So a client that wrote stays with the node that took the write for
//! a while.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ahash::AHashMap;
use http::HeaderValue;
use parking_lot::Mutex;

use crate::clock::{Clock, instant_after};
use crate::endpoint::EndpointId;
use crate::request::RequestContext;

const SHARDS: usize = 16;
/// The number of writers that a shard remembers. Further writers are not pinned and may read stale
/// data for some seconds.
const SHARD_CAPACITY: usize = 4096;

#[derive(Debug)]
pub(super) struct RecentWrites {
    window: Duration,
    /// The number of writers in all shards. Requests look nothing up while it is 0.
    count: AtomicUsize,
    shards: [Mutex<Shard>; SHARDS],
    seed: RandomState,
    clock: Arc<dyn Clock>,
}

/// A client that writes, as a hash with a per-process seed.
///
/// The input of the hash is Kylin's session cookie, else the credentials, else all cookies. A login
/// relay has its own cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Writer(u64);

#[derive(Debug, Default)]
struct Shard {
    pins: AHashMap<Writer, Pin>,
    /// The time until which a full shard is not swept again, so that a flood of writers does not
    /// cause a sweep per writer.
    swept_until: Option<Instant>,
}

#[derive(Debug)]
struct Pin {
    endpoint: EndpointId,
    until: Instant,
}

impl RecentWrites {
    pub(super) fn new(window: Duration, clock: Arc<dyn Clock>) -> Self {
        RecentWrites { window, count: AtomicUsize::new(0), shards: Default::default(), seed: RandomState::new(), clock }
    }

    /// Returns the client that sends a request; `None` if nothing in the request identifies it.
    pub(super) fn writer(&self, context: &RequestContext) -> Option<Writer> {
        let credentials = || context.authorization().map(HeaderValue::as_bytes);
        let cookies = || context.cookie_header().map(HeaderValue::as_bytes);
        let client = context.kylin_session().or_else(credentials).or_else(cookies)?;
        Some(Writer(self.seed.hash_one(client)))
    }

    /// Returns whether no writer is remembered.
    pub(super) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }

    /// Remembers that `endpoint` took a write of `writer`.
    pub(super) fn note(&self, writer: Writer, endpoint: &EndpointId) {
        let now = self.clock.now();
        let Shard { pins, swept_until } = &mut *self.shard(writer).lock();
        let before = pins.len();
        if before >= SHARD_CAPACITY && swept_until.is_none_or(|until| until <= now) {
            pins.retain(|_, pin| pin.until > now);
            *swept_until = Some(instant_after(now, self.window / 8));
        }
        if pins.len() < SHARD_CAPACITY || pins.contains_key(&writer) {
            pins.insert(writer, Pin { endpoint: endpoint.clone(), until: instant_after(now, self.window) });
        }
        let after = pins.len();
        // Counted under the lock of the shard, so that the sum stays exact.
        self.count.fetch_add(after.wrapping_sub(before), Ordering::Relaxed);
    }

    /// Returns the endpoint that took the last write of `writer`.
    pub(super) fn endpoint(&self, writer: Writer) -> Option<EndpointId> {
        let now = self.clock.now();
        let mut shard = self.shard(writer).lock();
        let pin = shard.pins.get(&writer)?;
        if pin.until > now {
            return Some(pin.endpoint.clone());
        }
        shard.pins.remove(&writer);
        self.count.fetch_sub(1, Ordering::Relaxed);
        None
    }

    fn shard(&self, writer: Writer) -> &Mutex<Shard> {
        &self.shards[writer.0 as usize % SHARDS]
    }
}

#[cfg(all(test, feature = "test-util"))]
mod tests {
    use http::Request;

    use super::*;
    use crate::body::Body;
    use crate::clock::ManualClock;
    use crate::request::ClientAddr;

    fn id(text: &str) -> EndpointId {
        EndpointId::new(text).expect("a valid id")
    }

    fn context(headers: &[(&str, &str)]) -> RequestContext {
        let request = headers.iter().fold(Request::builder(), |request, (name, value)| request.header(*name, *value));
        let request = request.body(Body::empty()).expect("a valid request");
        let mut context = RequestContext::new(ClientAddr::Unix, &request);
        context.read_credentials(request.headers(), true);
        context
    }

    #[test]
    fn a_writer_stays_with_the_last_node_that_took_a_write_for_the_window() {
        let clock = ManualClock::new();
        let writes = RecentWrites::new(Duration::from_secs(8), Arc::new(clock.clone()));
        let writer = |headers: &[(&str, &str)]| writes.writer(&context(headers));
        let authorization = ("authorization", "Basic x");
        let session = writer(&[authorization, ("cookie", "JSESSIONID=s1")]).unwrap();
        let basic = writer(&[authorization]).unwrap();
        assert_ne!(session, basic);
        assert!(writer(&[]).is_none() && writes.is_empty());
        let relayed = ("cookie", "KYLINLB_SESSION=x");
        assert_eq!(writer(&[authorization, relayed]), Some(basic));
        assert!(writer(&[relayed]).is_some_and(|of_cookie| of_cookie != basic && of_cookie != session));

        writes.note(session, &id("a"));
        clock.advance(Duration::from_secs(5));
        writes.note(session, &id("b"));
        clock.advance(Duration::from_secs(7));
        assert_eq!(writes.endpoint(session), Some(id("b")));
        assert_eq!(writes.endpoint(basic), None);
        clock.advance(Duration::from_secs(1));
        assert_eq!(writes.endpoint(session), None);
        assert!(writes.is_empty());
    }

    #[test]
    fn a_writer_stays_forever_if_the_window_has_no_end() {
        let writes = RecentWrites::new(Duration::MAX, Arc::new(ManualClock::new()));
        (0..SHARDS * SHARD_CAPACITY * 2).for_each(|n| writes.note(Writer(writes.seed.hash_one(n)), &id("a")));
        assert_eq!(writes.endpoint(Writer(writes.seed.hash_one(0_usize))), Some(id("a")));
    }

    #[test]
    fn the_number_of_writers_is_bounded() {
        let clock = ManualClock::new();
        let writes = RecentWrites::new(Duration::from_secs(8), Arc::new(clock.clone()));
        for n in 0..SHARDS * SHARD_CAPACITY * 2 {
            writes.note(Writer(writes.seed.hash_one(n)), &id("a"));
        }
        assert!(writes.count.load(Ordering::Relaxed) <= SHARDS * SHARD_CAPACITY);
        clock.advance(Duration::from_secs(9));
        let late = Writer(writes.seed.hash_one("late"));
        writes.note(late, &id("b"));
        assert_eq!(writes.endpoint(late), Some(id("b")), "expired writers make room");
    }
}
