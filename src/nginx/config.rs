//! A whole configuration: its groups, its servers, and the server that a request belongs to.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::num::NonZeroU64;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::directives::access_log::LogFormats;
use super::directives::catalogue::{self, Block};
use super::directives::comments::CommentOptions;
use super::directives::context::ReadContext;
use super::directives::location::{Action, Locations};
use super::directives::remarks::{Notice, Remarks};
use super::directives::server::{ListenAddress, Server, ServerName, ServerNames};
use super::directives::settings::{BlockSettings, LimitZones, SettingsReader, VerifyClient};
use super::directives::upstream::{Resolvers, Upstream};
use super::syntax::values;
use super::syntax::{Captures, ConfigError, Directive, ErrorKind, Fault, NamedGroup, Parser, Span, explain};
use super::uri::host_without_port;
use super::variables::{Maps, ValueSources};

/// An nginx configuration, parsed and checked.
///
/// It is a whole `nginx.conf`, or the content of its `http` block, like the files in `conf.d`.
///
/// ```
/// use kylin_lb::nginx::Config;
///
/// let config = Config::parse(
///     "kylin.conf",
///     "upstream kylin { server 1.1.1.1:7070; server 1.1.1.2:7070; }
///      server { listen 8080; location / { proxy_pass http://kylin; } }",
/// )?;
/// let report = config.report().to_string();
/// assert!(report.contains("1.1.1.2:7070"));
/// assert!(report.contains("server 0.0.0.0:8080"));
/// # Ok::<(), kylin_lb::nginx::ConfigError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Config {
    /// `worker_rlimit_nofile`.
    open_files: Option<NonZeroU64>,
    pub(super) resolvers: Resolvers,
    /// The groups: declared ones in the order of the file, then those made for a `proxy_pass` to a host.
    pub(super) upstreams: Vec<Upstream>,
    /// For each group the comments of the servers that pass requests to it.
    pub(super) server_comments: Vec<CommentOptions>,
    /// A hash of all directives but the upstreams, the same in this process for the same directives.
    pub(super) text: u64,
    /// The number of variables that `set` gives a value.
    pub(super) set_slots: usize,
    /// The number of maps whose value a request keeps.
    pub(super) map_slots: usize,
    pub(super) zones: Arc<LimitZones>,
    /// The servers in the order of the file.
    pub(super) servers: Vec<Server>,
    /// The addresses to accept connections at, each once.
    pub(super) listeners: Vec<Listener>,
    /// Directives that were accepted and have no effect here.
    pub(super) ignored: Vec<Notice>,
    /// The places where this crate does something else than nginx would.
    pub(super) notes: Vec<Notice>,
}

/// An address and the servers behind it.
#[derive(Debug, Clone)]
pub(super) struct Listener {
    pub(super) address: ListenAddress,
    /// The position of the server for hosts that no server names.
    pub(super) default: usize,
    /// The largest `backlog=` of the address.
    pub(super) backlog: Option<u32>,
    pub(super) ipv6_only: bool,
    pub(super) ssl: bool,
    pub(super) proxy_protocol: bool,
    /// The servers at the address, in the order of the file.
    pub(super) servers: Vec<usize>,
    names: ServerNames,
}

impl Config {
    /// Reads a file and the files that it includes.
    ///
    /// # Errors
    /// [`ConfigError`] for the first mistake that is found.
    pub fn read(path: impl AsRef<Path>) -> Result<Config, ConfigError> {
        let path = path.as_ref();
        Config::build(&path.to_string_lossy(), |parser| parser.file(path, None))
    }

    /// Reads a file as [`read`](Self::read) does, and takes relative names of files in it (`include`, `ssl_certificate`,
    /// `auth_basic_user_file`) for names in the folder `prefix`, as nginx does with `-p`. By default they are names in the folder of the
    /// file. A relative `root` is one below `prefix`, and has no meaning without it.
    ///
    /// # Errors
    /// As of [`read`](Self::read).
    pub fn read_with_prefix(path: impl AsRef<Path>, prefix: impl AsRef<Path>) -> Result<Config, ConfigError> {
        let path = path.as_ref();
        Config::build(&path.to_string_lossy(), |parser| parser.file(path, Some(prefix.as_ref())))
    }

