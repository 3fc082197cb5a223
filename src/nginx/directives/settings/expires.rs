//! `expires`: the time for which a browser may keep a response (`ngx_http_headers_filter_module`).

use std::time::{Duration, SystemTime};

use http::header::{self, HeaderMap, HeaderValue};

use crate::nginx::directives::catalogue::arg;
use crate::nginx::syntax::values::{self, TimeUnit};
use crate::nginx::syntax::{Directive, Fault, Word};

/// Every date within this time can be written.
const MAX_TIME: Duration = Duration::from_secs(50 * 365 * 86_400);

/// The value of one `expires` line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expires {
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
    pub(super) fn read(directive: &Directive) -> Result<Expires, Fault> {
        let word = match &directive.args[..] {
            [modified, _] if modified.text == "modified" => modified,
            _ => arg(directive)?,
        };
        match word.text.as_str() {
            "off" => Ok(Expires::Off),
            "epoch" => Ok(Expires::Epoch),
            "max" => Ok(Expires::Max),
            text if text == "modified" || text.starts_with('@') || text.contains('$') => {
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
                Ok(Expires::After { time: after, past })
            }
        }
    }

    /// Sets `Expires` and `Cache-Control` of a response with one of the statuses that nginx adds headers to.
    pub(crate) fn apply(self, headers: &mut HeaderMap) {
        let second = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let now = SystemTime::now();
        let (date, control) = match self {
            Expires::Off => return,
            Expires::Epoch => (second(1), "no-cache".to_owned()),
            // Thu, 31 Dec 2037 23:55:55 GMT
            Expires::Max => (second(2_145_916_555), "max-age=315360000".to_owned()),
            Expires::After { time, past: true } if !time.is_zero() => {
                // A clock that was never set begins at the epoch, before which there is no date.
                let date = now.checked_sub(time).unwrap_or(SystemTime::UNIX_EPOCH).max(SystemTime::UNIX_EPOCH);
                (date, "no-cache".to_owned())
            }
            Expires::After { time, .. } => (now + time, format!("max-age={}", time.as_secs())),
        };
        if let (Ok(date), Ok(control)) =
            (HeaderValue::try_from(httpdate::fmt_http_date(date)), HeaderValue::try_from(control))
        {
            headers.insert(header::EXPIRES, date);
            headers.insert(header::CACHE_CONTROL, control);
        }
    }
}
