//! `proxy_next_upstream`: the conditions under which a request is sent to another server.

use std::fmt;
use std::time::Duration;

use crate::nginx::directives::catalogue::wrong_number;
use crate::nginx::syntax::{Directive, Fault, did_you_mean};

/// The conditions under which a request is sent to another server, and how often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NextUpstream {
    /// The conditions of the directive, each once; empty for `off`.
    conditions: Vec<&'static str>,
    /// Whether the directive is written, so that the conditions are not the default.
    pub(crate) is_written: bool,
    /// The maximum number of servers that get a request; 0 is no limit.
    pub(crate) tries: u32,
    /// The maximum time until the last attempt begins; zero is no limit.
    pub(crate) max_elapsed: Duration,
}

const CONDITIONS: &str = "error timeout invalid_header http_500 http_502 http_503 http_504 http_403 http_404 http_429 \
                          non_idempotent off";

impl Default for NextUpstream {
    fn default() -> Self {
        NextUpstream { conditions: vec!["error", "timeout"], is_written: false, tries: 0, max_elapsed: Duration::ZERO }
    }
}

impl NextUpstream {
    /// Returns whether the directive has this condition.
    pub(crate) fn has(&self, condition: &str) -> bool {
        self.conditions.contains(&condition)
    }

    /// Returns whether the directive is written with `timeout`, which is also part of the default.
    pub(crate) fn timeout_is_written(&self) -> bool {
        self.is_written && self.has("timeout")
    }

    /// Returns whether a response with this status makes the next server get the request.
    pub(crate) fn on_status(&self, status: u16) -> bool {
        self.has(&format!("http_{status}"))
    }

    /// Reads the conditions; the limits stay as they are.
    pub(super) fn read(&mut self, directive: &Directive) -> Result<(), Fault> {
        if directive.args.is_empty() {
            return Err(wrong_number(directive));
        }
        self.conditions.clear();
        for word in &directive.args {
            let text = word.text.as_str();
            let expected = || format!("any of: {CONDITIONS}");
            match CONDITIONS.split(' ').find(|condition| *condition == text) {
                Some(condition) if !self.has(condition) => self.conditions.push(condition),
                Some(_) => {}
                // The condition concerns nginx's cache.
                None if text == "updating" => {}
                None if text == "denied" => {
                    return Err(word.span.unsupported("condition \"denied\" is not supported", expected()));
                }
                None => {
                    let hint = did_you_mean(text, CONDITIONS.split(' '));
                    return Err(word.span.unknown(format!("unknown condition \"{text}\"{hint}"), expected()));
                }
            }
        }
        // `off` takes precedence over other conditions.
        if self.has("off") {
            self.conditions.clear();
        }
        self.is_written = true;
        Ok(())
    }

    /// Adds the conditions of another directive. `off` takes precedence.
    pub(super) fn add(&mut self, other: &NextUpstream) {
        if self.conditions.is_empty() || other.conditions.is_empty() {
            return self.conditions.clear();
        }
        let new = other.conditions.iter().filter(|condition| !self.has(condition)).copied().collect::<Vec<_>>();
        self.conditions.extend(new);
    }
}

impl fmt::Display for NextUpstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&if self.conditions.is_empty() { "off".to_owned() } else { self.conditions.join(" ") })
    }
}
