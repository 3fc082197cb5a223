//! `limit_req`, and the zones of `limit_req` and `limit_conn` (`ngx_http_limit_req_module`).

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::limit_conn::{ConnZone, LimitConn, ZoneState};
use crate::clock::{Clock, SystemClock};
use crate::nginx::directives::catalogue::{args, usage, wrong_number};
use crate::nginx::syntax::{Directive, Fault, Word, values};
use crate::nginx::variables::{Maps, Scope, Template};

/// The zones of a configuration, by name.
#[derive(Debug, Default)]
pub(crate) struct LimitZones {
    requests: HashMap<String, Arc<RequestZone>>,
    connections: HashMap<String, Arc<ConnZone>>,
}

/// A `limit_req_zone`: the recent requests of each key (`ngx_http_limit_req_module`).
pub(crate) struct RequestZone {
    key: Template,
    /// The rate, in thousandths of a request per second.
    rate: u64,
    max_bytes: u64,
    keys: ZoneState<Keys>,
}

/// The keys of a zone.
#[derive(Default)]
struct Keys {
    by_key: HashMap<Arc<[u8]>, Account>,
    /// The keys by the number of their last request. The first is the least recently used key.
    by_use: BTreeMap<u64, Arc<[u8]>>,
    uses: u64,
    bytes: u64,
}

/// The requests of a key.
#[derive(Clone, Copy)]
struct Account {
    /// The requests over the rate, in thousandths.
    excess: u64,
    last: Instant,
    /// The number in [`Keys::by_use`].
    used: u64,
}

/// A `limit_req` directive.
#[derive(Debug, Clone)]
pub(crate) struct LimitReq {
    zone: Arc<RequestZone>,
    /// The requests over the rate that are served, in thousandths.
    burst: u64,
    /// The part of `burst` that is not delayed; `None` if no request is delayed.
    undelayed: Option<u64>,
}

/// The overhead of a key in bytes.
const KEY_BYTES: u64 = 128;

/// The maximum length of a key in bytes. As in nginx, requests with a longer key are not limited.
const MAX_KEY_BYTES: usize = 65_535;

const REQ_ZONE: &str = "limit_req_zone KEY zone=NAME:SIZE rate=N(r/s|r/m);";
const CONN_ZONE: &str = "limit_conn_zone KEY zone=NAME:SIZE;";

impl LimitZones {
    pub(crate) fn read<'d>(directives: impl Iterator<Item = &'d Directive>, maps: &Maps) -> Result<LimitZones, Fault> {
        let mut zones = LimitZones::default();
        for directive in directives {
            let is_req = directive.is("limit_req_zone");
            let Some((key, parameters)) = directive.args.split_first() else { return Err(wrong_number(directive)) };
            let (mut zone, mut rate) = (None, None);
            for word in parameters {
                match word.parameter() {
                    ("zone", Some(value)) => zone = Some(zone_of(word, &value)?),
                    ("rate", Some(value)) if is_req => rate = Some(rate_of(&value)?),
                    ("sync", None) => {}
                    _ => return Err(word.invalid("parameter", if is_req { REQ_ZONE } else { CONN_ZONE })),
                }
            }
            let missing = |what: &str| {
                directive.span().missing(format!("{} without {what}", directive.name.text), usage(&directive.name.text))
            };
            let (name, bytes) = zone.ok_or_else(|| missing("zone="))?;
            let key = Template::new(key, maps)?;
            let is_known = match is_req {
                true => {
                    let rate = rate.ok_or_else(|| missing("rate="))?;
                    let zone = RequestZone { key, rate, max_bytes: bytes, keys: ZoneState::default() };
                    zones.requests.insert(name.clone(), Arc::new(zone)).is_some()
                }
                false => zones.connections.insert(name.clone(), Arc::new(ConnZone::new(key))).is_some(),
            };
            if is_known {
                return Err(directive.span().duplicate(format!("duplicate zone \"{name}\""), "another name"));
            }
        }
        Ok(zones)
    }

    /// Continues with the counts of a running site. As in nginx, a zone takes those of the zone
    /// with the same name and key.
    pub(crate) fn follow(&self, before: &LimitZones) {
        for (name, zone) in &self.requests {
            if let Some(before) = before.requests.get(name).filter(|before| before.key.text() == zone.key.text()) {
                zone.keys.follow(&before.keys);
            }
        }
        for (name, zone) in &self.connections {
            if let Some(before) = before.connections.get(name) {
                zone.follow(before);
            }
        }
    }

    /// Reads `limit_req zone=NAME [burst=N] [nodelay|delay=N]`.
    pub(super) fn limit_req(&self, directive: &Directive) -> Result<LimitReq, Fault> {
        let (mut zone, mut burst, mut undelayed) = (None, 0, Some(0));
        for word in &directive.args {
            match word.parameter() {
                ("zone", Some(name)) => {
                    let known = self.requests.get(&name.text).cloned();
                    let unknown = || name.span.unknown(format!("unknown zone \"{}\"", name.text), REQ_ZONE);
                    zone = Some(known.ok_or_else(unknown)?);
                }
                ("burst", Some(value)) => burst = u64::from(values::number(&value, 1..=u32::MAX)?) * 1000,
                ("delay", Some(value)) => undelayed = Some(u64::from(values::number(&value, 1..=u32::MAX)?) * 1000),
                ("nodelay", None) => undelayed = None,
                _ => return Err(word.invalid("parameter", usage("limit_req"))),
            }
        }
        let zone = zone.ok_or_else(|| directive.span().missing("limit_req without zone=", usage("limit_req")))?;
        Ok(LimitReq { zone, burst, undelayed })
    }

    /// Reads `limit_conn ZONE N`.
    pub(super) fn limit_conn(&self, directive: &Directive) -> Result<LimitConn, Fault> {
        let [name, number] = args(directive)?;
        let Some(zone) = self.connections.get(&name.text) else {
            return Err(name.span.unknown(format!("unknown zone \"{}\"", name.text), CONN_ZONE));
        };
        Ok(LimitConn::new(Arc::clone(zone), values::number(number, 1..=65535)?))
    }
}

