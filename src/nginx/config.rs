//! A whole configuration: its groups, its servers, and which server a connection's requests belong to.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::time::Duration;

use super::directives::{self, Block, Verdict};
use super::error::{ConfigError, ErrorKind, Fault};
use super::level::Level;
use super::listen::ListenAddress;
use super::parser::{Directive, Parser};
use super::reader::{Collected, Notice, Reader};
use super::report::Report;
use super::server::Server;
use super::server_name::{Names, host_without_port};
use super::settings::Settings;
use super::source::Span;
use super::upstream::Upstream;
use super::variables::{Captures, Maps};

/// An nginx configuration, read and checked.
///
/// Either a whole `nginx.conf` or what stands in its `http` block, as the files in `conf.d` do.
///
/// ```
/// use kylin_lb::nginx::Config;
///
/// let config = Config::parse(
///     "kylin.conf",
///     "upstream kylin { server 1.1.1.1:7070; server 1.1.1.2:7070; }
///      server { listen 8080; location / { proxy_pass http://kylin; } }",
/// )?;
/// let understood = config.report().to_string();
/// assert!(understood.contains("1.1.1.2:7070"));
/// assert!(understood.contains("server 0.0.0.0:8080"));
/// # Ok::<(), kylin_lb::nginx::ConfigError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Config {
    /// The groups: the declared ones in the order of the file, then those made for a `proxy_pass` to a host.
    pub(super) upstreams: Vec<Upstream>,
    /// The servers in the order of the file.
    pub(super) servers: Vec<Server>,
    /// The addresses to accept connections at, each once.
    pub(super) listeners: Vec<Listener>,
    /// Directives that were accepted and have no effect here.
    pub(super) harmless: Vec<Notice>,
    /// Where this crate does something else than nginx would.
    pub(super) notes: Vec<Notice>,
}

/// An address and the servers behind it.
#[derive(Debug, Clone)]
pub(super) struct Listener {
    /// The address.
    pub(super) address: ListenAddress,
    /// The positions in [`Config::servers`].
    pub(super) servers: Vec<usize>,
    /// The position of the server for names that none has.
    pub(super) default: usize,
    /// The largest `backlog=` that was said.
    pub(super) backlog: Option<u32>,
    /// See [`Listen::ipv6_only`](super::Listen::ipv6_only).
    pub(super) ipv6_only: bool,
    names: Names,
}

impl Config {
    /// Reads a file and what it includes.
    ///
    /// # Errors
    /// [`ConfigError`] for the first mistake.
    pub fn read(path: impl AsRef<Path>) -> Result<Config, ConfigError> {
        let path = path.as_ref();
        let mut parser = Parser::default();
        let tree = parser.file(path);
        Config::build(tree, &parser).map_err(|fault| fault.locate(&path.to_string_lossy(), &parser.sources))
    }

    /// Reads a text, called `name` in errors, that includes nothing.
    ///
    /// # Errors
    /// [`ConfigError`] for the first mistake.
    pub fn parse(name: &str, text: &str) -> Result<Config, ConfigError> {
        let mut parser = Parser::default();
        let tree = parser.text(name, text);
        Config::build(tree, &parser).map_err(|fault| fault.locate(name, &parser.sources))
    }

    /// What was understood, for people.
    pub fn report(&self) -> Report<'_> {
        Report::new(self)
    }

    fn build(tree: Result<Vec<Directive>, Fault>, parser: &Parser) -> Result<Config, Fault> {
        let tree = tree?;
        let mut reader = Reader::new(&parser.sources);
        for include in &parser.unread {
            reader.remark_harmless(include.span, "include mime.types");
        }
        let mut http: Option<&[Directive]> = None;
        if tree.iter().any(|directive| directive.is("http")) {
            for directive in &tree {
                if directives::judge(directive, Block::Main)? == Verdict::Harmless {
                    reader.harmless(directive);
                } else if http.is_some() || !directive.args.is_empty() {
                    let message = "http stands once and takes no arguments";
                    return Err(Fault::new(ErrorKind::Duplicate, directive.span(), message).expecting("http { ... }"));
                } else {
                    http = directive.block.as_deref();
                }
            }
        }
        let servers = read_http(http.unwrap_or(&tree), &mut reader)?;
        if servers.is_empty() {
            return Err(Fault::of_file(ErrorKind::Missing, "no server { ... } in the configuration", None)
                .expecting("server { listen PORT; location / { proxy_pass http://UPSTREAM; } }"));
        }
        let listeners = listeners(&servers, &mut reader)?;
        note_keepalive(&listeners, &servers, &mut reader);
        let servers = servers.into_iter().map(|(server, _)| server).collect();
        let Collected { harmless, notes, upstreams } = reader.collected;
        Ok(Config { upstreams, servers, listeners, harmless, notes })
    }
}

