//! `expires`: the time for which a browser may keep a response (`ngx_http_headers_filter_module`).

use std::time::{Duration, SystemTime};

use http::header::{self, HeaderMap, HeaderValue};

use crate::nginx::directives::catalogue::arg;
use crate::nginx::directives::remarks::Remarks;
use crate::nginx::syntax::values::{self, TimeUnit};
use crate::nginx::syntax::{Directive, Fault, Span, Word};
use crate::nginx::variables::{Maps, Scope, Template};

const DAY: Duration = Duration::from_secs(86_400);

/// The maximum time that a configuration may set.
const MAX_TIME: Duration = Duration::from_secs(50 * 365 * 86_400);

/// An `expires` directive.
#[derive(Debug, Clone)]
pub(crate) enum Expires {
    Fixed(Lifetime),
    /// A value with variables. As in nginx, a value that is not a time counts as `off`.
    Variable(Template),
}

/// How long a response may be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lifetime {
    Off,
    /// A time in the past.
    Epoch,
    /// Ten years, until the end of 2037.
    Max,
    /// A time from now, or before now if `past`.
    After {
        time: Duration,
        past: bool,
    },
    /// Until this time of the day, in UTC.
    Daily(Duration),
}

impl Expires {
    pub(super) fn read(directive: &Directive, maps: &Maps, remarks: &mut Remarks<'_>) -> Result<Expires, Fault> {
        let word = match &directive.args[..] {
            [modified, _] if modified.text == "modified" => modified,
            _ => arg(directive)?,
        };
        let note = |remarks: &mut Remarks<'_>| remarks.note(word.span, "expires @TIME: a time of the day in UTC");
        if !word.text.contains('$') {
            let lifetime = Lifetime::read(word)?;
            match lifetime {
                Lifetime::Daily(_) => note(remarks),
                Lifetime::After { time, .. } if time > MAX_TIME => {
                    return Err(word.span.value("\"expires\" of more than 50 years", "expires max; or a shorter time"));
                }
                Lifetime::After { .. } | Lifetime::Off | Lifetime::Epoch | Lifetime::Max => {}
            }
            return Ok(Expires::Fixed(lifetime));
        }
        let value = Template::new(word, maps)?;
        let values = value.possible_values(maps).unwrap_or_default();
        if values.iter().any(|value| value.starts_with('@')) {
            note(remarks);
        }
        Ok(Expires::Variable(value))
    }

    /// Returns whether the value is known only when there is a response.
    pub(crate) fn needs_outcome(&self) -> bool {
        if let Expires::Variable(value) = self { value.needs_outcome() } else { false }
    }

    pub(crate) fn lifetime(&self, scope: &Scope<'_>) -> Lifetime {
        match self {
            Expires::Fixed(lifetime) => *lifetime,
            Expires::Variable(value) => {
                let text = String::from_utf8_lossy(&value.value(scope)).into_owned();
                let span = Span { file: 0, line: 1, at: 0 };
                Lifetime::read(&Word { text, span }).unwrap_or(Lifetime::Off)
            }
        }
    }
}

impl Lifetime {
    fn read(word: &Word) -> Result<Lifetime, Fault> {
        match word.text.as_str() {
            "off" => Ok(Lifetime::Off),
            "epoch" => Ok(Lifetime::Epoch),
            "max" => Ok(Lifetime::Max),
            "modified" => {
                let message = "\"expires modified\" is not supported";
                Err(word.span.unsupported(message, "expires TIME|epoch|max|off; or add_header Cache-Control VALUE;"))
            }
            text if text.starts_with('@') => {
                let time = Word { text: text[1..].to_owned(), span: word.span.right(1) };
                match values::time(&time, TimeUnit::Seconds)? {
                    time if time <= DAY => Ok(Lifetime::Daily(time)),
                    _ => Err(time.invalid("time of the day", "less than 24 hours, as in @15h30m")),
                }
            }
            text => {
                let past = text.starts_with('-');
                let skip = usize::from(text.starts_with(['-', '+']));
                let time = Word { text: text[skip..].to_owned(), span: word.span.right(skip) };
                Ok(Lifetime::After { time: values::time(&time, TimeUnit::Seconds)?, past })
            }
        }
    }

    /// Sets `Expires` and `Cache-Control`. The status must be one to which nginx adds headers.
    pub(crate) fn apply(self, headers: &mut HeaderMap) {
        let second = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let now = SystemTime::now();
        let (date, control) = match self {
            Lifetime::Off => return,
            Lifetime::Epoch => (second(1), "no-cache".to_owned()),
            // Thu, 31 Dec 2037 23:55:55 GMT
            Lifetime::Max => (second(2_145_916_555), "max-age=315360000".to_owned()),
            Lifetime::After { time, past: true } if !time.is_zero() => {
                // A clock that was never set begins at the epoch, and HTTP dates cannot precede the
                // epoch.
                let date = now.checked_sub(time).unwrap_or(SystemTime::UNIX_EPOCH).max(SystemTime::UNIX_EPOCH);
                (date, "no-cache".to_owned())
            }
            Lifetime::Daily(time) => {
                let next = next_at(time, now);
                let left = next.duration_since(now).unwrap_or_default();
                (next, format!("max-age={}", left.as_secs()))
            }
            Lifetime::After { time, .. } => {
                (now.checked_add(time).unwrap_or(now), format!("max-age={}", time.as_secs()))
            }
        };
        if let (Ok(date), Ok(control)) =
            (HeaderValue::try_from(httpdate::fmt_http_date(date)), HeaderValue::try_from(control))
        {
            headers.insert(header::EXPIRES, date);
            headers.insert(header::CACHE_CONTROL, control);
        }
    }
}

/// Returns the next time of the day, in UTC and whole seconds.
fn next_at(time: Duration, now: SystemTime) -> SystemTime {
    let today = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs() / DAY.as_secs();
    let next = SystemTime::UNIX_EPOCH + Duration::from_secs(today * DAY.as_secs()) + time;
    if next > now { next } else { next + DAY }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_of_the_day_is_the_next_one() {
        let at = |days, seconds| SystemTime::UNIX_EPOCH + days * DAY + Duration::from_secs(seconds);
        let half_past_three = Duration::from_secs(15 * 3600 + 30 * 60);
        assert_eq!(next_at(half_past_three, at(20_000, 0)), at(20_000, 55_800));
        assert_eq!(next_at(half_past_three, at(20_000, 55_799)), at(20_000, 55_800));
        assert_eq!(next_at(half_past_three, at(20_000, 55_800)), at(20_001, 55_800));
        assert_eq!(next_at(DAY, at(20_000, 5)), at(20_001, 0));
    }
}