    /// Parses a text, which errors call `name`. It must not contain `include`, except of `mime.types`.
    ///
    /// # Errors
    /// [`ConfigError`] for the first mistake that is found.
    pub fn parse(name: &str, text: &str) -> Result<Config, ConfigError> {
        Config::build(name, |parser| parser.text(name, text))
    }

    /// Returns the limit of open files that the configuration sets (`worker_rlimit_nofile`), for
    /// `server::raise_open_files_limit`.
    pub fn open_files(&self) -> Option<NonZeroU64> {
        self.open_files
    }

    /// Returns the paths of the access logs, each once. [`SiteBuilder::access_log`](super::SiteBuilder::access_log) takes the
    /// functions that write them.
    pub fn access_logs(&self) -> impl Iterator<Item = &Path> {
        let mut paths = BTreeSet::new();
        for server in &self.servers {
            paths.extend(server.settings.access_logs.active().iter().map(|log| &*log.path));
            collect_logs(&server.locations, &mut paths);
        }
        paths.into_iter()
    }

    fn build(
        name: &str,
        parse: impl FnOnce(&mut Parser) -> Result<Vec<Directive>, Fault>,
    ) -> Result<Config, ConfigError> {
        let mut parser = Parser::default();
        let tree = parse(&mut parser);
        tree.and_then(|tree| read_tree(&tree, &parser))
            .map_err(|fault| explain(fault, &parser.sources).locate(name, &parser.sources))
    }
}

fn read_tree(tree: &[Directive], parser: &Parser) -> Result<Config, Fault> {
    let mut context = ReadContext::new(&parser.sources, parser.folder.clone(), parser.prefix.clone());
    for (include, file) in &parser.skipped_includes {
        context.remarks.ignored(*include, format!("include {file}"));
    }
    let mut open_files = None;
    let mut http = tree;
    if tree.iter().any(|directive| directive.is("http")) {
        let blocks = catalogue::modelled(tree, Block::Main, &mut context.remarks)?;
        for directive in blocks.iter().filter(|directive| directive.is("worker_rlimit_nofile")) {
            open_files = NonZeroU64::new(values::number(catalogue::arg(directive)?, 1..=u32::MAX)?.into());
        }
        for (index, directive) in blocks.iter().filter(|directive| directive.is("http")).enumerate() {
            if index > 0 || !directive.args.is_empty() {
                let message = "http stands once and takes no arguments";
                return Err(directive.span().duplicate(message, "http { ... }"));
            }
            http = directive.block.as_deref().unwrap_or_default();
        }
    }
    let servers = read_http(http, &mut context)?;
    let mut text = DefaultHasher::new();
    http.iter().filter(|directive| !directive.is("upstream")).for_each(|directive| directive.hash(&mut text));
    let mut resolvers = Resolvers::default();
    resolvers.read(http)?;
    if servers.is_empty() {
        let expected = "server { listen PORT; location / { proxy_pass http://UPSTREAM; } }";
        return Err(Fault::new(ErrorKind::Missing, None, "no server { ... } in the configuration", expected));
    }
    let listeners = listeners(&servers, &mut context.remarks)?;
    note_keepalive(&listeners, &servers, &mut context.remarks);
    let server_comments = server_comments(&servers, context.upstreams.all.len())?;
    let servers = servers.into_iter().map(|(server, _)| server).collect();
    let (set_slots, map_slots) = (context.maps.set_slots(), context.maps.kept_values());
    let Remarks { ignored, notes, .. } = context.remarks;
    Ok(Config {
        text: text.finish(),
        set_slots,
        map_slots,
        zones: Arc::new(context.zones),
        open_files,
        resolvers,
        upstreams: context.upstreams.all,
        server_comments,
        servers,
        listeners,
        ignored,
        notes,
    })
}

