//! A whole configuration: its groups, its servers, and the server that a request belongs to.

mod listeners;
mod reach;

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::num::NonZeroU64;
use std::path::Path;
use std::sync::Arc;

pub(super) use self::listeners::{Listener, ServerAddrUse};
use self::listeners::{listeners, note_keepalive};
use super::directives::access_log::{AccessLog, LogFormats};
use super::directives::catalogue::{self, Block};
use super::directives::comments::{self, CommentOptions};
use super::directives::context::ReadContext;
use super::directives::location::{Action, Locations};
use super::directives::remarks::{Notice, Remarks};
use super::directives::server::Server;
use super::directives::settings::{LimitZones, SettingsReader};
use super::directives::upstream::{Resolvers, Upstream};
use super::syntax::values;
use super::syntax::{ConfigError, Directive, ErrorKind, Fault, Parser, Span, explain};
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
    pub(super) server_addr: ServerAddrUse,
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
    unservable: Option<Arc<ConfigError>>,
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

    /// Returns why no request reaches a node, if all servers of all upstreams that locations pass requests to are `down`, or addresses of
    /// this configuration itself. It can be served all the same, for example until an operator enables a server.
    pub fn unservable(&self) -> Option<&ConfigError> {
        self.unservable.as_deref()
    }

    /// Returns the paths of the access logs, each once. [`SiteBuilder::access_log`](super::SiteBuilder::access_log) takes the
    /// functions that write them.
    pub fn access_logs(&self) -> impl Iterator<Item = &Path> {
        self.places_of_logs().into_keys()
    }

    /// Returns the file and the line, as `FILE:LINE`, of the first `access_log` directive with this path.
    pub fn access_log_place(&self, path: &Path) -> Option<&str> {
        self.places_of_logs().get(path).copied()
    }

    fn places_of_logs(&self) -> BTreeMap<&Path, &str> {
        let mut places = BTreeMap::new();
        for server in &self.servers {
            collect_logs(server.settings.access_logs.active(), &mut places);
            collect_logs_of(&server.locations, &mut places);
        }
        places
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
    let unservable = reach::check(&context.upstreams.all, &servers, &listeners, &mut context.remarks);
    let unservable = unservable.map(|fault| Arc::new(fault.locate("", &parser.sources)));
    let server_comments = server_comments(http, &servers, &context.upstreams.all)?;
    let servers = servers.into_iter().map(|(server, _)| server).collect();
    let (set_slots, map_slots) = (context.maps.set_slots(), context.maps.kept_values());
    let Remarks { ignored, notes, .. } = context.remarks;
    Ok(Config {
        text: text.finish(),
        server_addr: ServerAddrUse::of(http),
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
        unservable,
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

/// Returns for each group the comments of the servers whose locations pass requests to it. A comment
/// that applies to no group is an error.
fn server_comments(
    http: &[Directive],
    servers: &[(Server, Span)],
    upstreams: &[Upstream],
) -> Result<Vec<CommentOptions>, Fault> {
    let mut merged = vec![CommentOptions::default(); upstreams.len()];
    let targets = |server: &Server| {
        let mut targets = Vec::new();
        collect_targets(&server.locations, &mut targets);
        targets
    };
    for directive in http.iter().filter(|directive| directive.is("server")) {
        let read = servers.iter().find(|(_, span)| *span == directive.span());
        let targets = read.map(|(server, _)| targets(server)).unwrap_or_default();
        comments::check_server(directive, targets.iter().map(|target| &upstreams[*target]))?;
    }
    for (server, span) in servers {
        for upstream in targets(server) {
            merged[upstream].merge(&server.comments).map_err(|name| {
                let message = format!("two servers set \"{name}\" of kylin_lb for one upstream, to different values");
                span.duplicate(message, format!("# kylin_lb: {name} ...; in the upstream"))
            })?;
        }
    }
    Ok(merged)
}

fn collect_logs_of<'c>(locations: &'c Locations, places: &mut BTreeMap<&'c Path, &'c str>) {
    for location in locations.iter() {
        for form in location.forms() {
            collect_logs(form.settings.access_logs.active(), places);
        }
        collect_logs_of(&location.nested, places);
    }
}

fn collect_logs<'c>(logs: &'c [AccessLog], places: &mut BTreeMap<&'c Path, &'c str>) {
    for log in logs {
        places.entry(&log.path).or_insert(&log.place);
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
