//! Decides which settings apply to each upstream, and why.
//!
//! The closest source decides. First come directives and comments of the upstream, then comments of
//! a server that passes requests to it, an option of the site, and the default. The defaults of the
//! crate apply to upstreams of Kylin nodes only.

use std::fmt;
use std::time::Duration;

use super::config::Config;
use super::directives::comments::CommentOptions;
use super::directives::left_out::{KYLIN_PORTS, names_kylin};
use super::directives::location::{Action, Location, LocationMatch, Locations, Matcher, PassUri, ProxyPass};
use super::directives::rewrite::{Rewrite, Step, any};
use super::directives::server::{Server, ServerName};
use super::directives::settings::ErrorPage;
use super::directives::upstream::{EjectionRule, Method, Upstream, UpstreamServer};
use super::options::{KylinOptions, PolicyName, ProbeMode, SessionMode};
use super::readings::RequestPaths;
use crate::admission::QueueRules;
use crate::backend::http1::Address;
use crate::kylin::{NormalizedPath, ResourceGroups};

/// The settings of one upstream.
#[derive(Debug, Clone)]
pub(super) struct Applied {
    /// Whether the rules of Kylin apply.
    pub(super) kylin: Choice<bool>,
    pub(super) sessions: Choice<AppliedSessions>,
    /// The policy that replaces the method of the upstream; `None` keeps that method.
    pub(super) policy: Choice<Option<PolicyName>>,
    pub(super) probe: Choice<ProbeMode>,
    pub(super) outlier: Choice<bool>,
    pub(super) drain: Choice<bool>,
    pub(super) single_flight: Choice<bool>,
    pub(super) panic: Choice<bool>,
    /// The rules for queries that wait for servers with `max_conns`; `None` if queries do not wait.
    pub(super) queue: Choice<Option<QueueRules>>,
    pub(super) resource_groups: Choice<Option<ResourceGroups>>,
}

/// A value and its source.
#[derive(Debug, Clone)]
pub(super) struct Choice<T> {
    pub(super) value: T,
    pub(super) why: String,
}

/// How the sessions of an upstream find their server.
#[derive(Debug, Clone)]
pub(super) enum AppliedSessions {
    /// The directive `sticky` sets it.
    Sticky,
    Mode(SessionMode),
}

/// Paths that only Kylin has. A group that gets one of them from a location consists of Kylin
/// nodes.
const KYLIN_PATHS: [&str; 5] =
    ["/kylin/api/query", "/kylin/api/user/authentication", "/kylin/api/projects", "/kylin/api/jobs", "/kylin/"];

const DEFAULT: &str = "default";
const OPTION: &str = "option";

/// Returns the settings that apply to each upstream of the configuration.
pub(super) fn applied(config: &Config, site: &KylinOptions) -> Vec<Applied> {
    let of_kylin = of_kylin(config);
    let upstreams = config.upstreams.iter().zip(&config.server_comments).zip(of_kylin);
    upstreams.map(|((upstream, servers), of_kylin)| of_upstream(upstream, servers, site, of_kylin)).collect()
}