fn read_http(block: &[Directive], context: &mut ReadContext<'_>) -> Result<Vec<(Server, Span)>, Fault> {
    let block = catalogue::modelled(block, Block::Http, &mut context.remarks)?;
    let named = |name: &'static str| block.iter().copied().filter(move |directive| directive.is(name));
    // A value may use the variable of a map before the map is defined.
    let headers = named("add_header").chain(named("more_set_headers"));
    let mut values = headers.map(|directive| (directive, directive)).collect();
    for server in named("server") {
        ValueSources::collect(server, &mut values);
    }
    context.maps = Maps::read(block.iter().copied().filter(|directive| Maps::is(directive)), &values)?;
    let sources = ValueSources::read(&values, &context.maps);
    context.zones = LimitZones::read(named("limit_req_zone").chain(named("limit_conn_zone")), &context.maps)?;
    context.formats = LogFormats::read(named("log_format"), &context.maps, &sources, &mut context.remarks)?;
    // Servers inherit directives that follow them, and pass requests to groups that follow them.
    let mut level = SettingsReader::default();
    for directive in block.iter().filter(|directive| !Maps::is(directive)) {
        match directive.name.text.as_str() {
            "limit_req_zone" | "limit_conn_zone" | "server" | "log_format" => {}
            "upstream" => {
                let upstream = Upstream::read(directive, &context.maps, &mut context.remarks)?;
                if context.upstreams.find(&upstream.name).is_some() {
                    let message = format!("duplicate upstream \"{}\"", upstream.name);
                    return Err(directive.span().duplicate(message, "another name"));
                }
                context.upstreams.add(upstream);
            }
            _ => level.read(directive, context)?,
        }
    }
    Server::read_all(named("server"), named("upstream"), &level.settings, context)
}

/// Returns for each group the comments of the servers whose locations pass requests to it.
fn server_comments(servers: &[(Server, Span)], upstreams: usize) -> Result<Vec<CommentOptions>, Fault> {
    let mut merged = vec![CommentOptions::default(); upstreams];
    for (server, span) in servers {
        let mut targets = Vec::new();
        collect_targets(&server.locations, &mut targets);
        for upstream in targets {
            merged[upstream].merge(&server.comments).map_err(|name| {
                let message = format!("two servers set \"{name}\" of kylin_lb for one upstream, to different values");
                span.duplicate(message, format!("# kylin_lb: {name} ...; in the upstream"))
            })?;
        }
    }
    Ok(merged)
}

fn collect_logs<'c>(locations: &'c Locations, paths: &mut BTreeSet<&'c Path>) {
    for location in locations.iter() {
        let logs = location.forms().into_iter().flat_map(|form| form.settings.access_logs.active());
        paths.extend(logs.map(|log| &*log.path));
        collect_logs(&location.nested, paths);
    }
}

fn collect_targets(locations: &Locations, targets: &mut Vec<usize>) {
    for location in locations.iter() {
        targets.extend(location.forms().iter().filter_map(|form| match &form.action {
            Action::Proxy(pass) => Some(pass.upstream),
            Action::Return(_) | Action::Named(_) | Action::LeftOut(_) => None,
        }));
        collect_targets(&location.nested, targets);
    }
}

fn listeners(servers: &[(Server, Span)], remarks: &mut Remarks<'_>) -> Result<Vec<Listener>, Fault> {
    let mut listeners: Vec<Listener> = Vec::new();
    let mut by_address = HashMap::new();
    let mut with_default = HashSet::new();
    for (number, (server, span)) in servers.iter().enumerate() {
        for listen in &server.listens {
            let position = *by_address.entry(&listen.address).or_insert_with(|| {
                listeners.push(Listener {
                    address: listen.address.clone(),
                    default: number,
                    backlog: None,
                    ipv6_only: true,
                    ssl: false,
                    proxy_protocol: false,
                    servers: Vec::new(),
                    names: ServerNames::default(),
                });
                listeners.len() - 1
            });
            let listener = &mut listeners[position];
            listener.backlog = listener.backlog.max(listen.backlog);
            listener.ipv6_only &= listen.ipv6_only;
            listener.ssl |= listen.ssl;
            listener.proxy_protocol |= listen.proxy_protocol;
            listener.servers.push(number);
            if listen.default_server {
                if !with_default.insert(position) {
                    let message = format!("a duplicate default server for {}", listen.address);
                    return Err(span.duplicate(message, "default_server once for an address"));
                }
                listener.default = number;
            }
            for name in &server.names {
                if !listener.names.add(name, number) {
                    let (name, address) = (name.text(), &listen.address);
                    remarks.note(
                        *span,
                        format!("conflicting server name \"{name}\" on {address}: the first server keeps it"),
                    );
                }
            }
        }
    }
    // nginx may serve another site there.
    let (mut listeners, closed): (Vec<_>, Vec<_>) = listeners
        .into_iter()
        .partition(|listener| listener.servers.iter().any(|server| !servers[*server].0.is_left_out));
    for listener in closed {
        let text = format!("listen {}: not opened, its servers are left out", listener.address);
        remarks.note(servers[listener.default].1, text);
        // Its connections reach the address that is open for all.
        for open in listeners.iter_mut().filter(|open| open.address.includes(&listener.address)) {
            add_left_out(&listener.servers, servers, open);
        }
    }
    let everywhere: Vec<_> = (0..servers.len()).filter(|number| servers[*number].0.is_everywhere).collect();
    listeners.iter_mut().for_each(|listener| add_left_out(&everywhere, servers, listener));
    if let (true, Some((_, span))) = (listeners.is_empty(), servers.first()) {
        let message = "no server passes requests to an upstream, or returns a response";
        return Err(span.missing(message, "location / { proxy_pass http://UPSTREAM; }"));
    }
    for listener in &listeners {
        check_entry(listener, servers)?;
    }
    Ok(listeners)
}