fn read_http(block: &[Directive], reader: &mut Reader<'_>) -> Result<Vec<(Server, Span)>, Fault> {
    let mut level = Level::default();
    // Any value may hold the variable of a map, wherever that stands.
    for directive in block.iter().filter(|directive| directive.is("map")) {
        directives::judge(directive, Block::Http)?;
    }
    reader.define(Maps::read(block.iter().filter(|directive| directive.is("map")))?);
    // Servers inherit what stands behind them, and pass to groups that stand behind them.
    for directive in block {
        if directives::judge(directive, Block::Http)? == Verdict::Harmless {
            reader.harmless(directive);
            continue;
        }
        match directive.name.text.as_str() {
            "server" | "map" => {}
            "upstream" => {
                let upstream = Upstream::read(directive, reader)?;
                if reader.upstream(&upstream.name).is_some() {
                    let message = format!("duplicate upstream \"{}\"", upstream.name);
                    return Err(Fault::new(ErrorKind::Duplicate, directive.span(), message).expecting("another name"));
                }
                reader.add_upstream(upstream);
            }
            _ => level.read(directive, reader)?,
        }
    }
    let blocks = block.iter().filter(|directive| directive.is("server"));
    let servers = blocks.map(|directive| Ok((Server::read(directive, &level.settings, reader)?, directive.span())));
    servers.collect()
}

fn listeners(servers: &[(Server, Span)], reader: &mut Reader<'_>) -> Result<Vec<Listener>, Fault> {
    let mut listeners: Vec<Listener> = Vec::new();
    let mut index = HashMap::new();
    let mut explicit = HashSet::new();
    for (number, (server, span)) in servers.iter().enumerate() {
        for listen in &server.listens {
            let at = *index.entry(listen.address.clone()).or_insert_with(|| {
                listeners.push(Listener {
                    address: listen.address.clone(),
                    servers: Vec::new(),
                    default: number,
                    backlog: None,
                    ipv6_only: true,
                    names: Names::default(),
                });
                listeners.len() - 1
            });
            let listener = &mut listeners[at];
            listener.servers.push(number);
            listener.backlog = listener.backlog.max(listen.backlog);
            listener.ipv6_only &= listen.ipv6_only;
            if listen.default_server {
                if !explicit.insert(at) {
                    let message = format!("a duplicate default server for {}", listen.address);
                    return Err(Fault::new(ErrorKind::Duplicate, *span, message)
                        .expecting("default_server once for an address"));
                }
                listener.default = number;
            }
            for name in &server.names {
                if !listener.names.add(name, number) {
                    let text = format!(
                        "conflicting server name \"{}\" on {}: the first server keeps it",
                        name.text(),
                        listen.address
                    );
                    reader.note(*span, text);
                }
            }
        }
    }
    Ok(listeners)
}

/// Whether client connections are kept is decided once for all of them: refused only where every address refuses it.
fn note_keepalive(listeners: &[Listener], servers: &[(Server, Span)], reader: &mut Reader<'_>) {
    let kept = |settings: &Settings| settings.keepalive_timeout != Some(Duration::ZERO);
    if listeners.iter().any(|listener| kept(&servers[listener.default].0.settings)) {
        for (_, span) in servers.iter().filter(|(server, _)| !kept(&server.settings)) {
            reader.note(*span, "keepalive_timeout 0: clients' connections are kept, as other servers want them kept");
        }
    }
}

impl Listener {
    /// The server for a request: its position in [`Config::servers`], and what a regular expression found in the host.
    /// `host` is the host of the request target or the `Host` field, lower-case; with or without a port.
    pub(super) fn server_for<'h>(&self, host: Option<&'h str>) -> (usize, Captures<'h>) {
        let bare = host_without_port(host.unwrap_or_default().as_bytes());
        let bare = std::str::from_utf8(bare).unwrap_or_default();
        self.names.find(bare).unwrap_or((self.default, Captures::default()))
    }
}
