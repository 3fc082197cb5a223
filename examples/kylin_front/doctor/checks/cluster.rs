//! The checks that compare the nodes of a cluster with each other.

use std::collections::BTreeSet;

use kylin_lb::endpoint::{Role, Roles};
use kylin_lb::kylin::properties::{Properties, ServerAddr};

use super::{Seen, ids, nodes_of};
use crate::doctor::addresses::Addresses;
use crate::doctor::node::{Facts, Node};
use crate::doctor::report::{Check, Report};

/// The storage that the nodes of one role have in common: its name, the property, and the default.
const STORAGE: [(&str, &str, &str); 4] = [
    ("working directory", "kylin.env.hdfs-working-dir", "/kylin"),
    ("HBase", "kylin.storage.hbase.cluster-fs", ""),
    ("ZooKeeper", ZOOKEEPER, ""),
    ("path in ZooKeeper", "kylin.env.zookeeper-base-path", "/kylin"),
];

const ZOOKEEPER: &str = "kylin.env.zookeeper-connect-string";
const ZOOKEEPER_PORT: u16 = 2181;

/// The properties that list nodes.
const LISTS: [&str; 6] = [
    "kylin.server.cluster-servers-with-mode",
    "kylin.server.cluster-mode-all",
    "kylin.server.cluster-mode-query",
    "kylin.server.cluster-mode-job",
    "kylin.server.cluster-servers",
    "kylin.rest.servers",
];
/// The maximum number of nodes that a node may list.
const MAX_LISTED: usize = 1000;

const NO_CONFIG: &str = "needs what an administrator sees: --login-file";

/// Checks that the nodes run the same version.
pub fn version(cluster: &[&Seen], report: &mut Report) {
    let shown = |(_, facts): &Seen| match &facts.version {
        Some((version, commit)) => format!("{version} ({})", commit.get(..8).unwrap_or(commit)),
        None => "before 3.1, because it does not report one".to_owned(),
    };
    let kylins = cluster.iter().copied().filter(|(_, facts)| facts.is_kylin());
    differences(Check::Version, "version", kylins, shown, report);
}

/// Checks that the nodes of a role use the same Hadoop, HBase and ZooKeeper.
pub fn storage(cluster: &[&Seen], report: &mut Report) {
    let mut reported = BTreeSet::new();
    for role in [Role::Query, Role::Job] {
        let has_role = |(_, facts): &&Seen| facts.roles().is_some_and(|roles| roles.has(role));
        let of_role: Vec<&Seen> = cluster.iter().copied().filter(has_role).collect();
        if of_role.len() > 1 {
            report.ran(Check::Storage);
        }
        for (what, key, default) in STORAGE {
            let value = |(_, facts): &Seen| {
                let value = facts.config.as_ref().and_then(|config| config.get(key)).unwrap_or(default);
                let value = if key == ZOOKEEPER { zookeeper(value) } else { value.trim_end_matches('/').to_owned() };
                if value.is_empty() { "not set".to_owned() } else { value }
            };
            // A node with both roles is compared twice.
            let differing = differing(&format!("{what} ({key})"), &of_role, value, masked);
            for (ids, text) in differing.into_iter().filter(|one| reported.insert(one.clone())) {
                report.fault(Check::Storage, &ids, text);
            }
        }
    }
    without_config(Check::Storage, cluster, report);
}

/// Returns a connect string with its servers in one order, each with its port, and without spaces.
fn zookeeper(text: &str) -> String {
    let (servers, chroot) = text.split_once('/').unwrap_or((text, ""));
    let server = |server: &str| {
        let server = server.trim().to_ascii_lowercase();
        let has_port = server.rsplit(']').next().is_some_and(|rest| rest.contains(':'));
        if has_port { server } else { format!("{server}:{ZOOKEEPER_PORT}") }
    };
    let servers = servers.split(',').filter(|server| !server.trim().is_empty()).map(server);
    let servers = servers.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(",");
    match chroot.trim().trim_matches('/') {
        "" => servers,
        chroot => format!("{servers}/{chroot}"),
    }
}

/// Returns a value without the text before `@`: a container of a storage account, or a user with a
/// password.
fn masked(value: &str) -> String {
    let Some((before, after)) = value.rsplit_once('@') else { return value.to_owned() };
    let scheme = before.split_once("://").map(|(scheme, _)| format!("{scheme}://")).unwrap_or_default();
    format!("{scheme}***@{after}")
}

