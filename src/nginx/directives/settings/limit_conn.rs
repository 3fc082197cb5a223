//! `limit_conn`: limits on the requests in flight per key (`ngx_http_limit_conn_module`).

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use crate::nginx::variables::{Scope, Template};

/// A `limit_conn_zone`: the number of requests in flight for each key.
pub(crate) struct ConnZone {
    key: Template,
    in_flight: ZoneState<Counts>,
}

type Counts = HashMap<Arc<[u8]>, u32>;

/// The counts of a zone. A reload passes them to the zone that replaces it.
#[derive(Default)]
pub(super) struct ZoneState<T>(OnceLock<Arc<Mutex<T>>>);

impl<T: Default> ZoneState<T> {
    pub(super) fn get(&self) -> &Arc<Mutex<T>> {
        self.0.get_or_init(Arc::default)
    }

    /// Continues with the counts of another zone. This has no effect once this zone has counted a
    /// request.
    pub(super) fn follow(&self, before: &Self) {
        _ = self.0.set(Arc::clone(before.get()));
    }
}

/// A `limit_conn` directive.
#[derive(Debug, Clone)]
pub(crate) struct LimitConn {
    zone: Arc<ConnZone>,
    max: u32,
}

/// The zones that count a request until this is dropped.
#[derive(Debug, Default)]
pub(crate) struct InFlight(Vec<Counted>);

/// The counts of a zone, and the key of the request.
type Counted = (Arc<Mutex<Counts>>, Arc<[u8]>);

/// The error for a request over a limit of its location.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooMany;

/// The maximum length of a key in bytes. As in nginx, requests with a longer key are not limited.
const MAX_KEY_BYTES: usize = 255;

impl ConnZone {
    pub(super) fn new(key: Template) -> Self {
        ConnZone { key, in_flight: ZoneState::default() }
    }

    /// Takes over the requests in flight of another zone, if it has the same key.
    pub(super) fn follow(&self, before: &ConnZone) {
        if self.key.text() == before.key.text() {
            self.in_flight.follow(&before.in_flight);
        }
    }

    /// Counts a request of a key, unless `max` requests are in flight.
    fn count(&self, key: &Arc<[u8]>, max: u32) -> bool {
        let mut in_flight = self.in_flight.get().lock();
        let count = in_flight.entry(Arc::clone(key)).or_default();
        let has_room = *count < max;
        *count += u32::from(has_room);
        has_room
    }
}

impl fmt::Debug for ConnZone {
    /// Omits the keys, which may be addresses of clients.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnZone").field("key", &self.key).finish_non_exhaustive()
    }
}

impl LimitConn {
    pub(super) fn new(zone: Arc<ConnZone>, max: u32) -> Self {
        LimitConn { zone, max }
    }

    /// Returns whether another limit counts in the same zone.
    pub(super) fn shares_zone(&self, other: &LimitConn) -> bool {
        Arc::ptr_eq(&self.zone, &other.zone)
    }

    /// Counts a request in the zones of all limits; returns `None` if no limit applies to it.
    ///
    /// # Errors
    /// [`TooMany`] if a limit is reached. Then no zone counts the request.
    pub(crate) fn admit(limits: &[LimitConn], scope: &Scope<'_>) -> Result<Option<InFlight>, TooMany> {
        let mut counted = InFlight::default();
        for LimitConn { zone, max } in limits {
            let key = zone.key.to_bytes(scope);
            if !(1..=MAX_KEY_BYTES).contains(&key.len()) {
                continue;
            }
            let key: Arc<[u8]> = key.into();
            if !zone.count(&key, *max) {
                return Err(TooMany);
            }
            counted.0.push((Arc::clone(zone.in_flight.get()), key));
        }
        Ok(Some(counted).filter(|counted| !counted.0.is_empty()))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        for (counts, key) in &self.0 {
            let mut in_flight = counts.lock();
            if let Some(count) = in_flight.get_mut(key) {
                *count -= 1;
                // Only keys with a request in flight take memory.
                if *count == 0 {
                    in_flight.remove(key);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderMap, Method};

    use crate::nginx::Config;
    use crate::nginx::directives::location::Location;

    fn admit(location: &Location, target: &str) -> Result<Option<InFlight>, TooMany> {
        let headers = HeaderMap::new();
        LimitConn::admit(&location.settings.limit_conns, &Scope::new(&Method::GET, target, b"/", &headers))
    }

    #[test]
    fn requests_count_for_their_zone_whatever_the_location_until_they_end() {
        let text = "limit_conn_zone $arg_key zone=keys:1m; limit_conn_zone all zone=all:1m; limit_conn keys 2;
            server { limit_conn keys 9; limit_conn all 3;
                location /a { return 200; } location /b { return 200; } location /c { limit_conn keys 1; return 200; } }";
        let config = Config::parse("front.conf", text).unwrap();
        let locations: Vec<_> = config.servers[0].locations.iter().collect();
        let held: Vec<_> = [0, 1, 1].map(|number| admit(locations[number], "/?key=x")).into_iter().collect();
        assert!(held.iter().all(Result::is_ok));
        assert!(admit(locations[0], "/?key=y").is_err(), "the zone \"all\" is full");
        assert!(
            admit(locations[2], "/?key=x").is_err(),
            "the location has a line of its own, and counts all locations"
        );
        let other = admit(locations[2], "/?key=y");
        assert!(matches!(other, Ok(Some(_))), "neither refused request counts");
        assert!(admit(locations[2], "/").unwrap().is_none(), "a request without a key has no limit");
        drop((held, other));
        let zones = locations[0].settings.limit_conns.iter().map(|limit| limit.zone.in_flight.get().lock().len());
        assert_eq!(zones.collect::<Vec<_>>(), [0, 0]);
    }
}
