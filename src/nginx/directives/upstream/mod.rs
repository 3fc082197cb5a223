//! `upstream`: a group of servers, the method that picks one, and how sessions find theirs.

mod resolvers;
mod server_line;
mod sticky;
mod third_party;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::num::NonZeroUsize;
use std::time::Duration;

pub(crate) use resolvers::Resolvers;
pub(crate) use server_line::{EjectionRule, UpstreamServer};
pub(crate) use sticky::{LearnedCookies, Sticky};

use super::catalogue::{self, Block, arg, wrong_number};
use super::comments::CommentOptions;
use super::remarks::Remarks;
use super::settings::NodeSide;
use crate::admission::QueueRules;
use crate::backend::http1::Address;
use crate::clock::InvalidDuration;
use crate::nginx::options::ProbeMode;
use crate::nginx::syntax::values::{self, TimeUnit};
use crate::nginx::syntax::{Directive, Fault, Span, Word};
use crate::nginx::variables::{Maps, Template};

/// A group of servers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Upstream {
    /// The name. For a `proxy_pass` to a plain host, it is the host and port, or `unix:` and the
    /// path.
    pub(crate) name: String,
    /// Whether the file declares the group. False for a `proxy_pass` to a plain host.
    pub(crate) declared: bool,
    /// The file, line and column of the first `proxy_pass` to a plain host.
    pub(crate) place: Option<String>,
    /// The name of the upstream, or the first `proxy_pass` to the host.
    pub(crate) span: Option<Span>,
    pub(crate) method: Method,
    pub(crate) sticky: Option<Sticky>,
    /// The servers in the order of the file. At least one is not a backup.
    pub(crate) servers: Vec<UpstreamServer>,
    /// The maximum number of idle connections that are kept (nginx: per worker).
    pub(crate) keepalive: Option<u32>,
    /// The maximum number of requests on a connection; nginx: 1000.
    pub(crate) keepalive_requests: Option<u32>,
    /// The maximum lifetime of a connection; nginx: 1 h.
    pub(crate) keepalive_time: Option<Duration>,
    /// The idle timeout of a connection; nginx: 60 s.
    pub(crate) keepalive_timeout: Option<Duration>,
    /// The rules for queries that wait for servers with `max_conns`, if `queue` sets them.
    pub(crate) queue: Option<QueueRules>,
    /// `# kylin_lb:` comments.
    pub(crate) comments: CommentOptions,
    /// The probe of servers that are not Kylin nodes, if `check` of another module sets it.
    pub(crate) checked: Option<ProbeMode>,
    /// The maximum size of a response head: the highest limit of the locations that use the group.
    /// `None` if no location does.
    pub(crate) head_bytes: Option<u64>,
    /// How locations reach the group: over TLS, or without (`Some(None)`). `None` if no location
    /// does.
    pub(crate) passed: Option<Option<NodeTls>>,
}

/// The settings for TLS with an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(not(feature = "tls"), allow(dead_code, reason = "an https location is an error then"))]
pub(crate) struct NodeTls {
    pub(crate) settings: NodeSide,
    /// The host of `$proxy_host`.
    pub(crate) proxy_host: String,
}

/// The method by which a server is picked.
#[derive(Debug, Clone, Default)]
pub(crate) enum Method {
    #[default]
    RoundRobin,
    IpHash,
    LeastConn,
    /// `hash KEY [consistent]`; `consistent` is ketama.
    Hash {
        key: Template,
        consistent: bool,
    },
    /// `random [two]`; with `two`, the less busy of two servers.
    Random {
        two: bool,
    },
}

impl Upstream {
    /// Creates the group for a `proxy_pass` to a plain host.
    pub(crate) fn of_host(name: String, address: Address, place: String) -> Upstream {
        let servers = vec![UpstreamServer::new(name.clone(), address)];
        Upstream { name, declared: false, place: Some(place), servers, ..Upstream::default() }
    }

