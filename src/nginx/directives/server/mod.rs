//! `server`: names and addresses, and the directives for their requests.

mod listen;
mod server_name;

use std::collections::HashSet;

pub(crate) use listen::{Listen, ListenAddress};
pub(crate) use server_name::{ServerName, ServerNames};

use super::catalogue::{self, Block, wrong_number};
use super::comments::CommentOptions;
use super::context::ReadContext;
use super::left_out;
use super::location::{self, Action, Location, LocationMatch, Locations};
use super::reply::Reply;
use super::rewrite::{Step, note_files};
use super::settings::{BlockSettings, PageTarget, SettingsReader};
use crate::kylin::NormalizedPath;
use crate::nginx::syntax::{Directive, ErrorKind, Fault, Span, Word};

/// A `server` block.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    pub(crate) listens: Vec<Listen>,
    /// Whether an address of a left out server cannot be read. The names of the server then count
    /// at every address.
    pub(crate) is_everywhere: bool,
    pub(crate) names: Vec<ServerName>,
    /// The `$server_name`: the first name as written, or an empty string.
    pub(crate) name: String,
    /// The settings outside of locations.
    pub(crate) settings: BlockSettings,
    /// The steps that run before the location is searched.
    pub(crate) script: Vec<Step>,
    /// Whether the server or a location in it has a script.
    pub(crate) is_scripted: bool,
    /// The response to every request: a `return` outside of locations, before any other step.
    pub(crate) reply: Option<Reply>,
    pub(crate) locations: Locations,
    /// The paths of error pages whose location is served.
    pages: HashSet<String>,
    /// The `# kylin_lb:` comments, which set options for the upstreams of the locations.
    pub(crate) comments: CommentOptions,
    /// Whether the server is left out: it does not lead to nodes, so the response is 404.
    pub(crate) is_left_out: bool,
}

