//! Who has written lately, and through which node: read your writes.
//!
//! A node learns of another's writes after seconds (Kylin 2-4: a broadcast that is dropped after three failures; Kylin 5: it
//! catches up with the audit log every 5 s). Until then its own answers are old. So who has written stays with the node that
//! took the write for a while.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ahash::AHashMap;
use http::{HeaderMap, HeaderValue, header};
use parking_lot::Mutex;

use crate::clock::Clock;
use crate::endpoint::EndpointId;

const SHARDS: usize = 16;
/// Writers that a shard remembers: what is beyond is not pinned, and may read what is some seconds old.
const WRITERS: usize = 4096;

#[derive(Debug)]
pub(super) struct RecentWrites {
    window: Duration,
    /// How many writers are remembered in all, so that readers look no further while there are none.
    count: AtomicUsize,
    shards: [Mutex<Shard>; SHARDS],
    seed: RandomState,
    clock: Arc<dyn Clock>,
}

/// Who writes: a hash, with a seed of this process, of the session's cookie, without one of the credentials, and without these
/// of all cookies: a front end that shares sessions itself has a cookie of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Writer(u64);

#[derive(Debug, Default)]
struct Shard {
    pins: AHashMap<Writer, Pin>,
    /// Until when a full shard is not searched again for what is over: a flood of writers must not cost a search each.
    searched_until: Option<Instant>,
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

    /// Who sends a request with these headers; none when it names nobody. `session` is the value of the session's cookie.
    pub(super) fn writer(&self, headers: &HeaderMap, session: Option<&[u8]>) -> Option<Writer> {
        let field = |name| headers.get(name).map(HeaderValue::as_bytes);
        let who = session.or_else(|| field(header::AUTHORIZATION)).or_else(|| field(header::COOKIE))?;
        Some(Writer(self.seed.hash_one(who)))
    }

    /// True while nobody is remembered.
    pub(super) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }

    /// Notes that `endpoint` took a write of `writer`.
    pub(super) fn note(&self, writer: Writer, endpoint: &EndpointId) {
        let now = self.clock.now();
        let Shard { pins, searched_until } = &mut *self.shard(writer).lock();
        let before = pins.len();
        if before >= WRITERS && searched_until.is_none_or(|until| until <= now) {
            pins.retain(|_, pin| pin.until > now);
            *searched_until = Some(now + self.window / 8);
        }
        if pins.len() < WRITERS || pins.contains_key(&writer) {
            pins.insert(writer, Pin { endpoint: endpoint.clone(), until: now + self.window });
        }
        let after = pins.len();
        // Under the lock of the shard, so the sum stays right.
        self.count.fetch_add(after.wrapping_sub(before), Ordering::Relaxed);
    }

    /// The endpoint that has what `writer` wrote.
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
    use super::*;
    use crate::clock::ManualClock;

    fn id(text: &str) -> EndpointId {
        EndpointId::new(text).expect("a valid id")
    }

    #[test]
    fn a_writer_stays_with_the_last_node_that_took_a_write_for_the_window() {
        let clock = ManualClock::new();
        let writes = RecentWrites::new(Duration::from_secs(8), Arc::new(clock.clone()));
        let mut headers = HeaderMap::new();
        headers.insert("authorization", "Basic x".parse().unwrap());
        let (session, basic) = (writes.writer(&headers, Some(b"s1")).unwrap(), writes.writer(&headers, None).unwrap());
        assert_ne!(session, basic);
        assert!(writes.writer(&HeaderMap::new(), None).is_none() && writes.is_empty());
        headers.insert("cookie", "KYLINLB_SESSION=x".parse().unwrap());
        assert_eq!(writes.writer(&headers, None), Some(basic));
        headers.remove("authorization");
        assert!(writes.writer(&headers, None).is_some_and(|of_cookie| of_cookie != basic && of_cookie != session));

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
    fn any_number_of_writers_takes_bounded_room() {
        let clock = ManualClock::new();
        let writes = RecentWrites::new(Duration::from_secs(8), Arc::new(clock.clone()));
        for n in 0..SHARDS * WRITERS * 2 {
            writes.note(writes.writer(&HeaderMap::new(), Some(&n.to_le_bytes())).unwrap(), &id("a"));
        }
        assert!(writes.count.load(Ordering::Relaxed) <= SHARDS * WRITERS);
        clock.advance(Duration::from_secs(9));
        let late = writes.writer(&HeaderMap::new(), Some(b"late")).unwrap();
        writes.note(late, &id("b"));
        assert_eq!(writes.endpoint(late), Some(id("b")), "room is made of what is over");
    }
}
