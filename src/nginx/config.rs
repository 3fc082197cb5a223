//! A whole configuration: its groups, its servers, and the server that a request belongs to.

mod comments;
mod listeners;
mod reach;

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::num::NonZeroU64;
use std::path::Path;
use std::sync::Arc;

use self::comments::{server_comments, targets};
pub(super) use self::listeners::{Listener, ServerAddrUse};
use self::listeners::{listeners, note_keepalive};
use super::directives::access_log::{AccessLog, LogFormats};
use super::directives::catalogue::{self, Block};
use super::directives::comments::CommentOptions;
use super::directives::context::ReadContext;
use super::directives::location::Locations;
use super::directives::remarks::{Notice, Remarks};
use super::directives::server::Server;
use super::directives::settings::{LimitZones, SettingsReader};
use super::directives::upstream::{Resolvers, Upstream};
use super::syntax::values;
use super::syntax::{ConfigError, Directive, ErrorKind, Fault, Parser, Span, explain};
use super::variables::{Maps, ValueSources};

/// An nginx configuration, parsed and checked.
///
/// The text is a whole `nginx.conf`, or the content of its `http` block, like the files in
/// `conf.d`.
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
    /// The value of `worker_rlimit_nofile`.
    open_files: Option<NonZeroU64>,
    pub(super) resolvers: Resolvers,
    /// The groups: first the declared ones in the order of the file, then those made for a
    /// `proxy_pass` to a host.
    pub(super) upstreams: Vec<Upstream>,
    /// For each group the comments of the servers that pass requests to it.
    pub(super) server_comments: Vec<CommentOptions>,
    /// A hash of all directives except the upstreams. Within a process, identical directives have
    /// the same hash.
    pub(super) text: u64,
    pub(super) server_addr: ServerAddrUse,
    /// The number of variables that `set` gives a value.
    pub(super) set_slots: usize,
    /// The number of maps whose value a request keeps.
    pub(super) map_slots: usize,
    pub(super) zones: Arc<LimitZones>,
    /// The servers in the order of the file.
    pub(super) servers: Vec<Server>,
    /// The addresses at which connections are accepted, each once.
    pub(super) listeners: Vec<Listener>,
    /// The directives that are accepted without effect.
    pub(super) ignored: Vec<Notice>,
    /// The places where this crate behaves differently from nginx.
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

    /// Reads a file as [`read`](Self::read) does, with `prefix` as the folder of relative file
    /// names, as `nginx -p`.
    ///
    /// Examples are the names in `include`, `ssl_certificate` and `auth_basic_user_file`.
    /// [`read`](Self::read) resolves them in the folder of the file. A relative `root` is below
    /// `prefix`, and has no meaning without a prefix.
    ///
    /// # Errors
    /// Those of [`read`](Self::read).
    pub fn read_with_prefix(path: impl AsRef<Path>, prefix: impl AsRef<Path>) -> Result<Config, ConfigError> {
        let path = path.as_ref();
        Config::build(&path.to_string_lossy(), |parser| parser.file(path, Some(prefix.as_ref())))
    }

    /// Parses a text, which errors call `name`. The text must not contain `include`, except that of
    /// `mime.types`.
    ///
    /// # Errors
    /// [`ConfigError`] for the first mistake that is found.
    pub fn parse(name: &str, text: &str) -> Result<Config, ConfigError> {
        Config::build(name, |parser| parser.text(name, text))
    }

    /// Returns the limit of open files that `worker_rlimit_nofile` sets, for
    /// `server::raise_open_files_limit`.
    pub fn open_files(&self) -> Option<NonZeroU64> {
        self.open_files
    }

    /// Returns the reason if no request can reach a node.
    ///
    /// That is so if each server of each upstream in use is `down`, or is an address of this
    /// configuration itself. The configuration can be served nevertheless, for example until an
    /// operator enables a server.
    pub fn unservable(&self) -> Option<&ConfigError> {
        self.unservable.as_deref()
    }

    /// Returns the paths of the access logs, each once.
    /// [`SiteBuilder::access_log`](super::SiteBuilder::access_log) takes the functions that write
    /// them.
    pub fn access_logs(&self) -> impl Iterator<Item = &Path> {
        self.places_of_logs().into_keys()
    }

    /// Returns the file and the line, as `FILE:LINE`, of the first `access_log` directive with this
    /// path.
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
    let targets: Vec<_> = servers.iter().map(|(server, _)| targets(server)).collect();
    let unservable = reach::check(&context.upstreams.all, &targets, &listeners, &mut context.remarks);
    let unservable = unservable.map(|fault| Arc::new(fault.locate("", &parser.sources)));
    let server_comments = server_comments(http, &servers, &targets, &context.upstreams.all)?;
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
    // A value may use the variable of a map that is defined further down.
    let headers = named("add_header").chain(named("more_set_headers"));
    let mut values = headers.map(|directive| (directive, directive)).collect();
    for server in named("server") {
        ValueSources::collect(server, &mut values);
    }
    context.maps = Maps::read(block.iter().copied().filter(|directive| Maps::is(directive)), &values)?;
    let sources = ValueSources::read(&values, &context.maps);
    context.zones = LimitZones::read(named("limit_req_zone").chain(named("limit_conn_zone")), &context.maps)?;
    context.formats = LogFormats::read(named("log_format"), &context.maps, &sources, &mut context.remarks)?;
    // Servers inherit directives that follow them in the file, and may use groups that follow them.
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