impl fmt::Debug for RequestZone {
    /// Omits the keys, which may be many, and may be addresses of clients.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RequestZone { key, rate, max_bytes, keys: _ } = self;
        let mut zone = f.debug_struct("RequestZone");
        zone.field("key", key).field("rate", rate).field("max_bytes", max_bytes).finish_non_exhaustive()
    }
}

impl LimitReq {
    /// Counts a request against all limits of a location, or against none. Returns its delay;
    /// `None` if it is refused.
    pub(crate) fn admit(limits: &[LimitReq], scope: &Scope<'_>) -> Option<Duration> {
        LimitReq::admit_at(limits, scope, SystemClock.now())
    }

    /// Returns whether one of the limits applies to a request.
    pub(crate) fn concern(limits: &[LimitReq], scope: &Scope<'_>) -> bool {
        limits.iter().any(|limit| (1..=MAX_KEY_BYTES).contains(&limit.zone.key.to_bytes(scope).len()))
    }

    fn admit_at(limits: &[LimitReq], scope: &Scope<'_>, now: Instant) -> Option<Duration> {
        let keyed = limits.iter().map(|limit| (limit, limit.zone.key.to_bytes(scope)));
        let keyed: Vec<_> = keyed.filter(|(_, key)| (1..=MAX_KEY_BYTES).contains(&key.len())).collect();
        let Some(((last, key), others)) = keyed.split_last() else { return Some(Duration::ZERO) };
        // As in nginx, all other limits are tested first. Then the last one is tested and counted
        // in one step.
        if others.iter().any(|(limit, key)| limit.zone.excess(key, now) > limit.burst) {
            return None;
        }
        let excess = last.zone.count(key, last.burst, now)?;
        let others = others.iter().map(|(limit, key)| limit.wait(limit.zone.count(key, u64::MAX, now).unwrap_or(0)));
        Some(others.fold(last.wait(excess), Duration::max))
    }

    /// Returns the delay of a request over the rate.
    fn wait(&self, excess: u64) -> Duration {
        let waits = self.undelayed.map_or(0, |undelayed| excess.saturating_sub(undelayed));
        Duration::from_millis(waits * 1000 / self.zone.rate.max(1))
    }

    /// Returns whether another limit counts in the same zone.
    pub(super) fn shares_zone(&self, other: &LimitReq) -> bool {
        Arc::ptr_eq(&self.zone, &other.zone)
    }
}

impl RequestZone {
    /// Returns the excess that a request would have.
    fn excess(&self, key: &[u8], now: Instant) -> u64 {
        self.keys.get().lock().by_key.get(key).map_or(0, |account| self.excess_after(account, now))
    }

    fn excess_after(&self, account: &Account, now: Instant) -> u64 {
        let elapsed = now.saturating_duration_since(account.last).as_millis();
        let elapsed = u64::try_from(elapsed).unwrap_or(u64::MAX);
        (account.excess + 1000).saturating_sub(self.rate.saturating_mul(elapsed) / 1000)
    }

    /// Counts a request and returns its excess; `None` if that is over `burst`.
    fn count(&self, key: &[u8], burst: u64, now: Instant) -> Option<u64> {
        let keys = &mut *self.keys.get().lock();
        keys.uses += 1;
        let used = keys.uses;
        if let Some(account) = keys.by_key.get_mut(key) {
            if let Some(key) = keys.by_use.remove(&account.used) {
                keys.by_use.insert(used, key);
            }
            account.used = used;
            let excess = self.excess_after(account, now);
            if excess > burst {
                return None;
            }
            (account.excess, account.last) = (excess, account.last.max(now));
            return Some(excess);
        }
        let bytes = KEY_BYTES + key.len() as u64;
        // A full zone forgets its least recently used keys, so that it refuses no request of
        // another client.
        while keys.bytes + bytes > self.max_bytes {
            let Some((_, oldest)) = keys.by_use.pop_first() else { break };
            keys.by_key.remove(&oldest);
            keys.bytes -= KEY_BYTES + oldest.len() as u64;
        }
        let key: Arc<[u8]> = key.into();
        keys.bytes += bytes;
        keys.by_use.insert(used, Arc::clone(&key));
        keys.by_key.insert(key, Account { excess: 0, last: now, used });
        Some(0)
    }
}