fn of_upstream(upstream: &Upstream, servers: &CommentOptions, site: &KylinOptions, of_kylin: Choice<bool>) -> Applied {
    let layers = Layers { upstream: &upstream.comments, servers, site };
    let is_of_kylin = of_kylin.value;
    let kylin = match site.kylin {
        Some(false) if is_of_kylin && !layers.is_in_comment("kylin") => Choice::new(false, OPTION),
        _ => of_kylin,
    };
    let uses_address = matches!(upstream.method, Method::IpHash | Method::Hash { .. });
    let sessions = match layers.comment("sessions", |options| options.sessions.clone()) {
        _ if upstream.sticky.is_some() => Choice::new(AppliedSessions::Sticky, "sticky in the file"),
        Some(choice) if !uses_address || upstream.comments.place("sessions").is_some() => {
            choice.map(AppliedSessions::Mode)
        }
        _ if uses_address => {
            Choice::new(AppliedSessions::Mode(SessionMode::NONE), "the method in the file places clients")
        }
        _ if !is_of_kylin => Choice::new(AppliedSessions::Mode(SessionMode::NONE), "no Kylin"),
        _ => layers.site(SessionMode::MEMORY, |options| options.sessions.clone()).map(AppliedSessions::Mode),
    };
    let policy = match layers.comment("policy", |options| options.policy) {
        _ if !matches!(upstream.method, Method::RoundRobin) => Choice::new(None, "the method in the file"),
        Some(choice) => choice.map(Some),
        None => layers.site(None, |options| options.policy.map(Some)),
    };
    let probe = match (layers.comment("probe", |options| options.probe), site.probe) {
        (Some(choice), _) => choice,
        (None, Some(probe)) if is_of_kylin || !probe.asks_kylin() => Choice::new(probe, OPTION),
        (None, _) if !is_of_kylin => match upstream.checked {
            Some(probe) => Choice::new(probe, "check in the file"),
            None => Choice::new(ProbeMode::None, "no Kylin"),
        },
        (None, _) => Choice::new(ProbeMode::Auto, DEFAULT),
    };
    let outlier = layers.find("outlier", true, |options| options.outlier);
    let drain = layers.find("drain", true, |options| options.drain);
    let single_flight = layers.find("single_flight", true, |options| options.single_flight);
    let panic = layers.find("panic", true, |options| options.panic);
    let queue = match layers.find("queue", true, |options| options.queue) {
        _ if !kylin.value => Choice::new(None, "no Kylin"),
        Choice { value: true, why } if why == DEFAULT => match upstream.queue {
            Some(rules) => Choice::new(Some(rules), "queue in the file"),
            None => Choice::new(Some(QueueRules::new()), DEFAULT),
        },
        choice => choice.map(|on| on.then(|| upstream.queue.unwrap_or_default())),
    };
    let resource_groups = layers.find("resource_groups", None, |options| options.resource_groups.clone().map(Some));
    Applied { kylin, sessions, policy, probe, outlier, drain, single_flight, panic, queue, resource_groups }
}

/// The sources of the settings of one upstream, the closest first.
struct Layers<'c> {
    upstream: &'c CommentOptions,
    servers: &'c CommentOptions,
    site: &'c KylinOptions,
}

impl Layers<'_> {
    fn comment<T>(&self, name: &str, of: impl Fn(&KylinOptions) -> Option<T>) -> Option<Choice<T>> {
        [self.upstream, self.servers].into_iter().find_map(|comments| {
            let (value, place) = of(&comments.options).zip(comments.place(name))?;
            Some(Choice { value, why: format!("comment at {place}") })
        })
    }

    fn is_in_comment(&self, name: &str) -> bool {
        self.upstream.place(name).or(self.servers.place(name)).is_some()
    }

    fn site<T>(&self, default: T, of: impl Fn(&KylinOptions) -> Option<T>) -> Choice<T> {
        match of(self.site) {
            Some(value) => Choice { value, why: OPTION.into() },
            None => Choice { value: default, why: DEFAULT.into() },
        }
    }

    fn find<T>(&self, name: &str, default: T, of: impl Fn(&KylinOptions) -> Option<T>) -> Choice<T> {
        self.comment(name, &of).unwrap_or_else(|| self.site(default, &of))
    }
}

impl<T> Choice<T> {
    fn new(value: T, why: &str) -> Self {
        Choice { value, why: why.to_owned() }
    }

    fn map<U>(self, change: impl FnOnce(T) -> U) -> Choice<U> {
        Choice { value: change(self.value), why: self.why }
    }
}

impl Applied {
    /// Returns the rule that ejects a server.
    pub(super) fn ejection(&self, server: &UpstreamServer) -> EjectionRule {
        match server.ejection() {
            EjectionRule::Outlier if !self.outlier.value => {
                EjectionRule::MaxFails { max_fails: 1, fail_timeout: Duration::from_secs(10) }
            }
            rule => rule,
        }
    }
}

impl fmt::Display for AppliedSessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AppliedSessions::Sticky => f.write_str("sticky"),
            AppliedSessions::Mode(mode) => mode.fmt(f),
        }
    }
}

