//! `upstream`: a group of servers and how one of them is chosen.

use std::collections::HashSet;
use std::fmt;
use std::time::Duration;

use super::address;
use super::directives::{self, Block, Verdict};
use super::error::{ErrorKind, Fault};
use super::level::{words, wrong_number};
use super::lexer::Word;
use super::parser::Directive;
use super::reader::Reader;
use super::sticky::Sticky;
use super::suggest;
use super::values::{self, Step};
use super::variables::{Maps, Template};
use crate::backend::http1::Address;

/// A group of servers.
#[derive(Debug, Clone)]
pub(crate) struct Upstream {
    /// Its name. For a `proxy_pass` straight to a host: that host and port, or `unix:` and the path.
    pub(crate) name: String,
    /// False for a `proxy_pass` straight to a host.
    pub(crate) declared: bool,
    /// How a server is chosen.
    pub(crate) method: Method,
    /// How sessions find their server.
    pub(crate) sticky: Option<Sticky>,
    /// The servers in the order of the file. At least one is not a backup.
    pub(crate) servers: Vec<UpstreamServer>,
    /// How many idle connections are kept (nginx: per worker).
    pub(crate) keepalive: Option<u32>,
    /// How many requests a connection may carry; nginx's default is 1000.
    pub(crate) keepalive_requests: Option<u32>,
    /// How long a connection may be used in all; nginx's default is 1 h.
    pub(crate) keepalive_time: Option<Duration>,
    /// How long a connection may idle; nginx's default is 60 s.
    pub(crate) keepalive_timeout: Option<Duration>,
}

/// How a server is chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Method {
    /// Smooth weighted round robin.
    RoundRobin,
    /// `ip_hash`.
    IpHash,
    /// `least_conn`.
    LeastConn,
    /// `hash KEY [consistent]`.
    Hash {
        /// What is hashed.
        key: Template,
        /// True for ketama.
        consistent: bool,
    },
    /// `random [two]`; with `two`, the less busy of two.
    Random {
        /// Whether two are drawn.
        two: bool,
    },
}

/// One `server` line of an upstream, with nginx's defaults filled in.
#[derive(Debug, Clone)]
pub(crate) struct UpstreamServer {
    /// The address exactly as written: consistent hashing places the server by this text.
    pub(crate) written: String,
    /// The address, read. Port 80 when none was written.
    pub(crate) address: Address,
    /// `weight`, 1 to 65535.
    pub(crate) weight: u32,
    /// `max_conns`; 0 is no limit.
    pub(crate) max_conns: u32,
    /// `max_fails`; 0 never ejects.
    pub(crate) max_fails: u32,
    /// `fail_timeout`.
    pub(crate) fail_timeout: Duration,
    /// `backup`.
    pub(crate) backup: bool,
    /// `down`.
    pub(crate) down: bool,
    /// `drain`: only sessions that are bound to it.
    pub(crate) drain: bool,
    /// `route`: its name in session ids.
    pub(crate) route: Option<String>,
    /// `slow_start`; zero is none.
    pub(crate) slow_start: Duration,
}

const PARAMETERS: &[&str] = &[
    "weight=N",
    "max_conns=N",
    "max_fails=N",
    "fail_timeout=TIME",
    "slow_start=TIME",
    "route=NAME",
    "backup",
    "down",
    "drain",
];
/// A consistent hash makes 160 points for each unit of weight.
const HEAVIEST: u32 = 65_535;

impl Upstream {
    /// The group that nginx makes for a `proxy_pass` to a host.
    pub(super) fn of_host(name: String, address: Address) -> Upstream {
        Upstream { declared: false, servers: vec![UpstreamServer::new(name.clone(), address)], ..Upstream::empty(name) }
    }

    fn empty(name: String) -> Upstream {
        Upstream {
            name,
            declared: true,
            method: Method::RoundRobin,
            sticky: None,
            servers: Vec::new(),
            keepalive: None,
            keepalive_requests: None,
            keepalive_time: None,
            keepalive_timeout: None,
        }
    }

