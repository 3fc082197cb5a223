//! What was understood of a configuration, for `--check`.

use std::fmt;
use std::time::Duration;

use super::config::Config;
use super::error::printable;
use super::location::{Action, Location, Locations};
use super::reader::Notice;
use super::server_name::ServerName;
use super::settings::Settings;
use super::upstream::{Upstream, UpstreamServer};

/// In short what the documentation of this room says at length.
const DIFFERENCES: [&str; 5] = [
    "Host is the client's, unless proxy_set_header says otherwise",
    "nodes are spoken to in HTTP/1.1 over kept connections, 64 per core unless keepalive says otherwise",
    "a node has 5 s to connect and 310 s to answer, unless proxy_connect_timeout and proxy_read_timeout say otherwise",
    "X-Forwarded-For, -Proto and -Host are sent, unless proxy_set_header says otherwise",
    "limits, least_conn and round robin count over all threads; no live server is 503 in Kylin's form",
];

/// Prints a [`Config`] as tables.
#[derive(Debug, Clone, Copy)]
pub struct Report<'c>(&'c Config);

impl<'c> Report<'c> {
    pub(super) fn new(config: &'c Config) -> Self {
        Report(config)
    }
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        self.print(&mut text)?;
        // What a file says is shown, not obeyed, by the terminal.
        text.lines().try_for_each(|line| writeln!(f, "{}", printable(line)))
    }
}

impl Report<'_> {
    fn print(&self, f: &mut dyn fmt::Write) -> fmt::Result {
        let config = self.0;
        for upstream in &config.upstreams {
            print_upstream(upstream, f)?;
        }
        for server in &config.servers {
            let listens: Vec<_> = server
                .listens
                .iter()
                .map(|listen| format!("{}{}", listen.address, if listen.default_server { " (default)" } else { "" }))
                .collect();
            writeln!(f, "server {}", listens.join(", "))?;
            let names: Vec<_> = server.names.iter().map(ServerName::text).filter(|name| !name.is_empty()).collect();
            if !names.is_empty() {
                writeln!(f, "  names      {}", names.join(" "))?;
            }
            if let Some(reply) = &server.reply {
                writeln!(f, "  always     {}", action(&Action::Return(reply.clone())))?;
            }
            print_locations(&server.locations, 2, f)?;
        }
        print_list("accepted, without effect here", &config.harmless, f)?;
        print_list("differs from nginx", &config.notes, f)?;
        writeln!(f, "differs from nginx in every configuration:")?;
        DIFFERENCES.iter().try_for_each(|difference| writeln!(f, "  {difference}"))
    }
}

fn print_upstream(upstream: &Upstream, f: &mut dyn fmt::Write) -> fmt::Result {
    let what = if upstream.declared { "upstream" } else { "host" };
    write!(f, "{what} {}: {}", upstream.name, upstream.method)?;
    if let Some(keepalive) = upstream.keepalive {
        write!(f, ", keepalive {keepalive}")?;
    }
    writeln!(f)?;
    if let Some(sticky) = &upstream.sticky {
        writeln!(f, "  sticky {sticky}")?;
    }
    let width = upstream.servers.iter().map(|server| server.written.chars().count()).max().unwrap_or_default();
    for server in &upstream.servers {
        let UpstreamServer {
            written,
            weight,
            max_conns,
            max_fails,
            fail_timeout,
            backup,
            down,
            drain,
            route,
            slow_start,
            ..
        } = server;
        write!(f, "  {written:width$}  weight {weight}  max_fails {max_fails} in {}", seconds(*fail_timeout))?;
        if *max_conns > 0 {
            write!(f, "  max_conns {max_conns}")?;
        }
        if !slow_start.is_zero() {
            write!(f, "  slow_start {}", seconds(*slow_start))?;
        }
        if let Some(route) = route {
            write!(f, "  route {route}")?;
        }
        let flags = [(*backup, "  backup"), (*down, "  down"), (*drain, "  drain")];
        writeln!(f, "{}", flags.iter().map(|(on, name)| if *on { *name } else { "" }).collect::<String>())?;
    }
    Ok(())
}

fn print_locations(locations: &Locations, indent: usize, f: &mut dyn fmt::Write) -> fmt::Result {
    for location in locations.iter() {
        writeln!(f, "{:indent$}location {} -> {}", "", location.matcher, action(&location.action))?;
        print_settings(location, indent + 2, f)?;
        print_locations(&location.nested, indent + 2, f)?;
    }
    Ok(())
}

fn action(action: &Action) -> String {
    match action {
        Action::Proxy(pass) => pass.written.clone(),
        Action::Return(reply) => {
            let value = reply.location.as_ref().or(reply.text.as_ref());
            format!(
                "return {}{}",
                reply.status,
                value.map(|value| format!(" {}", value.to_string().escape_debug())).unwrap_or_default()
            )
        }
    }
}

fn print_settings(location: &Location, indent: usize, f: &mut dyn fmt::Write) -> fmt::Result {
    let Settings { connect_timeout, read_timeout, max_body_size, .. } = &location.settings;
    let settings = &location.settings;
    let mut line = |name: &str, value: String| writeln!(f, "{:indent$}{name:<10} {value}", "");
    if matches!(location.action, Action::Proxy(_)) {
        let timeouts = [("connect", connect_timeout), ("read", read_timeout)];
        let timeouts: Vec<_> =
            timeouts.iter().filter_map(|(name, time)| time.map(|time| format!("{name} {}", seconds(time)))).collect();
        if !timeouts.is_empty() {
            line("timeouts", timeouts.join(", "))?;
        }
        match max_body_size {
            Some(0) => line("body", "no limit".into())?,
            Some(size) => line("body", format!("at most {size} bytes"))?,
            None => {}
        }
        let next = &settings.next_upstream;
        let tries = if next.tries > 0 { format!(", {} tries", next.tries) } else { String::new() };
        let within =
            if next.within > Duration::ZERO { format!(", within {}", seconds(next.within)) } else { String::new() };
        line("next", format!("{next}{tries}{within}"))?;
        for header in settings.set_headers.iter() {
            line("sends", format!("{}: {}", header.name, header.value))?;
        }
    }
    for header in settings.add_headers.iter() {
        line("adds", format!("{}: {}{}", header.name, header.value, if header.always { " (always)" } else { "" }))?;
    }
    let real_ip = &settings.real_ip;
    if !real_ip.trusted.is_empty() {
        let trusted: Vec<_> = real_ip.trusted.iter().map(ToString::to_string).collect();
        line(
            "real ip",
            format!(
                "{} from {}{}",
                real_ip.header,
                trusted.join(" "),
                if real_ip.recursive { ", recursive" } else { "" }
            ),
        )?;
    }
    Ok(())
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