/// Returns for each group whether its servers are Kylin nodes.
///
/// They are if a comment says so, or if a location for paths of Kylin passes requests to the group.
/// A location for all paths suffices if a [sign] names Kylin. A group also counts if it shares a
/// server with such a group.
///
/// A location for all paths without a sign may belong to another site if the file shows that
/// another group is Kylin's. If the file shows no such group, this one counts as Kylin's: without
/// the guard, the internal calls of Kylin would be open.
fn of_kylin(config: &Config) -> Vec<Choice<bool>> {
    let mut found: Vec<Option<Choice<bool>>> = config
        .upstreams
        .iter()
        .zip(&config.server_comments)
        .map(|(upstream, servers)| {
            let layers = Layers { upstream: &upstream.comments, servers, site: &KylinOptions::default() };
            layers.comment("kylin", |options| options.kylin)
        })
        .collect();
    let mut general: Vec<Option<String>> = vec![None; found.len()];
    for server in config.servers.iter().filter(|server| server.reply.is_none()) {
        let rewrites = rewrites(server);
        let is_rewritten = rewrites.iter().any(|rewrite| rewrite.names_kylin());
        let rewritten = rewrites.iter().filter(|rewrite| rewrite.names_kylin()).flat_map(|rewrite| rewrite.paths());
        for path in KYLIN_PATHS.into_iter().chain(rewritten.map(String::as_str)) {
            if let Ok(normal) = NormalizedPath::parse(path)
                && let Some(LocationMatch::Location { location, .. }) = server.locate(&normal)
            {
                for pass in passes(location).into_iter().chain(passes_of_named(location, server)) {
                    let is_of_kylin = names_kylin(location.matcher.text()) || names_kylin(&pass.written);
                    match sign(&config.upstreams[pass.upstream], server) {
                        _ if is_of_kylin => note(pass, &location.matcher, path, server, "", &mut found),
                        Some(sign) => note(pass, &location.matcher, path, server, &sign, &mut found),
                        None if is_rewritten => {
                            note(pass, &location.matcher, path, server, ", and a rewrite leads there", &mut found);
                        }
                        None => {
                            general[pass.upstream].get_or_insert_with(|| place(&location.matcher, server));
                        }
                    }
                }
            }
        }
        note_locations(config, &server.locations, server, &mut found, &mut general);
    }
    // Otherwise a path that nginx and Tomcat read differently could reach a Kylin node without the
    // rules of Kylin.
    while let Some((index, why)) = sharing(config, &found).or_else(|| after_errors(config, &found)) {
        found[index] = Some(Choice { value: true, why });
    }
    let is_elsewhere = found.iter().flatten().any(|choice| choice.value);
    let guess = |general: Option<String>| match general {
        None => Choice::new(false, "no location passes it paths below /kylin"),
        Some(location) if is_elsewhere => Choice {
            value: false,
            why: format!(
                "{location} passes all paths, but no path, name or port says Kylin: # kylin_lb: kylin on; does"
            ),
        },
        Some(location) => Choice {
            value: true,
            why: format!(
                "{location} passes all paths, and nothing says Kylin elsewhere: # kylin_lb: kylin off; does not"
            ),
        },
    };
    found.into_iter().zip(general).map(|(choice, general)| choice.unwrap_or_else(|| guess(general))).collect()
}

/// Returns the sign that an upstream consists of Kylin nodes: its name, a `server_name`, or the
/// name or port of one of its servers.
fn sign(upstream: &Upstream, server: &Server) -> Option<String> {
    if names_kylin(&upstream.name) {
        return Some(", and the upstream has that name".into());
    }
    if let Some(name) = server.names.iter().map(ServerName::text).find(|name| names_kylin(name)) {
        return Some(format!(", and server_name is {name}"));
    }
    let of_port = |node: &UpstreamServer| format!(", and {} has a port of Kylin", node.written);
    upstream.servers.iter().find_map(|node| match &node.address {
        Address::Name(host, _) if names_kylin(host) => Some(format!(", and {} has that name", node.written)),
        Address::Socket(address) if KYLIN_PORTS.contains(&address.port()) => Some(of_port(node)),
        Address::Name(_, port) if KYLIN_PORTS.contains(port) => Some(of_port(node)),
        // Socket paths and other ports are not a sign.
        _ => None,
    })
}

/// Notes locations below `/kylin` that no path of [`KYLIN_PATHS`] leads to.
///
/// Locations whose rewritten path depends on the request go to `general`, like those for all paths.
fn note_locations(
    config: &Config,
    locations: &Locations,
    server: &Server,
    found: &mut [Option<Choice<bool>>],
    general: &mut [Option<String>],
) {
    for location in locations.iter() {
        for pass in passes(location).into_iter().chain(passes_of_named(location, server)) {
            // The node gets the client's path, but a rewritten path selected the location.
            let is_of_client = matches!(pass.uri, PassUri::Original) && !rewrites(server).is_empty();
            let of_client = if is_of_client { None } else { Some(false) };
            let steps = location.script.iter().map(Step::leads_to_kylin);
            let may = any(steps.chain([of_client, pass.leads_to_kylin()]));
            match (may, sign(&config.upstreams[pass.upstream], server)) {
                (Some(false), _) => {}
                (Some(true), _) => {
                    let why = format!("location {} passes paths below /kylin", location.matcher);
                    found[pass.upstream].get_or_insert(Choice { value: true, why });
                }
                // As in a location for all paths, the request decides whether the path is below
                // `/kylin`.
                (None, Some(sign)) => {
                    let why = format!("location {} passes paths that variables make{sign}", location.matcher);
                    found[pass.upstream].get_or_insert(Choice { value: true, why });
                }
                (None, None) => {
                    general[pass.upstream].get_or_insert_with(|| place(&location.matcher, server));
                }
            }
            match &location.matcher {
                Matcher::Exact(path) | Matcher::Prefix { path, .. } => {
                    note(pass, &location.matcher, path, server, "", found);
                }
                Matcher::Regex(_) if location.matcher.text().contains("kylin") => {
                    note(pass, &location.matcher, KYLIN_PATHS[0], server, "", found);
                }
                Matcher::Regex(_) | Matcher::Named(_) => {}
            }
        }
        note_locations(config, &location.nested, server, found, general);
    }
}

