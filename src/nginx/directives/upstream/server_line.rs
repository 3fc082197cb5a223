//! `server` in an upstream: an address and its parameters.

use std::time::Duration;

use crate::backend::http1::Address;
use crate::nginx::syntax::values::{self, TimeUnit};
use crate::nginx::syntax::{Directive, Fault, Word, address, did_you_mean};

/// A `server` directive of an upstream, with nginx's defaults filled in.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct UpstreamServer {
    /// The address exactly as written, because a consistent hash places the server by this text.
    pub(crate) written: String,
    /// The address, with port 80 if none is written.
    pub(crate) address: Address,
    /// `weight`, 1 to 65535.
    pub(crate) weight: u32,
    /// `max_conns`; 0 is no limit.
    pub(crate) max_conns: u32,
    /// `max_fails`, if it is written; 0 never ejects.
    max_fails: Option<u32>,
    /// `fail_timeout`, if it is written.
    fail_timeout: Option<Duration>,
    pub(crate) backup: bool,
    pub(crate) down: bool,
    /// Whether the server gets only requests of sessions that are bound to it (`drain`).
    pub(crate) drain: bool,
    /// The name of the server in session ids (`route`).
    pub(crate) route: Option<String>,
    /// The duration of `slow_start`; zero is none.
    pub(crate) slow_start: Duration,
    /// Whether the name is looked up at the DNS servers of `resolver` (`resolve`).
    pub(crate) resolve: bool,
    /// Whether the name is a value of a variable in `proxy_pass`, which nginx looks up for each
    /// request.
    pub(crate) is_of_variable: bool,
}

/// The rule that ejects a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EjectionRule {
    /// The server has neither `max_fails` nor `fail_timeout`, and is ejected if it fails more often
    /// than the others.
    Outlier,
    /// nginx's rule, with its default for a parameter that is not written. `max_fails` 0 never
    /// ejects.
    MaxFails { max_fails: u32, fail_timeout: Duration },
}

const PARAMETERS: &str = "weight=N, max_conns=N, max_fails=N, fail_timeout=TIME, slow_start=TIME, route=NAME, backup, down, \
                          drain, resolve";
/// The maximum weight. A consistent hash makes 160 points for each unit.
const MAX_WEIGHT: u32 = 65_535;

impl UpstreamServer {
    pub(super) fn new(written: String, address: Address) -> UpstreamServer {
        UpstreamServer {
            written,
            address,
            weight: 1,
            max_conns: 0,
            max_fails: None,
            fail_timeout: None,
            backup: false,
            down: false,
            drain: false,
            route: None,
            slow_start: Duration::ZERO,
            resolve: false,
            is_of_variable: false,
        }
    }

    pub(super) fn read(directive: &Directive) -> Result<UpstreamServer, Fault> {
        let Some((first, parameters)) = directive.args.split_first() else {
            let expected = format!("server ADDRESS [{}];", PARAMETERS.replace(", ", "] ["));
            return Err(directive.span().value("server without an address", expected));
        };
        let written = address::parse(&first.text, 80).map_err(|reason| {
            first.invalid("server address", format!("HOST[:PORT], [IPV6]:PORT or unix:PATH ({reason})"))
        })?;
        let mut server = UpstreamServer::new(first.text.clone(), written.address);
        for word in parameters {
            match word.parameter() {
                ("weight", Some(value)) => server.weight = values::number(&value, 1..=MAX_WEIGHT)?,
                ("max_conns", Some(value)) => server.max_conns = values::number(&value, 0..=u32::MAX)?,
                ("max_fails", Some(value)) => server.max_fails = Some(values::number(&value, 0..=u32::MAX)?),
                ("fail_timeout", Some(value)) => server.fail_timeout = Some(values::time(&value, TimeUnit::Seconds)?),
                ("slow_start", Some(value)) => server.slow_start = values::time(&value, TimeUnit::Seconds)?,
                // nginx-upstream-jvm-route calls the parameter `srun_id`.
                ("route" | "srun_id", Some(value)) if value.text.is_empty() || value.text.contains('$') => {
                    return Err(word.invalid("route", "route=NAME, as the ids of its sessions end"));
                }
                ("route" | "srun_id", Some(value)) => server.route = Some(value.text),
                ("backup", None) => server.backup = true,
                ("down", None) => server.down = true,
                ("drain", None) => server.drain = true,
                ("resolve", None) => server.resolve = true,
                (name, _) => return Err(unknown(name, word)),
            }
        }
        Ok(server)
    }

    /// Returns the rule that ejects the server.
    pub(crate) fn ejection(&self) -> EjectionRule {
        match (self.max_fails, self.fail_timeout) {
            (None, None) => EjectionRule::Outlier,
            (max_fails, fail_timeout) => EjectionRule::MaxFails {
                max_fails: max_fails.unwrap_or(1),
                fail_timeout: fail_timeout.unwrap_or(Duration::from_secs(10)),
            },
        }
    }
}

fn unknown(name: &str, word: &Word) -> Fault {
    let unsupported =
        |instead| word.span.unsupported(format!("parameter \"{}\" of server is not supported", word.text), instead);
    match name {
        "service" => unsupported("HOST:PORT"),
        _ => {
            let parameter = PARAMETERS.split(", ").find(|parameter| parameter.split('=').next() == Some(name));
            if let Some(parameter) = parameter {
                let message = format!("parameter \"{}\" of server is incomplete or has a value too many", word.text);
                return word.span.value(message, format!("{parameter}, without spaces"));
            }
            let known = PARAMETERS.split(", ").map(|parameter| parameter.split('=').next().unwrap_or_default());
            let message = format!("unknown parameter \"{}\" of server{}", word.text, did_you_mean(name, known));
            word.span.unknown(message, format!("one of: {PARAMETERS}"))
        }
    }
}
