//! Which nodes form one cluster: those with the same metastore.

use std::collections::BTreeSet;

use super::{Seen, by_upstream, ids};
use crate::doctor::node::Facts;
use crate::doctor::report::{Check, Report};

/// Checks that the nodes of each upstream show the same metastore, by the best evidence that two of
/// them have in common.
pub fn metastore(nodes: &[Seen], report: &mut Report) {
    for members in by_upstream(nodes) {
        let with_evidence = |(_, facts): &&&Seen| {
            facts.metadata_url().is_some() || facts.cookie_name.is_some() || !facts.projects.is_empty()
        };
        let seen: Vec<&Seen> = members.iter().filter(with_evidence).copied().collect();
        if seen.len() < 2 {
            if members.len() > 1 {
                report.unchecked(Check::Metastore, &[], "the nodes show no sign of it: --login-file");
            }
            continue;
        }
        report.ran(Check::Metastore);
        let mut groups: Vec<Vec<&Seen>> = Vec::new();
        for one in seen {
            let fits =
                |group: &&mut Vec<&Seen>| group.iter().all(|(_, other)| different_store(&one.1, other).is_none());
            match groups.iter_mut().find(fits) {
                Some(group) => group.push(one),
                None => groups.push(vec![one]),
            }
        }
        // Among groups of the same size, the first is the reference.
        groups.sort_by_key(|group| std::cmp::Reverse(group.len()));
        let Some((reference, others)) = groups.split_first() else { continue };
        for (node, facts) in others.iter().flatten() {
            let difference = reference.iter().find_map(|(_, other)| different_store(facts, other)).unwrap_or_default();
            let text = format!("is a node of another metastore than {}: {difference}", ids(reference));
            report.fault(Check::Metastore, &[&node.id], text);
        }
    }
}

/// Returns how the metastores of two nodes differ; `None` if they do not, or if nothing shows it.
fn different_store(one: &Facts, other: &Facts) -> Option<String> {
    if let (Some(one), Some(other)) = (one.metadata_url(), other.metadata_url()) {
        return (!one.is_same_store(&other)).then(|| format!("kylin.metadata.url is {one} instead of {other}"));
    }
    let cookie = |facts: &Facts| facts.cookie_name.clone().or_else(|| Some(facts.metadata_url()?.session_cookie()));
    if (one.cookie_name.is_some() || other.cookie_name.is_some())
        && let (Some(one), Some(other)) = (cookie(one), cookie(other))
    {
        return (one != other).then(|| "the session cookie is named after another kylin.metadata.url".to_owned());
    }
    let differs = |(name, id): &(&String, &String)| other.projects.get(*name).is_some_and(|other| other != *id);
    let (name, _) = one.projects.iter().find(differs)?;
    Some(format!("the project {name} has another id"))
}

/// Groups the nodes by metastore. A node that does not show its metastore is in the group of its
/// upstream.
pub fn clusters(nodes: &[Seen]) -> Vec<Vec<&Seen>> {
    let mut clusters: Vec<Vec<&Seen>> = Vec::new();
    let mut addresses = BTreeSet::new();
    // Upstreams may have nodes in common.
    for seen in nodes.iter().filter(|(node, _)| !node.is_down && addresses.insert(node.address.to_string())) {
        let shows = |facts: &Facts| facts.metadata_url().is_some() || facts.cookie_name.is_some();
        let fits = |cluster: &&mut Vec<&Seen>| {
            let is_same = |other: &&Seen| different_store(&seen.1, &other.1).is_none();
            let is_near = |(other, facts): &&Seen| other.cluster == seen.0.cluster || shows(&seen.1) && shows(facts);
            cluster.iter().all(is_same) && cluster.iter().any(is_near)
        };
        match clusters.iter_mut().find(fits) {
            Some(cluster) => cluster.push(seen),
            None => clusters.push(vec![seen]),
        }
    }
    clusters
}
