//! `limit_req` and `limit_conn`: limits on the requests of a client.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

use crate::nginx::directives::catalogue::{usage, wrong_number};
use crate::nginx::syntax::{Directive, Fault, Word, values};
use crate::nginx::variables::{Maps, Scope, Template};

/// The zones of a configuration, by name.
#[derive(Debug, Default)]
pub(crate) struct LimitZones {
    requests: HashMap<String, Arc<RequestZone>>,
    /// The keys of `limit_conn_zone`.
    connections: HashMap<String, Template>,
}

/// `limit_req_zone`: how many requests there were for each key lately (`ngx_http_limit_req_module`).
#[derive(Debug)]
pub(crate) struct RequestZone {
    key: Template,
    /// Thousandths of a request in a second.
    rate: u64,
    max_keys: usize,
    /// For each key the requests over the rate, in thousandths, and the time of the last request.
    keys: Mutex<HashMap<Vec<u8>, (u64, SystemTime)>>,
}

/// One `limit_req` line.
#[derive(Debug, Clone)]
pub(crate) struct LimitReq {
    zone: Arc<RequestZone>,
    /// Requests over the rate that are served, in thousandths.
    burst: u64,
    /// Of these the ones that do not wait; `None`: none waits.
    undelayed: Option<u64>,
}

/// What nginx needs for a key, at 64 bits.
const KEY_BYTES: u64 = 128;
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
                    let max_keys = usize::try_from((bytes / KEY_BYTES).max(1)).unwrap_or(usize::MAX);
                    let rate = rate.ok_or_else(|| missing("rate="))?;
                    zones
                        .requests
                        .insert(name.clone(), Arc::new(RequestZone { key, rate, max_keys, keys: Mutex::default() }))
                        .is_some()
                }
                false => zones.connections.insert(name.clone(), key).is_some(),
            };
            if is_known {
                return Err(directive.span().duplicate(format!("duplicate zone \"{name}\""), "another name"));
            }
        }
        Ok(zones)
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

    /// Reads `limit_conn ZONE N`, whose zone has the client's address as key.
    pub(super) fn limit_conn(&self, directive: &Directive) -> Result<u32, Fault> {
        let [name, number] = &directive.args[..] else { return Err(wrong_number(directive)) };
        let Some(key) = self.connections.get(&name.text) else {
            return Err(name.span.unknown(format!("unknown zone \"{}\"", name.text), CONN_ZONE));
        };
        if !matches!(key.to_string().as_str(), "$binary_remote_addr" | "$remote_addr") {
            let message = format!("limit_conn with the key {key} is not supported");
            return Err(name
                .span
                .unsupported(message, "$binary_remote_addr as key; or max_conns=N on the servers of an upstream"));
        }
        values::number(number, 1..=65535)
    }
}

impl LimitReq {
    /// Counts a request. Returns how long it waits; `None` if it is refused.
    pub(crate) fn admit(&self, scope: &Scope<'_>) -> Option<Duration> {
        let zone = &*self.zone;
        let key = zone.key.to_bytes(scope);
        if key.is_empty() {
            return Some(Duration::ZERO);
        }
        let now = SystemTime::now();
        let mut keys = zone.keys.lock();
        let excess = match keys.get(&key) {
            None => 0,
            Some((excess, last)) => {
                let elapsed = now.duration_since(*last).unwrap_or_default().as_millis();
                let elapsed = u64::try_from(elapsed).unwrap_or(u64::MAX);
                (excess + 1000).saturating_sub(zone.rate.saturating_mul(elapsed) / 1000)
            }
        };
        if excess > self.burst {
            return None;
        }
        if keys.len() >= zone.max_keys && !keys.contains_key(&key) {
            // nginx too forgets the keys without a recent request first.
            let is_recent =
                |last: &SystemTime| now.duration_since(*last).is_ok_and(|time| time < Duration::from_secs(60));
            keys.retain(|_, (_, last)| is_recent(last));
            if keys.len() >= zone.max_keys {
                return None;
            }
        }
        keys.insert(key, (excess, now));
        let waits = self.undelayed.map_or(0, |undelayed| excess.saturating_sub(undelayed));
        Some(Duration::from_millis(waits * 1000 / zone.rate.max(1)))
    }
}

/// Returns name and size of `NAME:SIZE`.
fn zone_of(word: &Word, value: &Word) -> Result<(String, u64), Fault> {
    let invalid = || word.invalid("zone", "zone=NAME:SIZE, of 32k at least");
    let (name, size) = value.text.split_once(':').ok_or_else(invalid)?;
    let bytes = values::size(&Word { text: size.to_owned(), span: value.span.right(name.len() + 1) })?;
    if name.is_empty() || bytes < 32 << 10 { Err(invalid()) } else { Ok((name.to_owned(), bytes)) }
}

/// Returns thousandths of a request in a second.
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
