//! A report of how a configuration was interpreted, as text.

use std::fmt;
use std::time::Duration;

use super::applied::{Applied, AppliedSessions, applied};
use super::config::Config;
use super::directives::location::{Action, Location, Locations};
use super::directives::remarks::Notice;
use super::directives::reply::Reply;
use super::directives::rewrite::Step;
use super::directives::server::{Server, ServerName};
use super::directives::upstream::{EjectionRule, Upstream, UpstreamServer};
use super::options::KylinOptions;
use super::syntax::printable;

/// A summary of the differences that the documentation of the module lists.
const DIFFERENCES: [&str; 11] = [
    "Host is the client's if it names one, unless proxy_set_header sets it",
    "connections to nodes are HTTP/1.1 and kept, 64 per core unless keepalive sets another number",
    "a node has 5 s to connect and 310 s to respond, unless proxy_connect_timeout and proxy_read_timeout are set",
    "X-Forwarded-For, -Proto and -Host are sent, unless proxy_set_header sets them",
    "Forwarded, X-Real-IP and other X-Forwarded-* of a client are removed, unless set_real_ip_from trusts it",
    "a path that nodes could read in two ways (%2F, %25, \\, ;) is 400 where Kylin is on, and one with raw \" < > everywhere",
    "while all servers are ejected, the one that failed least recently serves",
    "queries wait for a server that has its max_conns in flight, with and without queue, and other requests pass",
    "limits, least_conn and round robin count over all threads; no live server is 503 in Kylin's form",
    "error_page sends no request again that a node may have executed, unless its method is safe",
    "$1 beside a variable of map is the group of the line, not that of an expression of the map",
];

/// Displays how a [`Config`] was interpreted.
#[derive(Debug, Clone)]
pub struct Report<'c> {
    config: &'c Config,
    options: KylinOptions,
}

impl<'c> Report<'c> {
    pub(super) fn new(config: &'c Config, options: KylinOptions) -> Self {
        Report { config, options }
    }
}

impl Config {
    /// Returns a report of how the configuration was interpreted: servers, locations, upstreams,
    /// and the lines without effect. `Display` formats the report.
    pub fn report(&self) -> Report<'_> {
        Report::new(self, KylinOptions::default())
    }
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        print(self, &mut text)?;
        // Control characters of the file must not reach the terminal.
        text.lines().try_for_each(|line| writeln!(f, "{}", printable(line)))
    }
}

fn print(Report { config, options }: &Report<'_>, f: &mut dyn fmt::Write) -> fmt::Result {
    let applied = applied(config, options);
    let groups: Vec<Group<'_>> = config.upstreams.iter().zip(&applied).collect();
    groups.iter().try_for_each(|group| print_upstream(*group, f))?;
    config.servers.iter().try_for_each(|server| print_server(server, &groups, f))?;
    print_list("accepted, without effect here", &config.ignored, f)?;
    print_list("differs from nginx", &config.notes, f)?;
    writeln!(f, "differs from nginx in every configuration:")?;
    DIFFERENCES.iter().try_for_each(|difference| writeln!(f, "  {difference}"))
}

/// An upstream and what applies to it.
type Group<'c> = (&'c Upstream, &'c Applied);