impl Server {
    /// Finds the location for a path. Without a location the response is 404.
    pub(crate) fn locate<'r>(&self, path: &'r NormalizedPath<'_>) -> Option<LocationMatch<'_, 'r>> {
        self.locate_decoded(path.as_str().as_bytes())
    }

    /// Finds the location for a decoded path.
    pub(crate) fn locate_decoded<'r>(&self, path: &'r [u8]) -> Option<LocationMatch<'_, 'r>> {
        self.locations.find(path)
    }

    /// Reads the servers of a configuration with these upstreams.
    pub(crate) fn read_all<'d>(
        servers: impl Iterator<Item = &'d Directive>,
        upstreams: impl Iterator<Item = &'d Directive>,
        http: &BlockSettings,
        context: &mut ReadContext<'_>,
    ) -> Result<Vec<(Server, Span)>, Fault> {
        let of_kylin = left_out::kylin_upstreams(upstreams);
        let servers: Vec<_> = servers.map(|server| (server, left_out::says_kylin(server, &of_kylin))).collect();
        let is_elsewhere = servers.iter().any(|(_, says_kylin)| *says_kylin);
        let read = |(directive, says_kylin): (&Directive, bool)| {
            Ok((Server::read(directive, http, is_elsewhere && !says_kylin, context)?, directive.span()))
        };
        servers.into_iter().map(read).collect()
    }

    /// Reads a block. `may_be_left_out` says that it belongs to another site, although it passes
    /// requests on. A mistake in it then does not prevent Kylin from being served.
    fn read(
        directive: &Directive,
        http: &BlockSettings,
        may_be_left_out: bool,
        context: &mut ReadContext<'_>,
    ) -> Result<Server, Fault> {
        if let Some(word) = directive.args.first() {
            let expected = "server { ... } here, or the line inside upstream NAME { ... }";
            return Err(word.span.misplaced("server with an address outside an upstream", expected));
        }
        let block = directive.block.as_deref().unwrap_or_default();
        let passes_on = !left_out::is_other_site(block);
        if passes_on && !(may_be_left_out && left_out::mentions(block, "proxy_pass")) {
            return Server::read_block(directive, block, http, context);
        }
        let mark = context.mark();
        let server = Server::read_block(directive, block, http, context).or_else(|fault| {
            // A server that passes requests on is left out only if nginx itself would accept it.
            if fault.is_misspelt()
                || (passes_on && !matches!(fault.kind(), ErrorKind::Unsupported | ErrorKind::Unknown))
            {
                return Err(fault);
            }
            context.back_to(mark);
            context.remarks.note(directive.span(), format!("server of another site: {}", fault.message()));
            Server::read_names(block, http, context)
        })?;
        if server.is_left_out {
            let text = "server of another site is left out: the response for its names is 404";
            context.remarks.note(directive.span(), text);
        }
        Ok(server)
    }

    /// Reads only the addresses and names of a server of another site, so that no other server
    /// serves its hosts.
    fn read_names(block: &[Directive], http: &BlockSettings, context: &mut ReadContext<'_>) -> Result<Server, Fault> {
        let mark = context.mark();
        let (mut listens, mut is_everywhere) = (Vec::new(), false);
        for inner in block.iter().filter(|inner| inner.is("listen")) {
            match Listen::read_left_out(inner, &mut context.remarks) {
                Ok(listen) if listen.quic => {}
                Ok(listen) => listens.push(listen),
                // A default server must have a known address, because it gets the hosts that no
                // server names.
                Err(fault) if inner.args.iter().any(|word| word.text.starts_with("default")) => return Err(fault),
                Err(_) => is_everywhere = true,
            }
        }
        context.back_to(mark);
        if !block.iter().any(|inner| inner.is("listen")) {
            listens.push(Listen::standard());
        }
        let is_kept = |inner: &&Directive| inner.is("server_name") || inner.name.text.starts_with("ssl_");
        let kept = block.iter().filter(is_kept).collect();
        let server = Server::read_directives(listens, kept, http, context)?;
        Ok(Server { is_left_out: true, is_everywhere, ..server })
    }

    /// Returns the paths of error pages for which a location is served.
    ///
    /// # Errors
    /// A page names a location that the server does not have.
    fn check_pages(&self, context: &mut ReadContext<'_>) -> Result<HashSet<String>, Fault> {
        let mut settings = vec![&self.settings];
        collect_settings(&self.locations, &mut settings);
        let mut served = HashSet::new();
        for page in settings.iter().flat_map(|settings| settings.error_pages.iter()) {
            let not_served = match &page.target {
                PageTarget::Named(name) if !self.locations.has_named(name) => {
                    let message = format!("error_page to {name}, which is no location of the server");
                    let expected =
                        "location @NAME { return CODE TEXT; } or location @NAME { proxy_pass http://UPSTREAM; }";
                    return Err(page.span.unsupported(message, expected));
                }
                PageTarget::Named(name) => self.locations.named(name).is_none().then_some(name),
                PageTarget::Path { path, .. } => {
                    let is_served = self.responds_to(path);
                    if is_served {
                        served.insert(path.clone());
                    }
                    (!is_served).then_some(path)
                }
                PageTarget::Computed(value) => {
                    let is_left_out = |location: &&Location| !location.responds();
                    let is_everywhere = self.responds_to("/") && !self.locations.deep().iter().any(is_left_out);
                    if !is_everywhere {
                        let text = format!(
                            "error_page {value}: where no location serves the page, errors of the front end keep their form, that of Kylin"
                        );
                        context.remarks.note_once(page.span, text);
                    }
                    None
                }
                PageTarget::Redirect(_) | PageTarget::Never => None,
            };
            if let Some(page_text) = not_served {
                let text = format!("error_page {page_text}: errors of the front end keep their form, that of Kylin");
                context.remarks.note_once(page.span, text);
            }
        }
        Ok(served)
    }

    /// Returns whether the location for a path responds itself or passes requests on.
    pub(crate) fn responds_to(&self, path: &str) -> bool {
        let Ok(path) = NormalizedPath::parse(path) else { return false };
        match self.locate(&path) {
            Some(LocationMatch::Location { location, .. }) => location.responds(),
            Some(LocationMatch::Redirect(_)) => true,
            None => false,
        }
    }

    /// Returns whether an error page with this path leads to a location that is served.
    pub(crate) fn serves_page(&self, path: &str) -> bool {
        self.pages.contains(path)
    }

    fn read_block(
        directive: &Directive,
        block: &[Directive],
        http: &BlockSettings,
        context: &mut ReadContext<'_>,
    ) -> Result<Server, Fault> {
        let comments = CommentOptions::read(block, &context.remarks)?;
        let modelled = catalogue::modelled(block, Block::Server, &mut context.remarks)?;
        let listens = Server::read_listens(directive, &modelled, context)?;
        let mut server = Server::read_directives(listens, modelled, http, context)?;
        server.comments = comments;
        let captures = server.names.iter().any(|name| matches!(name, ServerName::Regex(_)));
        context.has_server_captures = block.iter().any(location::matches_an_expression);
        let rest = location_of_files(block, context);
        server.locations = location::read_all(block.iter().chain(&rest), None, &server.settings, captures, context)?;
        context.has_server_captures = false;
        server.pages = server.check_pages(context)?;
        for location in server.locations.deep() {
            if let Action::Named(name) = &location.action
                && server.locations.named(name).is_none()
            {
                let message = format!(
                    "location {}: try_files to {name}, which is no location of the server, or left out",
                    location.matcher
                );
                return Err(directive.span().unsupported(message, "location @NAME { proxy_pass http://UPSTREAM; }"));
            }
        }
        let has_groups = server.names.iter().any(ServerName::has_groups);
        server.is_scripted = has_groups || !server.script.is_empty() || server.locations.has_scripts();
        if server.reply.is_none() {
            let only_names = |inner: &Directive| matches!(inner.name.text.as_str(), "listen" | "server_name");
            if server.locations.is_empty() && block.iter().all(only_names) {
                let message = "server with neither a location nor return: static files are not served";
                return Err(directive.span().missing(message, "location / { proxy_pass http://UPSTREAM; }"));
            }
            server.is_left_out = server.script.is_empty() && server.locations.all_left_out();
            let always_returns = matches!(server.script.last(), Some(Step::Return(_)));
            if !server.is_left_out
                && !always_returns
                && !server.locations.iter().any(|location| location.matcher.is_catch_all())
            {
                let text = "server without location /: the response is 404 where no location matches";
                context.remarks.note(directive.span(), text);
            }
        }
        Ok(server)
    }

    fn read_listens(
        directive: &Directive,
        block: &[&Directive],
        context: &mut ReadContext<'_>,
    ) -> Result<Vec<Listen>, Fault> {
        let (mut listens, mut addresses, mut quic) = (Vec::new(), HashSet::new(), None);
        for inner in block.iter().filter(|inner| inner.is("listen")) {
            let listen = Listen::read(inner, &mut context.remarks)?;
            if listen.quic {
                let text = "listen ... quic: HTTP/3 is not served, clients use HTTP/2 and HTTP/1.1";
                context.remarks.note(inner.span(), text);
                quic = Some(inner.span());
                continue;
            }
            if !addresses.insert(listen.address.clone()) {
                let message = format!("a duplicate listen {}", listen.address);
                return Err(inner.span().duplicate(message, "another address"));
            }
            listens.push(listen);
        }
        if listens.is_empty() {
            if let Some(span) = quic {
                return Err(span.unsupported("a server for HTTP/3 only", "listen ADDRESS ssl; beside it"));
            }
            context.remarks.note(directive.span(), "server without listen: port 80, as nginx started by root");
            listens.push(Listen::standard());
        }
        Ok(listens)
    }

    /// Reads the directives outside of locations.
    fn read_directives(
        mut listens: Vec<Listen>,
        block: Vec<&Directive>,
        http: &BlockSettings,
        context: &mut ReadContext<'_>,
    ) -> Result<Server, Fault> {
        let mut level = SettingsReader::inside(http);
        let (mut names, mut reply) = (Vec::new(), None);
        let mut script = Vec::new();
        // An `if` tests files below `root`, even if `root` follows it.
        let mut root = SettingsReader::inside(http);
        for inner in block.iter().filter(|inner| inner.is("root")) {
            root.read(inner, context)?;
        }
        let root = root.settings.root;
        level.settings.root = root.clone();
        let root = root.known(context.prefix.as_deref());
        for &inner in &block {
            match inner.name.text.as_str() {
                "location" => {}
                "root" => {}
                "try_files" => level.once(inner)?,
                "listen" => {}
                "server_name" => {
                    if inner.args.is_empty() {
                        return Err(wrong_number(inner));
                    }
                    for word in &inner.args {
                        names.extend(ServerName::read(word, &context.maps)?);
                    }
                }
                "rewrite" | "set" | "break" | "return" | "if" => {
                    if inner.is("if") {
                        note_files(inner, &mut context.remarks);
                        let body = inner.block.as_deref().unwrap_or_default();
                        let body = catalogue::modelled(body, Block::Location, &mut context.remarks)?;
                        if let Some(other) = body.iter().find(|inner| !Step::is(inner)) {
                            let message = format!("\"{}\" is not allowed in an \"if\" of a server", other.name.text);
                            return Err(other.span().misplaced(message, "rewrite, return, set or break"));
                        }
                    }
                    match Step::read(inner, &context.maps, &root, None)? {
                        // No step runs after `return`. An earlier step may end the script before
                        // the `return`.
                        Step::Return(unconditional) if script.is_empty() => _ = reply.get_or_insert(unconditional),
                        step if reply.is_none() => script.push(step),
                        _ => {}
                    }
                }
                _ => level.read(inner, context)?,
            }
        }
        if level.settings.ssl == Some(true) {
            let ssl = block.iter().find(|inner| inner.is("ssl")).map(|inner| inner.span());
            if cfg!(not(feature = "tls")) {
                let expected = "a build with the feature tls, or a TLS terminator in front";
                return Err(Fault::new(ErrorKind::Unsupported, ssl, "\"ssl on\" is not supported", expected));
            }
            listens.iter_mut().for_each(|listen| listen.ssl = true);
        }
        if names.is_empty() {
            names.push(ServerName::Exact(String::new()));
        }
        let name = names[0].text();
        Ok(Server {
            listens,
            is_everywhere: false,
            names,
            name,
            settings: level.settings,
            script,
            is_scripted: false,
            reply,
            locations: Locations::default(),
            pages: HashSet::new(),
            comments: CommentOptions::default(),
            is_left_out: false,
        })
    }
}