/// Returns the name and size of `NAME:SIZE`.
fn zone_of(word: &Word, value: &Word) -> Result<(String, u64), Fault> {
    let invalid = || word.invalid("zone", "zone=NAME:SIZE, of 32k at least");
    let (name, size) = value.text.split_once(':').ok_or_else(invalid)?;
    let bytes = values::size(&Word { text: size.to_owned(), span: value.span.right(name.len() + 1) })?;
    if name.is_empty() || bytes < 32 << 10 { Err(invalid()) } else { Ok((name.to_owned(), bytes)) }
}

/// Reads a rate, in thousandths of a request per second.
fn rate_of(value: &Word) -> Result<u64, Fault> {
    let (number, scale) = match (value.text.strip_suffix("r/s"), value.text.strip_suffix("r/m")) {
        (Some(number), _) => (number, 1),
        (_, Some(number)) => (number, 60),
        _ => (value.text.as_str(), 1),
    };
    let number: Option<u32> = values::parse_digits(number).filter(|number| *number > 0);
    number
        .map(|number| u64::from(number) * 1000 / scale)
        .ok_or_else(|| value.invalid("rate", "rate=10r/s or rate=30r/m"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderMap, Method};

    use crate::nginx::Config;
    use crate::nginx::directives::location::Location;

    /// Returns the only location of a server with this zone and these directives.
    fn location(zone: &str, lines: &str) -> Location {
        let zone = format!("limit_req_zone $arg_key zone=one:{zone};");
        let other = "limit_req_zone all zone=other:1m rate=1r/s;";
        let text = format!("{zone} {other} server {{ location / {{ {lines} return 200; }} }}");
        let config = Config::parse("front.conf", &text).unwrap();
        config.servers[0].locations.iter().next().unwrap().clone()
    }

    fn admit(location: &Location, key: &str, now: Instant) -> Option<Duration> {
        let (target, headers) = (format!("/?key={key}"), HeaderMap::new());
        let scope = Scope::new(&Method::GET, &target, b"/", &headers);
        LimitReq::admit_at(&location.settings.limit_reqs, &scope, now)
    }

    #[test]
    fn a_client_that_goes_on_while_it_is_refused_is_served_at_the_rate() {
        let location = location("1m rate=2r/s", "limit_req zone=one;");
        let start = SystemClock.now();
        let at = |millis| start + Duration::from_millis(millis);
        let served = (0..100).filter(|number| admit(&location, "a", at(number * 50)).is_some()).count();
        assert_eq!(served, 10, "in five seconds");
    }

    #[test]
    fn requests_over_the_rate_wait_and_those_over_the_burst_are_refused() {
        let now = SystemClock.now();
        let location = location("1m rate=10r/s", "limit_req zone=one burst=3 delay=1;");
        let waits: Vec<_> = (0..5).map(|_| admit(&location, "a", now).map(|wait| wait.as_millis())).collect();
        assert_eq!(waits, [Some(0), Some(0), Some(100), Some(200), None]);
        assert_eq!(admit(&location, "b", now), Some(Duration::ZERO), "another client");
        assert_eq!(admit(&location, "", now), Some(Duration::ZERO), "a request without a key has no limit");
    }

    #[test]
    fn a_request_that_one_limit_refuses_does_not_count_for_another() {
        let now = SystemClock.now();
        let location =
            location("1m rate=1r/s", "limit_req zone=one burst=1 nodelay; limit_req zone=other burst=9 nodelay;");
        let served = (0..20).filter(|_| admit(&location, "a", now).is_some()).count();
        assert_eq!(served, 2);
        assert!(admit(&location, "b", now).is_some(), "the other zone has room");
    }

    #[test]
    fn a_full_zone_forgets_the_oldest_key_and_holds_no_more_bytes() {
        let now = SystemClock.now();
        let location = location("32k rate=1r/m", "limit_req zone=one;");
        for number in 0..10_000 {
            assert!(admit(&location, &format!("client{number}"), now).is_some(), "{number}");
            assert!(admit(&location, "busy", now).is_some() == (number == 0), "{number}");
        }
        let keys = location.settings.limit_reqs[0].zone.keys.get().lock();
        assert!(keys.bytes <= 32 << 10 && keys.by_key.len() == keys.by_use.len(), "{} bytes", keys.bytes);
        assert!(keys.by_key.len() > 200, "{} keys", keys.by_key.len());
    }
}