    pub(crate) fn read(directive: &Directive, maps: &Maps, remarks: &mut Remarks<'_>) -> Result<Upstream, Fault> {
        let ([name], Some(block)) = (&directive.args[..], &directive.block) else {
            return Err(directive.span().value("upstream takes one name", "upstream NAME { ... }"));
        };
        if name.text.is_empty() || name.text.contains(['/', '$']) {
            return Err(name.invalid("upstream name", "a name without \"/\" and \"$\""));
        }
        let comments = CommentOptions::read(block, remarks)?;
        let mut upstream = Upstream {
            name: name.text.clone(),
            declared: true,
            comments,
            span: Some(name.span),
            ..Upstream::default()
        };
        let mut seen = HashSet::new();
        // The directive that sets the method.
        let mut method_at: Option<Span> = None;
        let of_other_modules = |inner: &&Directive| catalogue::OF_OTHER_MODULES.contains(&inner.name.text.as_str());
        for inner in block.iter().filter(of_other_modules) {
            if inner.block.is_some() {
                return Err(inner.span().syntax(format!("\"{}\" takes no block", inner.name.text), "a \";\""));
            }
            third_party::read(inner, &mut upstream, maps, remarks)?;
            if third_party::is_method(inner) {
                method_at = Some(inner.span());
            }
        }
        for inner in catalogue::modelled(block, Block::Upstream, remarks)? {
            let known = inner.name.text.as_str();
            // If several methods are set, the last one counts.
            let may_stand_again = ["server", "zone", "hash", "ip_hash", "least_conn", "random"].contains(&known);
            if !seen.insert(known) && !may_stand_again {
                let expected = format!("{known} once in an upstream");
                return Err(inner.span().duplicate(format!("\"{known}\" is duplicate"), expected));
            }
            let milliseconds = || values::time(arg(inner)?, TimeUnit::Milliseconds);
            match known {
                "server" => upstream.servers.push(UpstreamServer::read(inner)?),
                "zone" => {}
                "queue" => {
                    upstream.queue = Some(queue(inner)?);
                    let text = "queue: a query waits for the server that its session or the method chose, quick ones go first, and other requests \
                                do not wait";
                    remarks.note(inner.span(), text);
                }
                "sticky" if third_party::is_sticky_module(inner) => {
                    upstream.sticky = Some(third_party::sticky_module(inner, remarks)?);
                }
                "sticky" => upstream.sticky = Some(Sticky::read(inner, maps, remarks)?),
                "keepalive" => upstream.keepalive = Some(values::number(keepalive_number(inner)?, 1..=u32::MAX)?),
                "keepalive_requests" => {
                    upstream.keepalive_requests = Some(values::number(arg(inner)?, 1..=u32::MAX)?);
                }
                "keepalive_time" => upstream.keepalive_time = Some(milliseconds()?),
                "keepalive_timeout" => upstream.keepalive_timeout = Some(milliseconds()?),
                _ => {
                    let (method, at) = (Method::read(inner, maps)?, inner.span());
                    if method_at.is_some() {
                        remarks.note(at, format!("{known}: load balancing method redefined, the last line counts"));
                    }
                    if method_at.is_none_or(|other| other.at < at.at) {
                        (upstream.method, method_at) = (method, Some(at));
                    }
                }
            }
        }
        if upstream.servers.iter().all(|server| server.backup) {
            let message = format!("no servers in upstream \"{}\"", name.text);
            return Err(name.span.missing(message, "server ADDRESS; that is not a backup"));
        }
        upstream.check_method(block)?;
        upstream.check_comments(block)?;
        upstream.note_routes(name, remarks);
        Ok(upstream)
    }

    /// Returns whether a `server` of the group has `max_fails` or `fail_timeout`.
    pub(crate) fn has_max_fails(&self) -> bool {
        self.servers.iter().any(|server| server.ejection() != EjectionRule::Outlier)
    }

    /// Refuses `backup` and `slow_start` with random and hash methods, as nginx does.
    fn check_method(&self, block: &[Directive]) -> Result<(), Fault> {
        if matches!(self.method, Method::RoundRobin | Method::LeastConn) {
            return Ok(());
        }
        let words = block.iter().filter(|inner| inner.is("server")).flat_map(|server| server.args.iter().skip(1));
        for word in words {
            if let (parameter @ ("backup" | "slow_start"), _) = word.parameter() {
                let message = format!("ip_hash, hash and random do not support parameter \"{parameter}\"");
                return Err(word.span.value(message, format!("least_conn or round robin, or no {parameter}")));
            }
        }
        Ok(())
    }

    /// Returns whether a directive of the upstream takes the place of a comment with this setting
    /// in a server.
    pub(crate) fn overrides(&self, setting: &str) -> bool {
        let is_sticky = self.sticky.is_some();
        match setting {
            "sessions" => is_sticky || matches!(self.method, Method::IpHash | Method::Hash { .. }),
            "policy" => !matches!(self.method, Method::RoundRobin),
            _ => false,
        }
    }

