//! `--check`: the report on how a configuration is served.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use kylin_lb::nginx::{ProbeMode, SessionMode};

use super::config::Config;
use super::directives::{Balancer, Matcher, Member, Method, Server};
use super::kylin::of_kylin;
use super::syntax::{Notice, printable};
use crate::args::Args;

/// The differences from httpd in every configuration.
const DIFFERENCES: [&str; 8] = [
    "Host is the client's: ProxyPreserveHost On",
    "paths are read as Tomcat reads them; ambiguous ones are 400",
    "a node has 5 s to connect and 310 s to respond, unless timeout=, ProxyTimeout or a longer Timeout is written",
    "a member without retry= is ejected if it fails more than the others; while all are ejected, the one that failed least recently serves",
    "under a mapped path, redirects that name the client's host lead back too, and below /kylin those of a path and cookies; redirects are relative",
    "X-Forwarded-For and the like of a client are removed unless RemoteIP trusts it; X-Forwarded-Server is not sent",
    "below /kylin the kind of request decides whether it is sent again: no write is sent twice",
    "queries wait for a member that has its max in flight; no member that may serve is 503 in Kylin's form",
];

/// Returns the report on a configuration.
pub fn report(path: &Path, args: &Args) -> Result<String, super::syntax::ConfigError> {
    let config = Config::read(path)?;
    let mut text = String::new();
    // Writing to a String cannot fail.
    _ = print(&config, args, &mut text);
    Ok(text.lines().map(|line| printable(line) + "\n").collect())
}

fn print(config: &Config, args: &Args, f: &mut String) -> std::fmt::Result {
    for (balancer, (is_of_kylin, why)) in config.balancers.iter().zip(of_kylin(config)) {
        print_balancer(balancer, is_of_kylin, &why, args, f)?;
    }
    for server in &config.servers {
        print_server(config, server, f)?;
    }
    print_list("accepted, without effect here", &config.ignored, f)?;
    print_list("differs from httpd", &config.notes, f)?;
    writeln!(f, "differs from httpd in every configuration:")?;
    DIFFERENCES.iter().try_for_each(|difference| writeln!(f, "  {difference}"))
}

fn print_balancer(balancer: &Balancer, is_of_kylin: bool, why: &str, args: &Args, f: &mut String) -> std::fmt::Result {
    let on = |on| if on { "on" } else { "off" };
    let policy = match (balancer.method, args.policy) {
        (Some(Method::ByBusyness), _) => "bybusyness".to_owned(),
        (None, Some(policy)) => format!("{policy} (an option)"),
        (Some(Method::ByRequests) | None, _) => "byrequests".to_owned(),
    };
    writeln!(f, "{}: {policy}", balancer.url())?;
    let why = if args.kylin { why } else { "an option" };
    writeln!(f, "  kylin      {} ({why})", on(is_of_kylin && args.kylin))?;
    let mode = args.sessions.clone().unwrap_or(SessionMode::MEMORY);
    match &balancer.sticky {
        Some(sticky) => {
            let failover = if balancer.no_failover { ", no failover" } else { "" };
            writeln!(f, "  sessions   stickysession {}|{}{failover}", sticky.cookie, sticky.parameter)?;
        }
        None if is_of_kylin => {
            writeln!(f, "  sessions   {mode}")?;
            mode.warnings().iter().try_for_each(|warning| writeln!(f, "             warning: {warning}"))?;
        }
        None => writeln!(f, "  sessions   not kept")?,
    }
    let probe = if is_of_kylin && args.kylin {
        args.probe.unwrap_or(ProbeMode::Auto)
    } else {
        args.probe.unwrap_or(ProbeMode::None)
    };
    writeln!(f, "  probe      {probe}")?;
    let width = balancer.members.iter().map(|member| member.url().len()).max().unwrap_or_default();
    balancer.members.iter().try_for_each(|member| print_member(member, width, f))
}

fn print_member(member: &Member, width: usize, f: &mut String) -> std::fmt::Result {
    let (whole, hundredths) = (member.load_factor / 100, member.load_factor % 100);
    let factor = if hundredths == 0 { whole.to_string() } else { format!("{whole}.{hundredths:02}") };
    write!(f, "  {:width$}  loadfactor {factor}", member.url())?;
    match member.retry {
        _ if member.status.ignores_errors => write!(f, "  never ejected")?,
        None => write!(f, "  outlier rule (no retry is written)")?,
        Some(Duration::ZERO) => write!(f, "  never ejected (retry=0)")?,
        Some(retry) => write!(f, "  retry {}s", retry.as_secs_f64())?,
    }
    for (name, value) in [("route", &member.route), ("redirect", &member.redirect)] {
        if let Some(value) = value {
            write!(f, "  {name} {value}")?;
        }
    }
    if member.set > 0 {
        write!(f, "  lbset {}", member.set)?;
    }
    if let Some(max) = member.max {
        write!(f, "  max {max}")?;
    }
    for (name, time) in
        [("timeout", member.timeout), ("connectiontimeout", member.connect_timeout), ("ttl", member.ttl)]
    {
        if let Some(time) = time {
            write!(f, "  {name} {}s", time.as_secs_f64())?;
        }
    }
    let status = member.status;
    for (is_set, name) in [
        (status.standby, "hot standby"),
        (status.spare, "hot spare"),
        (status.drain, "drain"),
        (status.disabled, "disabled"),
    ] {
        if is_set {
            write!(f, "  {name}")?;
        }
    }
    writeln!(f)
}

fn print_server(config: &Config, server: &Server, f: &mut String) -> std::fmt::Result {
    let is_same = |number: &usize| std::ptr::eq(&config.servers[*number], server);
    let listens: Vec<_> = config.listeners.iter().filter(|listener| listener.servers.iter().any(&is_same)).collect();
    if listens.is_empty() {
        return Ok(());
    }
    let address = |listener: &&super::config::Listener| {
        let tls = if listener.is_tls { " (TLS)" } else { "" };
        let default = if listener.servers.first().is_some_and(is_same) { " (default)" } else { "" };
        format!("{}{tls}{default}", listener.listen)
    };
    writeln!(f, "server {}", listens.iter().map(address).collect::<Vec<_>>().join(", "))?;
    if !server.names.is_empty() {
        writeln!(f, "  names      {}", server.names.join(" "))?;
    }
    let mut passes: Vec<_> = server.all_passes().collect();
    passes.dedup_by_key(|pass| &pass.written);
    for pass in passes {
        match &pass.to {
            Some(target) => writeln!(f, "  {} -> {}", pass.written, config.balancers[target.balancer].url())?,
            None => writeln!(f, "  {} -> 404", pass.written)?,
        }
    }
    for section in server.sections.iter().filter(|section| !section.settings.access.is_empty()) {
        let place = match &section.matcher {
            Matcher::All => "all paths".to_owned(),
            Matcher::Proxied(urls) => format!("requests to {urls}"),
            Matcher::Below(path) => path.clone(),
            Matcher::Pattern(pattern) => pattern.as_str().to_owned(),
        };
        writeln!(f, "  access     {place}: {}", section.settings.access)?;
    }
    Ok(())
}

fn print_list(title: &str, notices: &[Notice], f: &mut String) -> std::fmt::Result {
    if notices.is_empty() {
        return Ok(());
    }
    writeln!(f, "{title}:")?;
    notices.iter().try_for_each(|notice| writeln!(f, "  {notice}"))
}