/// Returns the location that stands for `try_files FILE... @NAME` of a server. It is for paths
/// without another location.
fn location_of_files(block: &[Directive], context: &mut ReadContext<'_>) -> Option<Directive> {
    let files = block.iter().find(|inner| inner.is("try_files"))?;
    let path = Word { text: "/".to_owned(), span: files.span() };
    let is_catch_all = |inner: &Directive| {
        inner.is("location") && inner.args.last().is_some_and(|last| last.text == "/") && {
            inner.args.len() == 1 || inner.args[0].text == "^~"
        }
    };
    let leads_on = files.args.last().is_some_and(|last| last.text.starts_with('@'));
    if !leads_on || block.iter().any(is_catch_all) {
        context.remarks.ignored(files.span(), "try_files");
        return None;
    }
    let name = |text: &str| Word { text: text.to_owned(), span: files.span() };
    let inner = Directive { name: name("try_files"), args: files.args.clone(), block: None, in_comment: false };
    Some(Directive { name: name("location"), args: vec![path], block: Some(vec![inner]), in_comment: false })
}

fn collect_settings<'l>(locations: &'l Locations, settings: &mut Vec<&'l BlockSettings>) {
    for location in locations.iter() {
        settings.extend(location.forms().iter().map(|form| &form.settings));
        collect_settings(&location.nested, settings);
    }
}