    /// Checks that no comment contradicts a directive of the block.
    fn check_comments(&self, block: &[Directive]) -> Result<(), Fault> {
        for comment in block.iter().filter(|inner| inner.in_comment) {
            let message = match comment.name.text.as_str() {
                "sessions" if self.sticky.is_some() => "sessions of kylin_lb beside sticky",
                "policy" if !matches!(self.method, Method::RoundRobin) => {
                    "policy of kylin_lb beside a balancing method"
                }
                _ => continue,
            };
            return Err(comment.span().duplicate(message, "one of the two"));
        }
        Ok(())
    }

    /// Notes servers that no session can name, which is usually a mistake.
    fn note_routes(&self, name: &Word, remarks: &mut Remarks<'_>) {
        let route = matches!(self.sticky, Some(Sticky::Route(_)));
        for server in &self.servers {
            if route && server.route.is_none() {
                let text = format!("sticky route: server {} has no route=, so no session names it", server.written);
                remarks.note(name.span, text);
            } else if self.sticky.is_none() && server.drain {
                let text = format!("drain without sticky: server {} gets no requests at all", server.written);
                remarks.note(name.span, text);
            }
        }
    }
}

/// Reads `queue NUMBER [timeout=TIME]`; nginx waits for 60 s at most.
fn queue(directive: &Directive) -> Result<QueueRules, Fault> {
    let (number, timeout) = match &directive.args[..] {
        [number] => (number, None),
        [number, timeout] => match timeout.parameter() {
            ("timeout", Some(time)) => (number, Some(time)),
            _ => return Err(timeout.span.unknown("unknown parameter of queue", catalogue::usage("queue"))),
        },
        _ => return Err(wrong_number(directive)),
    };
    let rules = QueueRules::new().max_waiting(NonZeroUsize::new(values::number(number, 1..=1_u32 << 30)? as usize));
    let Some(time) = timeout else { return Ok(rules) };
    let invalid = |error: InvalidDuration| time.span.value(error.to_string(), catalogue::usage("queue"));
    rules.max_wait(values::time(&time, TimeUnit::Seconds)?).map_err(invalid)
}

/// Returns the number of `keepalive N`, or of `keepalive N local` of newer versions.
fn keepalive_number(directive: &Directive) -> Result<&Word, Fault> {
    match &directive.args[..] {
        [number, local] if local.text == "local" => Ok(number),
        _ => arg(directive),
    }
}

impl Method {
    fn read(directive: &Directive, maps: &Maps) -> Result<Method, Fault> {
        let name = directive.name.text.as_str();
        let texts: Vec<_> = directive.args.iter().map(|word| word.text.as_str()).collect();
        match (name, &texts[..]) {
            ("ip_hash", []) => Ok(Method::IpHash),
            ("least_conn", []) => Ok(Method::LeastConn),
            ("random", []) => Ok(Method::Random { two: false }),
            ("random", ["two"] | ["two", "least_conn"]) => Ok(Method::Random { two: true }),
            ("hash", [_] | [_, "consistent"]) => {
                let word = &directive.args[0];
                let key = Template::new(word, maps)?;
                if key.has_captures() {
                    let expected = "other variables: locations share the upstream";
                    return Err(word.span.unsupported("a capture in the key of an upstream", expected));
                }
                Ok(Method::Hash { key, consistent: texts.len() == 2 })
            }
            ("hash" | "random", [.., last]) => {
                let word = directive.args.last().unwrap_or(&directive.name);
                let message = format!("unknown parameter \"{last}\" of {name}");
                Err(word.span.unknown(message, catalogue::usage(name)))
            }
            _ => Err(wrong_number(directive)),
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Method::RoundRobin => f.write_str("round robin"),
            Method::IpHash => f.write_str("ip_hash"),
            Method::LeastConn => f.write_str("least_conn"),
            Method::Hash { key, consistent } => write!(f, "hash {key}{}", if *consistent { " consistent" } else { "" }),
            Method::Random { two } => f.write_str(if *two { "random two least_conn" } else { "random" }),
        }
    }
}

/// The groups of a configuration: declared ones in the order of the file, then those made for a
/// host.
#[derive(Debug, Default)]
pub(crate) struct Upstreams {
    pub(crate) all: Vec<Upstream>,
    /// The positions by the name in lower case, because nginx ignores case.
    by_name: HashMap<String, usize>,
}

impl Upstreams {
    /// Returns the position of a group.
    pub(crate) fn find(&self, name: &str) -> Option<usize> {
        self.by_name.get(&name.to_ascii_lowercase()).copied()
    }

    /// Adds a group and returns its position.
    pub(crate) fn add(&mut self, upstream: Upstream) -> usize {
        let position = self.all.len();
        self.by_name.insert(upstream.name.to_ascii_lowercase(), position);
        self.all.push(upstream);
        position
    }
}