/// Checks that each node lists all of them.
pub fn cluster_servers(cluster: &[&Seen], addresses: &Addresses, report: &mut Report) {
    for (node, config) in configs(cluster) {
        let listed = match listed(config) {
            Ok(listed) => listed,
            Err(error) => {
                report.fault(Check::ClusterServers, &[&node.id], error);
                continue;
            }
        };
        if cluster.len() < 2 {
            continue;
        }
        report.ran(Check::ClusterServers);
        let listed: Vec<String> = listed.iter().map(ToString::to_string).collect();
        let missing = alive(cluster).filter(|(other, _)| !addresses.contains(&listed, &other.address.to_string()));
        let missing: Vec<&str> = missing.map(|(other, _)| &*other.id).collect();
        if !missing.is_empty() {
            let text = format!("does not list {}: it lists {}", missing.join(", "), shown(&listed));
            report.fault(Check::ClusterServers, &[&node.id], text);
        }
    }
    without_config(Check::ClusterServers, cluster, report);
}

/// Returns the nodes that a node's properties list.
fn listed(config: &Properties) -> Result<Vec<ServerAddr>, String> {
    let count: usize = LISTS.iter().filter_map(|key| config.get(key)).map(|list| list.split(',').count()).sum();
    match count {
        0..=MAX_LISTED => config.cluster_servers().map_err(|error| error.to_string()),
        _ => Err(format!("lists more than {MAX_LISTED} nodes")),
    }
}

/// Drops the nodes that were discovered if there are too many.
pub fn limit_discovered(nodes: &mut [Seen], report: &mut Report) {
    for (node, facts) in nodes {
        if facts.discovered.take_if(|found| found.len() > MAX_LISTED).is_some() {
            report.fault(Check::Discovery, &[&node.id], format!("lists more than {MAX_LISTED} nodes"));
        }
    }
}

/// Returns the addresses that a node knows.
pub fn known(facts: &Facts) -> impl Iterator<Item = String> {
    with_roles(facts).map(|(address, _)| address)
}

/// Returns the nodes that a node knows from its properties and from discovery, with their roles if
/// it knows them.
fn with_roles(facts: &Facts) -> impl Iterator<Item = (String, Option<Roles>)> {
    let listed = facts.config.as_ref().and_then(|config| listed(config).ok()).unwrap_or_default();
    let found = facts.discovered.iter().flatten().map(|(address, roles)| (address.clone(), Some(*roles)));
    listed.into_iter().map(|server| (server.to_string(), server.roles())).chain(found)
}

/// Returns the nodes outside a cluster that its nodes know as job nodes, with their roles.
fn engines_elsewhere(cluster: &[&Seen], addresses: &Addresses) -> Vec<(String, Roles)> {
    let runs_jobs =
        |(address, roles): (String, Option<Roles>)| Some((address, roles?)).filter(|(_, r)| r.has(Role::Job));
    let known = cluster.iter().flat_map(|(_, facts)| with_roles(facts)).filter_map(runs_jobs);
    let is_member = |known: &str| cluster.iter().any(|(node, _)| addresses.are_same(known, &node.address.to_string()));
    known.filter(|(address, _)| !is_member(address)).collect()
}