/// Keeps the hosts of servers that are left out from the other servers at an address, unless one of them has the name too.
fn add_left_out(left_out: &[usize], servers: &[(Server, Span)], listener: &mut Listener) {
    for number in left_out {
        let names = servers[*number].0.names.iter();
        for name in names.filter(|name| !matches!(name, ServerName::Exact(name) if name.is_empty())) {
            listener.names.add(name, *number);
        }
    }
}

/// Checks what an address needs before the first request: certificates, and trust in peers that name clients.
fn check_entry(listener: &Listener, servers: &[(Server, Span)]) -> Result<(), Fault> {
    let address = &listener.address;
    let (default, span) = &servers[listener.default];
    let real_ip = &default.settings.real_ip;
    if listener.proxy_protocol && !(real_ip.by_proxy_protocol && (real_ip.unix || !real_ip.networks.is_empty())) {
        let message = format!("listen {address} proxy_protocol, without the peers that may name clients");
        return Err(span.missing(message, "set_real_ip_from ADDRESS|CIDR; real_ip_header proxy_protocol;"));
    }
    if !listener.ssl {
        return Ok(());
    }
    let clients = |server: &Server| (server.settings.client_tls.verify, server.settings.client_tls.authorities.clone());
    for (server, span) in listener.servers.iter().map(|number| &servers[*number]) {
        let tls = &server.settings.client_tls;
        if tls.files.certificate.is_none() || tls.files.key.is_none() {
            let message = format!("no certificate for listen {address} ssl");
            return Err(span.missing(message, "ssl_certificate FILE; ssl_certificate_key FILE;"));
        }
        if tls.verify != VerifyClient::Off && tls.authorities.is_none() {
            return Err(span.missing("ssl_verify_client without authorities", "ssl_client_certificate FILE;"));
        }
        if tls.verify != VerifyClient::Off && tls.trusted.is_some() {
            let message = "ssl_trusted_certificate beside ssl_verify_client is not supported";
            return Err(span.unsupported(message, "one file of all authorities in ssl_client_certificate"));
        }
        // One handshake serves all names of an address, and a client may name one server there and another in Host.
        if clients(server) != clients(default) {
            let message = format!("servers at {address} verify clients differently");
            return Err(
                span.unsupported(message, "the same ssl_verify_client and ssl_client_certificate, or another address")
            );
        }
    }
    Ok(())
}

/// Notes `keepalive_timeout 0` where another address keeps connections: one setting serves all
/// addresses.
fn note_keepalive(listeners: &[Listener], servers: &[(Server, Span)], remarks: &mut Remarks<'_>) {
    let keeps = |settings: &BlockSettings| settings.keepalive_timeout != Some(Duration::ZERO);
    if listeners.iter().any(|listener| keeps(&servers[listener.default].0.settings)) {
        for (_, span) in servers.iter().filter(|(server, _)| !keeps(&server.settings)) {
            remarks.note(*span, "keepalive_timeout 0: client connections are kept, because another server keeps them");
        }
    }
}

impl Listener {
    /// Returns the position of the server for a request, and the groups of the regular expression that matched the host.
    ///
    /// `host` is in lower case, with or without a port.
    pub(super) fn server_for<'h>(&self, host: Option<&'h str>) -> (usize, Captures<'h>, &[NamedGroup]) {
        let host = host_without_port(host.unwrap_or_default().as_bytes());
        let host = std::str::from_utf8(host).unwrap_or_default();
        self.names.find(host).unwrap_or((self.default, Captures::default(), &[]))
    }
}