fn print_upstream((upstream, applied): Group<'_>, f: &mut dyn fmt::Write) -> fmt::Result {
    let kind = if upstream.declared { "upstream" } else { "host" };
    let keepalive = upstream.keepalive.map(|connections| format!(", keepalive {connections}")).unwrap_or_default();
    match applied.policy.value {
        Some(policy) => writeln!(f, "{kind} {}: {policy}{keepalive}", upstream.name)?,
        None => writeln!(f, "{kind} {}: {}{keepalive}", upstream.name, upstream.method)?,
    }
    print_applied(applied, f)?;
    if upstream.servers.iter().any(|server| server.max_conns > 0) || upstream.queue.is_some() {
        let on = if applied.queue.value.is_some() { "on" } else { "off" };
        writeln!(f, "  queue      {on} ({})", applied.queue.why)?;
    }
    if let Some(sticky) = &upstream.sticky {
        writeln!(f, "  sticky {sticky}")?;
    }
    let width = upstream.servers.iter().map(|server| server.written.chars().count()).max().unwrap_or_default();
    for server in &upstream.servers {
        let UpstreamServer { written, weight, max_conns, .. } = server;
        write!(f, "  {written:width$}  weight {weight}  ")?;
        match applied.ejection(server) {
            EjectionRule::Outlier => write!(f, "outlier rule (neither max_fails nor fail_timeout is written)")?,
            EjectionRule::MaxFails { max_fails: 0, .. } => write!(f, "max_fails 0 (never ejected)")?,
            EjectionRule::MaxFails { max_fails, fail_timeout } => {
                write!(f, "max_fails {max_fails} in {}", seconds(fail_timeout))?;
            }
        }
        if *max_conns > 0 {
            write!(f, "  max_conns {max_conns}")?;
        }
        if !server.slow_start.is_zero() {
            write!(f, "  slow_start {}", seconds(server.slow_start))?;
        }
        if let Some(route) = &server.route {
            write!(f, "  route {route}")?;
        }
        for (is_set, name) in [(server.backup, "backup"), (server.down, "down"), (server.drain, "drain")] {
            if is_set {
                write!(f, "  {name}")?;
            }
        }
        writeln!(f)?;
    }
    Ok(())
}

/// Prints what applies to an upstream, and why.
fn print_applied(applied: &Applied, f: &mut dyn fmt::Write) -> fmt::Result {
    let on = |on| if on { "on" } else { "off" };
    let Applied { kylin, sessions, policy, probe, outlier, drain, single_flight, panic, queue: _, resource_groups } =
        applied;
    writeln!(f, "  kylin      {} ({})", on(kylin.value), kylin.why)?;
    writeln!(f, "  sessions   {} ({})", sessions.value, sessions.why)?;
    if let AppliedSessions::Mode(mode) = &sessions.value {
        mode.warnings().iter().try_for_each(|warning| writeln!(f, "             warning: {warning}"))?;
    }
    writeln!(f, "  policy     {}", policy.why)?;
    writeln!(f, "  probe      {} ({})", probe.value, probe.why)?;
    writeln!(f, "  outlier    {} ({})", on(outlier.value), outlier.why)?;
    writeln!(f, "  drain      {} ({})", on(drain.value), drain.why)?;
    if kylin.value {
        writeln!(f, "  single_flight {} ({})", on(single_flight.value), single_flight.why)?;
    }
    writeln!(f, "  panic      {} ({})", on(panic.value), panic.why)?;
    if let Some(groups) = &resource_groups.value {
        writeln!(f, "  groups     {}", resource_groups.why)?;
        groups.to_string().lines().try_for_each(|line| writeln!(f, "             {line}"))?;
    }
    Ok(())
}