    pub(super) fn read(directive: &Directive, reader: &mut Reader<'_>) -> Result<Upstream, Fault> {
        let ([name], Some(block)) = (&directive.args[..], &directive.block) else {
            return Err(Fault::new(ErrorKind::Value, directive.span(), "upstream takes one name")
                .expecting("upstream NAME { ... }"));
        };
        if name.text.is_empty() || name.text.contains(['/', '$']) {
            return Err(values::invalid(name, "upstream name").expecting("a name without \"/\" and \"$\""));
        }
        let mut upstream = Upstream::empty(name.text.clone());
        let mut seen = HashSet::new();
        let mut unhashed: Option<(Word, &str)> = None;
        for inner in block {
            // Everything that is modelled for an upstream is read below; nothing is harmless in it.
            let Verdict::Modelled = directives::judge(inner, Block::Upstream)? else { continue };
            let known = inner.name.text.as_str();
            if known == "server" {
                let (server, word) = read_server(inner)?;
                unhashed = unhashed.or(word.map(|(word, name)| (word.clone(), name)));
                upstream.servers.push(server);
                continue;
            }
            if !seen.insert(known) {
                return Err(Fault::new(ErrorKind::Duplicate, inner.span(), format!("\"{known}\" is duplicate"))
                    .expecting("it once"));
            }
            match known {
                "zone" => {}
                "sticky" => upstream.sticky = Some(Sticky::read(inner, reader)?),
                "keepalive" => upstream.keepalive = Some(values::number(keepalive_word(inner)?, "", 1, u32::MAX)?),
                "keepalive_requests" => {
                    upstream.keepalive_requests = Some(values::number(one(inner)?, "", 1, u32::MAX)?)
                }
                "keepalive_time" => upstream.keepalive_time = Some(values::time(one(inner)?, Step::Milliseconds)?),
                "keepalive_timeout" => {
                    upstream.keepalive_timeout = Some(values::time(one(inner)?, Step::Milliseconds)?)
                }
                _ => {
                    if upstream.method != Method::RoundRobin {
                        return Err(Fault::new(ErrorKind::Duplicate, inner.span(), "load balancing method redefined")
                            .expecting("one of: ip_hash, least_conn, hash, random, or none for round robin"));
                    }
                    upstream.method = read_method(inner, reader.maps())?;
                }
            }
        }
        if upstream.servers.iter().all(|server| server.backup) {
            return Err(Fault::new(ErrorKind::Missing, name.span, format!("no servers in upstream \"{}\"", name.text))
                .expecting("server ADDRESS; that is not a backup"));
        }
        if let (Some((word, parameter)), Method::IpHash | Method::Hash { .. } | Method::Random { .. }) =
            (unhashed, &upstream.method)
        {
            return Err(Fault::new(
                ErrorKind::Value,
                word.span,
                format!("ip_hash, hash and random do not support parameter \"{parameter}\""),
            )
            .expecting(format!("least_conn or round robin, or no {parameter}")));
        }
        note_routes(&upstream, name, reader);
        Ok(upstream)
    }
}

/// A server that no session can name is a mistake more often than not.
fn note_routes(upstream: &Upstream, name: &Word, reader: &mut Reader<'_>) {
    if matches!(upstream.sticky, Some(Sticky::Route(_))) {
        for server in upstream.servers.iter().filter(|server| server.route.is_none()) {
            reader.note(
                name.span,
                format!("sticky route: server {} has no route=, so no session names it", server.written),
            );
        }
    } else if upstream.sticky.is_none() {
        for server in upstream.servers.iter().filter(|server| server.drain) {
            reader.note(name.span, format!("drain without sticky: server {} gets no requests at all", server.written));
        }
    }
}

/// Newer nginx has `keepalive N local`.
fn keepalive_word(directive: &Directive) -> Result<&Word, Fault> {
    match &directive.args[..] {
        [number, local] if local.text == "local" => Ok(number),
        _ => one(directive),
    }
}

fn one(directive: &Directive) -> Result<&Word, Fault> {
    words(directive).map(|[word]| word)
}

