//! Decides which balancers have Kylin nodes.

use kylin_lb::kylin::NormalizedPath;

use super::config::Config;
use super::directives::{Balancer, From, Pass, Server, Target, sent_path};

/// A path that only Kylin has.
const KYLIN_PATH: &str = "/kylin/api/query";
/// The ports of Kylin: the default, the TLS port of Kylin 5, and the port of a second instance in
/// the KAP manual.
const KYLIN_PORTS: [&str; 3] = ["7070", "7443", "17070"];

/// Returns for each balancer whether its members count as Kylin nodes, and why.
///
/// They count if they get paths below `/kylin` and a name, port or path points to Kylin. They also
/// count if nothing in the file points to Kylin. A balancer that shares a member with such a
/// balancer counts too.
pub fn of_kylin(config: &Config) -> Vec<(bool, String)> {
    let mut found: Vec<Option<(bool, String)>> = vec![None; config.balancers.len()];
    let mut general: Vec<Option<String>> = vec![None; config.balancers.len()];
    for (server, pass, target) in config.passes() {
        let balancer = &config.balancers[target.balancer];
        let Some(leads) = leads_to_kylin(server, pass, target, balancer) else { continue };
        let sign = match leads {
            Leads::Named => Some(String::new()),
            Leads::WithAll => sign(balancer, server),
            Leads::Below => sign_of_members(balancer),
        };
        match sign {
            Some(sign) => _ = found[target.balancer].get_or_insert_with(|| (true, format!("{}{sign}", pass.written))),
            None if leads == Leads::WithAll => {
                general[target.balancer].get_or_insert_with(|| pass.written.clone());
            }
            None => {}
        }
    }
    let shares = |one: usize, other: usize| {
        let addresses = |index: usize| config.balancers[index].members.iter().map(|member| &member.address);
        addresses(one).any(|address| addresses(other).any(|known| known == address))
    };
    for _ in 0..found.len() {
        for index in 0..found.len() {
            let of_kylin = |other: &usize| found[*other].as_ref().is_some_and(|(on, _)| *on) && shares(index, *other);
            if let (None, Some(other)) = (&found[index], (0..found.len()).find(of_kylin)) {
                found[index] = Some((true, format!("it has a member of balancer://{}", config.balancers[other].name)));
            }
        }
    }
    let is_elsewhere = found.iter().any(Option::is_some);
    let guess = |general: Option<String>| match general {
        None => (false, "no ProxyPass leads paths below /kylin to it".to_owned()),
        Some(pass) if is_elsewhere => (false, format!("{pass} is for all paths, but no path, name or port says Kylin")),
        Some(pass) => (true, format!("{pass} is for all paths, and nothing says Kylin elsewhere: --kylin off")),
    };
    found.into_iter().zip(general).map(|(found, general)| found.unwrap_or_else(|| guess(general))).collect()
}

/// How a directive leads to paths below `/kylin` at members.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leads {
    /// The directive names these paths.
    Named,
    /// The directive covers clients' paths below `/kylin`, among others.
    WithAll,
    /// The directive may turn other paths of clients into paths below `/kylin`.
    Below,
}

/// Returns how a directive leads to paths below `/kylin` at members; `None` if it does not.
fn leads_to_kylin(server: &Server, pass: &Pass, target: &Target, balancer: &Balancer) -> Option<Leads> {
    let to = format!("{}{}", balancer.path, target.path);
    if is_below_kylin(&to) {
        return Some(Leads::Named);
    }
    if let From::Pattern(pattern) = &pass.from {
        let is_rule = || server.rewrites.passes().any(|rule| std::ptr::eq(rule, pass));
        let is_first = server.pass_of(KYLIN_PATH, KYLIN_PATH).is_some_and(|first| std::ptr::eq(first, pass))
            || is_rule() && pattern.is_match(KYLIN_PATH.as_bytes());
        return match () {
            () if pattern.as_str().contains("kylin") => Some(Leads::Named),
            () if is_first => Some(Leads::WithAll),
            () => may_be_kylin(&to).then_some(Leads::Below),
        };
    }
    let of_paths = |path: &str| {
        let read = NormalizedPath::parse(path).ok()?;
        let sent = sent_path(&pass.from, target, &balancer.path, path, read.as_str()).ok()?;
        is_below_kylin(sent.as_deref().unwrap_or(path)).then_some(())
    };
    let is_first = |path: &str| server.pass_of(path, path).is_some_and(|first| std::ptr::eq(first, pass));
    match &pass.from {
        From::Prefix(prefix) if is_below_kylin(prefix) => of_paths(prefix).map(|()| Leads::Named),
        From::Prefix(_) if of_paths(KYLIN_PATH).is_some() && is_first(KYLIN_PATH) => Some(Leads::WithAll),
        From::Prefix(prefix) => {
            let below = format!("{}{KYLIN_PATH}", prefix.trim_end_matches('/'));
            of_paths(&below).filter(|()| is_first(&below)).map(|()| Leads::Below)
        }
        From::Pattern(_) => None,
    }
}

/// Returns whether the target of an expression may become a path below `/kylin`. It may if it is
/// the root, or has a group or variable instead of the name.
fn may_be_kylin(to: &str) -> bool {
    let written = to.trim_start_matches('/');
    match written.find(['$', '%']) {
        Some(end) => "kylin".starts_with(&written[..end]),
        None => written.is_empty(),
    }
}

pub fn is_below_kylin(path: &str) -> bool {
    path.strip_prefix("/kylin").is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?', ';']))
}

/// Returns the sign that a balancer for all paths has Kylin nodes.
fn sign(balancer: &Balancer, server: &Server) -> Option<String> {
    let name = || server.names.iter().find(|name| names_kylin(name));
    sign_of_members(balancer).or_else(|| name().map(|name| format!(", and the server is called {name}")))
}

/// Returns the sign of Kylin in the name of a balancer or its members.
fn sign_of_members(balancer: &Balancer) -> Option<String> {
    if balancer.declared && names_kylin(&balancer.name) {
        return Some(", and the balancer has that name".to_owned());
    }
    balancer.members.iter().find_map(|member| {
        let (host, port) = member.address.rsplit_once(':').unwrap_or((&member.address, ""));
        match () {
            () if names_kylin(host) => Some(format!(", and {} has that name", member.address)),
            () if KYLIN_PORTS.contains(&port) => Some(format!(", and {} has a port of Kylin", member.address)),
            () => None,
        }
    })
}

fn names_kylin(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    let mut words = text.split(|letter: char| !letter.is_ascii_alphabetic());
    text.contains("kylin") || text.contains("kyligence") || words.any(|word| word == "kap")
}