fn print_server(server: &Server, groups: &[Group<'_>], f: &mut dyn fmt::Write) -> fmt::Result {
    let default = |is_default| if is_default { " (default)" } else { "" };
    let listens = server.listens.iter().map(|listen| format!("{}{}", listen.address, default(listen.default_server)));
    writeln!(f, "server {}", listens.collect::<Vec<_>>().join(", "))?;
    let names: Vec<_> = server.names.iter().map(ServerName::text).filter(|name| !name.is_empty()).collect();
    if !names.is_empty() {
        writeln!(f, "  names      {}", names.join(" "))?;
    }
    if server.settings.client_tls.rejects_handshake {
        writeln!(f, "  handshake  refused (ssl_reject_handshake)")?;
    }
    if let Some(reply) = &server.reply {
        writeln!(f, "  always     {}", returned(reply))?;
    }
    if let Some(Step::Return(reply)) = server.script.last() {
        writeln!(f, "  otherwise  {}", returned(reply))?;
    }
    print_locations(&server.locations, groups, 2, f)
}

fn print_locations(locations: &Locations, groups: &[Group<'_>], indent: usize, f: &mut dyn fmt::Write) -> fmt::Result {
    for location in locations.iter() {
        writeln!(f, "{:indent$}location {} -> {}", "", location.matcher, action(location))?;
        for (name, value) in settings(location, groups) {
            writeln!(f, "{:indent$}  {name:<10} {value}", "")?;
        }
        print_locations(&location.nested, groups, indent + 2, f)?;
    }
    Ok(())
}

/// Returns the action of a location for a request that no earlier step of its script ends.
fn action(location: &Location) -> String {
    match (location.script.last(), &location.action) {
        (Some(Step::Return(reply)), _) | (_, Action::Return(reply)) => returned(reply),
        (_, Action::Proxy(pass)) => pass.written.clone(),
        (_, Action::Named(name)) => name.clone(),
        (_, Action::LeftOut(reason)) => format!("404 ({reason})"),
    }
}

fn returned(reply: &Reply) -> String {
    let value = reply.location.as_ref().or(reply.text.as_ref());
    let value = value.map(|value| format!(" {}", value.to_string().escape_debug()));
    format!("return {}{}", reply.status, value.unwrap_or_default())
}

/// Returns the settings of a location that are worth a line, and their values.
fn settings(location: &Location, groups: &[Group<'_>]) -> Vec<(&'static str, String)> {
    let settings = &location.settings;
    let mut lines = Vec::new();
    if settings.internal {
        lines.push(("internal", "for requests that rewrite changed".into()));
    }
    if let Action::Proxy(pass) = &location.action {
        let timeouts = [("connect", settings.connect_timeout), ("read", settings.read_timeout)];
        let timeouts = timeouts.iter().filter_map(|(name, time)| time.map(|time| format!("{name} {}", seconds(time))));
        let timeouts: Vec<_> = timeouts.collect();
        if !timeouts.is_empty() {
            lines.push(("timeouts", timeouts.join(", ")));
        }
        match settings.max_body_size {
            Some(0) => lines.push(("body", "no limit".into())),
            Some(size) => lines.push(("body", format!("at most {size} bytes"))),
            None => {}
        }
        let next = &settings.next_upstream;
        let tries = if next.tries > 0 { format!(", {} tries", next.tries) } else { String::new() };
        let elapsed = next.max_elapsed;
        let within = if elapsed.is_zero() { String::new() } else { format!(", within {}", seconds(elapsed)) };
        lines.push(("next", format!("{next}{tries}{within}")));
        let (upstream, applied) = groups[pass.upstream];
        if applied.kylin.value && next.has("error") {
            let without = if next.has("non_idempotent") { "; non_idempotent has no effect there" } else { "" };
            lines.push(("kylin", format!("below /kylin the kind of request decides: no write is sent twice{without}")));
        }
        let counts = next.timeout_is_written() && upstream.has_max_fails();
        let timeout = match counts {
            true if applied.kylin.value => "a failure of servers with max_fails, except below /kylin",
            true => "a failure of servers with max_fails: proxy_next_upstream has timeout",
            false => "slow, not a failure: max_fails and timeout of proxy_next_upstream are not both written",
        };
        lines.push(("time-out", timeout.into()));
        lines.extend(settings.set_headers.iter().map(|header| ("sends", format!("{}: {}", header.name, header.value))));
    }
    for header in settings.headers() {
        let always = if header.always { " (always)" } else { "" };
        lines.push(("adds", format!("{}: {}{always}", header.name, header.value)));
    }
    for log in settings.access_logs.active() {
        let condition = log.condition.as_ref().map(|condition| format!(" if {condition}")).unwrap_or_default();
        lines.push(("logs", format!("{} {}{condition}", log.path.display(), log.format.name)));
    }
    let real_ip = &settings.real_ip;
    let trusted = real_ip.trusted();
    if !trusted.is_empty() {
        let recursive = if real_ip.recursive { ", recursive" } else { "" };
        lines.push(("real ip", format!("{} from {}{recursive}", real_ip.header, trusted.join(" "))));
    }
    lines
}

fn print_list(title: &str, notices: &[Notice], f: &mut dyn fmt::Write) -> fmt::Result {
    if notices.is_empty() {
        return Ok(());
    }
    writeln!(f, "{title}:")?;
    notices.iter().try_for_each(|notice| writeln!(f, "  {notice}"))
}

fn seconds(time: Duration) -> String {
    if time.subsec_millis() == 0 { format!("{}s", time.as_secs()) } else { format!("{}ms", time.as_millis()) }
}