fn read_method(directive: &Directive, maps: &Maps) -> Result<Method, Fault> {
    let name = directive.name.text.as_str();
    let texts: Vec<_> = directive.args.iter().map(|word| word.text.as_str()).collect();
    match (name, &texts[..]) {
        ("ip_hash", []) => Ok(Method::IpHash),
        ("least_conn", []) => Ok(Method::LeastConn),
        ("random", []) => Ok(Method::Random { two: false }),
        ("random", ["two"] | ["two", "least_conn"]) => Ok(Method::Random { two: true }),
        ("hash", [_] | [_, "consistent"]) => {
            let key = Template::new(&directive.args[0], maps)?;
            if key.has_captures() {
                return Err(Fault::new(
                    ErrorKind::Unsupported,
                    directive.args[0].span,
                    "a capture in the key of an upstream",
                )
                .expecting("other variables: locations share the upstream"));
            }
            Ok(Method::Hash { key, consistent: texts.len() == 2 })
        }
        ("hash" | "random", [.., last]) => {
            let word = directive.args.last().unwrap_or(&directive.name);
            Err(Fault::new(ErrorKind::Unknown, word.span, format!("unknown parameter \"{last}\" of {name}"))
                .expecting(directives::usage(name)))
        }
        _ => Err(wrong_number(directive)),
    }
}

/// The first parameter of a server that goes with no hash, and its name.
type Unhashed<'d> = Option<(&'d Word, &'static str)>;

fn read_server(directive: &Directive) -> Result<(UpstreamServer, Unhashed<'_>), Fault> {
    let Some((first, parameters)) = directive.args.split_first() else {
        return Err(Fault::new(ErrorKind::Value, directive.span(), "server without an address")
            .expecting(format!("server ADDRESS [{}];", PARAMETERS.join("] ["))));
    };
    let written = address::parse(&first.text, 80).map_err(|reason| {
        values::invalid(first, "server address").expecting(format!("HOST[:PORT], [IPV6]:PORT or unix:PATH ({reason})"))
    })?;
    let mut server = UpstreamServer::new(first.text.clone(), written.address);
    let mut unhashed = None;
    for word in parameters {
        match word.text.split_once('=').map_or((word.text.as_str(), false), |(name, _)| (name, true)) {
            ("weight", true) => server.weight = values::number(word, "weight=", 1, HEAVIEST)?,
            ("max_conns", true) => server.max_conns = values::number(word, "max_conns=", 0, u32::MAX)?,
            ("max_fails", true) => server.max_fails = values::number(word, "max_fails=", 0, u32::MAX)?,
            ("fail_timeout", true) => {
                server.fail_timeout = values::time(&values::valued(word, "fail_timeout="), Step::Seconds)?;
            }
            ("backup", false) => {
                server.backup = true;
                unhashed = unhashed.or(Some((word, "backup")));
            }
            ("slow_start", true) => {
                server.slow_start = values::time(&values::valued(word, "slow_start="), Step::Seconds)?;
                unhashed = unhashed.or(Some((word, "slow_start")));
            }
            ("route", true) => {
                let route = values::valued(word, "route=");
                if route.text.is_empty() || route.text.contains('$') {
                    return Err(values::invalid(word, "route").expecting("route=NAME, as the ids of its sessions end"));
                }
                server.route = Some(route.text);
            }
            ("down", false) => server.down = true,
            ("drain", false) => server.drain = true,
            _ => return Err(unknown_parameter(word)),
        }
    }
    Ok((server, unhashed))
}

fn unknown_parameter(word: &Word) -> Fault {
    let text = &word.text;
    let name = text.split('=').next().unwrap_or_default();
    let instead = match name {
        "resolve" => Some("an address; a name is looked up without it"),
        "service" => Some("HOST:PORT"),
        _ => None,
    };
    if let Some(instead) = instead {
        return Fault::new(
            ErrorKind::Unsupported,
            word.span,
            format!("parameter \"{text}\" of server is not supported"),
        )
        .expecting(instead);
    }
    let known = PARAMETERS.iter().map(|parameter| parameter.split('=').next().unwrap_or_default());
    let hint = suggest::nearest(name, known).map(|meant| format!(", did you mean \"{meant}\"?")).unwrap_or_default();
    Fault::new(ErrorKind::Unknown, word.span, format!("unknown parameter \"{text}\" of server{hint}"))
        .expecting(format!("one of: {}", PARAMETERS.join(", ")))
}

impl UpstreamServer {
    fn new(written: String, address: Address) -> UpstreamServer {
        let fail_timeout = Duration::from_secs(10);
        UpstreamServer {
            written,
            address,
            weight: 1,
            max_conns: 0,
            max_fails: 1,
            fail_timeout,
            backup: false,
            down: false,
            drain: false,
            route: None,
            slow_start: Duration::ZERO,
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