/// Returns the rewrites of a server and of its locations that give a request another path.
fn rewrites(server: &Server) -> Vec<&Rewrite> {
    let of_locations = server.locations.deep().into_iter().flat_map(|location| &location.script);
    server.script.iter().chain(of_locations).flat_map(Step::rewrites).collect()
}

/// Returns the targets to which a location may pass requests.
fn passes(location: &Location) -> Vec<&ProxyPass> {
    let forms = location.forms().into_iter();
    forms
        .filter_map(|form| match &form.action {
            Action::Proxy(pass) => Some(pass),
            Action::Return(_) | Action::Named(_) | Action::LeftOut(_) => None,
        })
        .collect()
}

/// Returns the targets of the named locations to which a location leads, directly or after an
/// error.
fn passes_of_named<'s>(location: &Location, server: &'s Server) -> Vec<&'s ProxyPass> {
    let forms = location.forms().into_iter();
    let names = forms.flat_map(|form| {
        let at_once = if let Action::Named(name) = &form.action { Some(name) } else { None };
        form.settings.error_pages.iter().filter_map(ErrorPage::named).chain(at_once)
    });
    names.filter_map(|name| server.locations.named(name)).flat_map(passes).collect()
}

/// Notes the group of a location if the node gets `path` below `/kylin`.
fn note(pass: &ProxyPass, at: &Matcher, path: &str, server: &Server, sign: &str, found: &mut [Option<Choice<bool>>]) {
    let paths = RequestPaths::of(path, true);
    let Some(sent) = paths.and_then(|paths| pass.upstream_uri(path, path.as_bytes(), &paths)) else { return };
    if found[pass.upstream].is_none() && (sent == "/kylin" || sent.starts_with("/kylin/")) {
        let why = format!("{} passes {sent}{sign}", place(at, server));
        found[pass.upstream] = Some(Choice { value: true, why });
    }
}

fn place(at: &Matcher, server: &Server) -> String {
    let listen = server.listens.first().map(|listen| listen.address.to_string()).unwrap_or_default();
    format!("location {at} of server {listen}")
}

/// Returns an undecided group that shares a server with a group of Kylin nodes, and the reason.
fn sharing(config: &Config, found: &[Option<Choice<bool>>]) -> Option<(usize, String)> {
    let servers = |index: usize| config.upstreams[index].servers.iter().map(|server| &server.address);
    let unknown = found.iter().enumerate().filter(|(_, choice)| choice.is_none()).map(|(index, _)| index);
    let kylin = || (0..found.len()).filter(|index| is_kylin(&found[*index]));
    let shares = |one: usize, other: usize| servers(one).any(|server| servers(other).any(|known| known == server));
    unknown.into_iter().find_map(|index| {
        let other = kylin().find(|other| shares(index, *other))?;
        Some((index, format!("it has a server of upstream {}", config.upstreams[other].name)))
    })
}

/// Returns an undecided group that gets requests of a group of Kylin nodes after errors, and the
/// reason.
fn after_errors(config: &Config, found: &[Option<Choice<bool>>]) -> Option<(usize, String)> {
    config.servers.iter().find_map(|server| {
        let locations = server.locations.deep();
        locations
            .into_iter()
            .filter(|location| passes(location).iter().any(|pass| is_kylin(&found[pass.upstream])))
            .find_map(|location| {
                let pass = passes_of_named(location, server).into_iter().find(|pass| found[pass.upstream].is_none())?;
                Some((pass.upstream, format!("it gets the requests of location {} after errors", location.matcher)))
            })
    })
}

fn is_kylin(choice: &Option<Choice<bool>>) -> bool {
    choice.as_ref().is_some_and(|choice| choice.value)
}
