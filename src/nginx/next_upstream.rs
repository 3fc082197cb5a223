//! `proxy_next_upstream`: when a request goes on to another server.

use std::fmt;
use std::time::Duration;

use super::error::{ErrorKind, Fault};
use super::lexer::Word;
use super::suggest;

/// When a request is passed on to another server, and how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NextUpstream {
    /// A connection that fails or breaks.
    pub(crate) error: bool,
    /// No connection or no answer in time.
    pub(crate) timeout: bool,
    /// An answer that is empty or no HTTP.
    pub(crate) invalid_header: bool,
    /// Answers with these statuses, lowest bit first in the order of [`STATUSES`].
    statuses: u8,
    /// Also requests that must not be repeated and were already sent.
    pub(crate) non_idempotent: bool,
    /// How many servers are tried; 0 is all of them.
    pub(crate) tries: u32,
    /// How long it may go on; zero is no limit.
    pub(crate) within: Duration,
}

/// The statuses that may be named.
const STATUSES: [u16; 7] = [500, 502, 503, 504, 403, 404, 429];
const VALUES: &[&str] = &[
    "error",
    "timeout",
    "invalid_header",
    "http_500",
    "http_502",
    "http_503",
    "http_504",
    "http_403",
    "http_404",
    "http_429",
    "non_idempotent",
    "off",
];

impl Default for NextUpstream {
    /// `error timeout`, without limits.
    fn default() -> Self {
        NextUpstream { error: true, timeout: true, ..NextUpstream::OFF }
    }
}

impl NextUpstream {
    const OFF: NextUpstream = NextUpstream {
        error: false,
        timeout: false,
        invalid_header: false,
        statuses: 0,
        non_idempotent: false,
        tries: 0,
        within: Duration::ZERO,
    };

    /// True when an answer with this status is passed on. nginx counts 5xx and 429 as failures of the server only if so.
    pub(crate) fn on_status(&self, status: u16) -> bool {
        STATUSES.iter().position(|&known| known == status).is_some_and(|bit| self.statuses & (1 << bit) != 0)
    }

    /// Reads the conditions; the limits stay as they are.
    pub(super) fn read(&mut self, words: &[Word]) -> Result<(), Fault> {
        let mut read = NextUpstream { tries: self.tries, within: self.within, ..NextUpstream::OFF };
        let mut off = false;
        for word in words {
            match word.text.as_str() {
                "error" => read.error = true,
                "timeout" => read.timeout = true,
                "invalid_header" => read.invalid_header = true,
                "non_idempotent" => read.non_idempotent = true,
                "off" => off = true,
                "updating" => {}
                "denied" => {
                    return Err(Fault::new(ErrorKind::Unsupported, word.span, "condition \"denied\" is not supported")
                        .expecting(format!("any of: {}", VALUES.join(" "))));
                }
                text => {
                    let status = text.strip_prefix("http_").and_then(|code| code.parse::<u16>().ok());
                    let bit = status.and_then(|status| STATUSES.iter().position(|&known| known == status));
                    let Some(bit) = bit else {
                        let hint = suggest::nearest(text, VALUES.iter().copied());
                        let hint = hint.map(|meant| format!(", did you mean \"{meant}\"?")).unwrap_or_default();
                        return Err(Fault::new(
                            ErrorKind::Unknown,
                            word.span,
                            format!("unknown condition \"{text}\"{hint}"),
                        )
                        .expecting(format!("any of: {}", VALUES.join(" "))));
                    };
                    read.statuses |= 1 << bit;
                }
            }
        }
        // `off` wins over what stands beside it.
        *self = if off { NextUpstream { tries: self.tries, within: self.within, ..NextUpstream::OFF } } else { read };
        Ok(())
    }
}

impl fmt::Display for NextUpstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = [
            (self.error, "error"),
            (self.timeout, "timeout"),
            (self.invalid_header, "invalid_header"),
            (self.non_idempotent, "non_idempotent"),
        ];
        let mut words: Vec<String> = flags.iter().filter(|(set, _)| *set).map(|(_, name)| (*name).to_owned()).collect();
        words.extend(STATUSES.iter().filter(|&&status| self.on_status(status)).map(|status| format!("http_{status}")));
        f.write_str(&if words.is_empty() { "off".to_owned() } else { words.join(" ") })
    }
}