/// Checks that the number of nodes that run jobs fits the scheduler.
pub fn job_engine(cluster: &[&Seen], addresses: &Addresses, report: &mut Report) {
    let own_roles = |seen: &Seen| own_roles(seen, addresses);
    let runs_jobs = |seen: &&&Seen| own_roles(seen).is_some_and(|roles| roles.has(Role::Job));
    let engines: Vec<&Seen> = cluster.iter().filter(runs_jobs).copied().collect();
    let knows_all = cluster.iter().all(|seen| own_roles(seen).is_some());
    if cluster.iter().all(|seen| own_roles(seen).is_none()) {
        return without_config(Check::JobEngine, cluster, report);
    }
    report.ran(Check::JobEngine);
    if engines.is_empty() {
        if knows_all && engines_elsewhere(cluster, addresses).is_empty() {
            report.fault(Check::JobEngine, &[], "no node runs jobs: kylin.server.mode of one must be all or job");
        }
        return;
    }
    let scheduler = |(_, facts): &Seen| match facts.config.as_ref().map(Properties::job_scheduler) {
        Some(Ok(number)) => number.unwrap_or(0).to_string(),
        Some(Err(_)) => "not a number".to_owned(),
        None => "unknown".to_owned(),
    };
    let with_config = || engines.iter().copied().filter(|(_, facts)| facts.config.is_some());
    differences(Check::JobEngine, "kylin.job.scheduler.default", with_config(), scheduler, report);
    let is = |number: &str| engines.iter().filter(|seen| scheduler(seen) == number).copied().collect::<Vec<_>>();
    let (alone, locking, electing) = (is("0"), is("2"), is("100"));
    if engines.len() > 1 && !alone.is_empty() {
        let text = format!(
            "{} run jobs with the scheduler for one node: set kylin.server.mode=query on the others, or \
             kylin.job.scheduler.default to 2 (locks in ZooKeeper) or 100 (elects a node) on all",
            ids(&engines)
        );
        report.fault(Check::JobEngine, &nodes_of(&alone), text);
    }
    let has_no_lock = |config: &Properties| {
        config.get("kylin.job.lock").is_some_and(|class| class.contains("Mock") || class.contains("Noop"))
    };
    for (node, _) in configs(&locking).filter(|(_, config)| engines.len() > 1 && has_no_lock(config)) {
        report.fault(
            Check::JobEngine,
            &[&node.id],
            "kylin.job.lock is one that locks nothing, and several nodes run jobs",
        );
    }
    let leaders: Vec<&Seen> = electing.iter().filter(|(_, facts)| facts.is_leader == Some(true)).copied().collect();
    if !electing.is_empty() && leaders.len() != 1 && electing.iter().all(|(_, facts)| facts.is_leader.is_some()) {
        let text = match leaders.len() {
            0 => "none of them is the active job node".to_owned(),
            _ => format!("{} all say that they are the active job node", ids(&leaders)),
        };
        report.fault(Check::JobEngine, &nodes_of(&electing), text);
    }
}

/// Checks that the nodes know each other with the roles that were given to the front end.
pub fn discovery(cluster: &[&Seen], given: &[&Node], addresses: &Addresses, report: &mut Report) {
    let mut engines = engines_elsewhere(cluster, addresses);
    engines.retain(|(_, roles)| !roles.has(Role::Query));
    for seen in cluster {
        let (node, facts) = seen;
        if let Some(own) = own_roles(seen, addresses)
            && node.given != Roles::ALL
            && let Some(role) =
                [Role::Query, Role::Job].into_iter().find(|role| node.given.has(*role) && !own.has(*role))
        {
            let name = Roles::only(role);
            let text = format!("the front end sends it what is for {name} nodes, and its kylin.server.mode is {own}");
            report.fault(Check::Discovery, &[&node.id], text);
        }
        if node.given == Roles::ALL && own_roles(seen, addresses) == Some(Roles::only(Role::Job)) {
            let text = "its kylin.server.mode is job, so it rejects queries, and the front end sends it queries: give it the role job (ID@HOST:PORT=job), or leave it out of a configuration";
            report.fault(Check::Discovery, &[&node.id], text);
        }
        let (found, listed) = known_to(facts);
        if found.is_empty() && listed.is_empty() {
            continue;
        }
        report.ran(Check::Discovery);
        let unknown = alive(cluster).filter(|(other, _)| !addresses.contains(&found, &other.address.to_string()));
        let unknown: Vec<&str> = unknown.map(|(other, _)| &*other.id).collect();
        if !unknown.is_empty() && !found.is_empty() {
            let text = format!("does not find {}: it finds {}", unknown.join(", "), shown(&found));
            report.fault(Check::Discovery, &[&node.id], text);
        }
        let is_given = |known: &&String| given.iter().any(|node| addresses.are_same(known, &node.address.to_string()));
        let not_given: BTreeSet<&str> =
            found.iter().chain(&listed).filter(|known| !is_given(known)).map(String::as_str).collect();
        // Clients may reach nodes that only run jobs in another way.
        let only_runs_jobs = |known: &&str| engines.iter().any(|(engine, _)| addresses.are_same(known, engine));
        let (engines, others): (Vec<&str>, Vec<&str>) = not_given.into_iter().partition(only_runs_jobs);
        if !others.is_empty() {
            let text = format!("knows nodes that the front end does not have: {}", others.join(", "));
            report.fault(Check::Discovery, &[&node.id], text);
        }
        if !engines.is_empty() {
            let text = format!("knows job nodes that the front end does not have: {}", engines.join(", "));
            report.note(Check::Discovery, &[&node.id], text);
        }
    }
}

