//! `expires`: the time for which a browser may keep a response (`ngx_http_headers_filter_module`).

use std::time::{Duration, SystemTime};

use http::header::{self, HeaderMap, HeaderValue};

use crate::nginx::directives::catalogue::arg;
use crate::nginx::syntax::values::{self, TimeUnit};
use crate::nginx::syntax::{Directive, Fault, Span, Word};
use crate::nginx::variables::{Maps, Scope, Template};

/// Every date within this time can be written.
const MAX_TIME: Duration = Duration::from_secs(50 * 365 * 86_400);

/// One `expires` line.
#[derive(Debug, Clone)]
pub(crate) enum Expires {
    Fixed(Lifetime),
    /// A value with variables; one that is no time is as `off`, as in nginx.
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
}

impl Expires {
    pub(super) fn read(directive: &Directive, maps: &Maps) -> Result<Expires, Fault> {
        let word = match &directive.args[..] {
            [modified, _] if modified.text == "modified" => modified,
            _ => arg(directive)?,
        };
        match word.text.contains('$') {
            true => Template::new(word, maps).map(Expires::Variable),
            false => Lifetime::read(word).map(Expires::Fixed),
        }
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
            text if text == "modified" || text.starts_with('@') => {
                let message = format!("\"expires {text}\" is not supported");
                Err(word.span.unsupported(message, "expires TIME|epoch|max|off; or add_header Cache-Control VALUE;"))
            }
            text => {
                let past = text.starts_with('-');
                let skip = usize::from(text.starts_with(['-', '+']));
                let time = Word { text: text[skip..].to_owned(), span: word.span.right(skip) };
                let after = values::time(&time, TimeUnit::Seconds)?;
                if after > MAX_TIME {
                    return Err(time.span.value("\"expires\" of more than 50 years", "expires max; or a shorter time"));
                }
                Ok(Lifetime::After { time: after, past })
            }
        }
    }

    /// Sets `Expires` and `Cache-Control` of a response with one of the statuses that nginx adds headers to.
    pub(crate) fn apply(self, headers: &mut HeaderMap) {
        let second = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let now = SystemTime::now();
        let (date, control) = match self {
            Lifetime::Off => return,
            Lifetime::Epoch => (second(1), "no-cache".to_owned()),
            // Thu, 31 Dec 2037 23:55:55 GMT
            Lifetime::Max => (second(2_145_916_555), "max-age=315360000".to_owned()),
            Lifetime::After { time, past: true } if !time.is_zero() => {
                // A clock that was never set begins at the epoch, before which there is no date.
                let date = now.checked_sub(time).unwrap_or(SystemTime::UNIX_EPOCH).max(SystemTime::UNIX_EPOCH);
                (date, "no-cache".to_owned())
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