/// Returns the nodes that a node knows, from discovery and from its properties. A list with one
/// node is the default, and counts as no list.
fn known_to(facts: &Facts) -> (Vec<String>, Vec<String>) {
    let found = facts.discovered.iter().flatten().map(|(address, _)| address.clone()).collect();
    let listed = facts.config.as_ref().and_then(|config| listed(config).ok()).filter(|list| list.len() > 1);
    (found, listed.iter().flatten().map(ToString::to_string).collect())
}

/// Returns the roles that a node names itself, or that it has in the list of Kylin 5.
pub fn own_roles((node, facts): &Seen, addresses: &Addresses) -> Option<Roles> {
    let in_list = || {
        let list = facts.discovered.as_ref().filter(|_| facts.is_kylin5)?;
        let own = list.iter().filter(|(listed, _)| addresses.are_same(listed, &node.address.to_string()));
        own.map(|(_, roles)| *roles).reduce(Roles::and)
    };
    facts.roles().or_else(in_list)
}

/// Checks that the nodes take their users from one place.
pub fn users(cluster: &[&Seen], report: &mut Report) {
    let profile = |(_, facts): &Seen| {
        let profile = facts.config.as_ref().and_then(|config| config.get("kylin.security.profile"));
        profile.filter(|profile| !profile.is_empty()).unwrap_or("testing").to_owned()
    };
    let with_config = || cluster.iter().copied().filter(|(_, facts)| facts.config.is_some());
    differences(Check::Users, "kylin.security.profile", with_config(), profile, report);
    without_config(Check::Users, cluster, report);
}

/// Reports the nodes whose value differs from that of the majority.
fn differences<'n>(
    check: Check,
    what: &str,
    nodes: impl Iterator<Item = &'n Seen>,
    value: impl Fn(&Seen) -> String,
    report: &mut Report,
) {
    let nodes: Vec<&Seen> = nodes.collect();
    if nodes.len() > 1 {
        report.ran(check);
    }
    for (ids, text) in differing(what, &nodes, value, str::to_owned) {
        report.fault(check, &ids, text);
    }
}

/// Returns the nodes whose value differs from that of the majority, and the difference. The text
/// shows the values as formatted by `shown`.
fn differing<'n>(
    what: &str,
    nodes: &[&'n Seen],
    value: impl Fn(&Seen) -> String,
    shown: fn(&str) -> String,
) -> Vec<(Vec<&'n str>, String)> {
    let mut groups: Vec<(String, Vec<&Seen>)> = Vec::new();
    for &seen in nodes {
        let value = value(seen);
        match groups.iter_mut().find(|(known, _)| *known == value) {
            Some((_, group)) => group.push(seen),
            None => groups.push((value, vec![seen])),
        }
    }
    // Among groups of the same size, the first counts as the majority.
    groups.sort_by_key(|(_, group)| std::cmp::Reverse(group.len()));
    let Some(((usual, reference), others)) = groups.split_first() else { return Vec::new() };
    let differs = |(value, group): &(String, Vec<&'n Seen>)| {
        let (value, usual) = (shown(value), shown(usual));
        let hidden = if value == usual { ", with another text before the @" } else { "" };
        (nodes_of(group), format!("{what} is {value}, and that of {} is {usual}{hidden}", ids(reference)))
    };
    others.iter().map(differs).collect()
}

/// Reports the nodes whose properties are unknown.
fn without_config(check: Check, cluster: &[&Seen], report: &mut Report) {
    let unknown = cluster.iter().filter(|(_, facts)| facts.config.is_none() && facts.unreachable.is_none());
    let unknown: Vec<&Seen> = unknown.copied().collect();
    if cluster.len() < 2 || unknown.is_empty() {
        return;
    }
    let reason = if unknown.iter().all(|(_, facts)| facts.is_kylin5) {
        "Kylin 5 does not tell its properties"
    } else {
        NO_CONFIG
    };
    report.unchecked(check, &nodes_of(&unknown), reason);
}

/// Returns the nodes that respond. Nodes do not discover a node that does not respond.
fn alive<'n>(cluster: &[&'n Seen]) -> impl Iterator<Item = &'n Seen> {
    cluster.iter().copied().filter(|(_, facts)| facts.unreachable.is_none())
}

fn configs<'n>(nodes: &'n [&'n Seen]) -> impl Iterator<Item = (&'n Node, &'n Properties)> {
    nodes.iter().filter_map(|(node, facts)| Some((node, facts.config.as_ref()?)))
}

fn shown(list: &[String]) -> String {
    if list.is_empty() { "none".to_owned() } else { list.join(", ") }
}
