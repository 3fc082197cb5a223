//! The known znodes, and the membership that follows from them.

use std::collections::BTreeMap;

use ahash::AHashMap;

use super::layout::{ChildKind, Parent};
use super::registration::{self, Registration};
use crate::discovery::DiscoveredNode;
use crate::endpoint::Roles;
use crate::error_chain::error_chain;

/// The maximum number of children of one parent that are read.
const MAX_CHILDREN: usize = 4096;

#[derive(Debug)]
pub(super) struct Registry {
    parents: Vec<Children>,
}

#[derive(Debug)]
struct Children {
    parent: Parent,
    /// Whether the children have been listed at least once.
    listed: bool,
    znodes: BTreeMap<String, Znode>,
}

#[derive(Debug, PartialEq, Eq)]
enum Znode {
    Unread,
    /// The data is missing or invalid.
    Skipped,
    Member {
        registration: Registration,
        /// The ZooKeeper session that owns the znode, or 0.
        owner: i64,
    },
    /// The address of a candidate for the leader.
    Candidate(String),
}

/// The difference between two lists of children.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    pub(super) added: Vec<String>,
    pub(super) removed: Vec<String>,
}

impl Registry {
    pub(super) fn new(parents: Vec<Parent>) -> Self {
        let children = |parent| Children { parent, listed: false, znodes: BTreeMap::new() };
        Registry { parents: parents.into_iter().map(children).collect() }
    }

    /// Returns the path of a child of the parent with this index.
    pub(super) fn path(&self, parent: usize, name: &str) -> String {
        self.parents.get(parent).map_or_else(String::new, |children| children.path(name))
    }

    /// Records the current children of a parent.
    pub(super) fn set_children(&mut self, parent: usize, mut names: Vec<String>) -> Changes {
        let Some(children) = self.parents.get_mut(parent) else { return Changes::default() };
        children.listed = true;
        names.sort();
        names.dedup();
        if names.len() > MAX_CHILDREN {
            let (path, znodes) = (&children.parent.path, names.len());
            tracing::warn!(path, znodes, max = MAX_CHILDREN, "too many znodes; the rest is ignored");
            names.truncate(MAX_CHILDREN);
        }
        let is_listed = |name: &String| names.binary_search(name).is_ok();
        let removed: Vec<String> = children.znodes.keys().filter(|name| !is_listed(name)).cloned().collect();
        children.znodes.retain(|name, _| is_listed(name));
        let added: Vec<String> = names.into_iter().filter(|name| !children.znodes.contains_key(name)).collect();
        children.znodes.extend(added.iter().map(|name| (name.clone(), Znode::Unread)));
        Changes { added, removed }
    }

    /// Records the data of a znode: `None` if it is gone or cannot be read.
    pub(super) fn set_data(&mut self, parent: usize, name: &str, data: Option<&[u8]>, owner: i64) {
        let Some(children) = self.parents.get_mut(parent) else { return };
        let path = children.path(name);
        // The znode may have left the list meanwhile.
        let Some(znode) = children.znodes.get_mut(name) else { return };
        let parsed = match (data, children.parent.children) {
            (None, _) => Ok(Znode::Skipped),
            (Some(data), ChildKind::LeaderCandidate) => registration::parse_candidate(data).map(Znode::Candidate),
            (Some(data), kind @ (ChildKind::Described | ChildKind::WithRoles(_))) => {
                registration::parse(kind, data).map(|registration| Znode::Member { registration, owner })
            }
        };
        *znode = parsed.unwrap_or_else(|error| {
            // `?path` escapes what a hostile name may contain.
            tracing::warn!(?path, error = error_chain(&error), "invalid znode skipped");
            Znode::Skipped
        });
    }

    /// Returns whether every listed znode has been read.
    pub(super) fn is_complete(&self) -> bool {
        self.parents
            .iter()
            .all(|children| children.listed && children.znodes.values().all(|znode| *znode != Znode::Unread))
    }

    /// Returns each node once.
    ///
    /// The latest registration of an address counts, because an older one may belong to a session
    /// that has not ended yet. The roles of the node are those of all registrations of that
    /// session.
    pub(super) fn members(&self) -> Vec<DiscoveredNode> {
        let mut by_address: AHashMap<&str, Vec<Entry<'_>>> = AHashMap::new();
        for children in &self.parents {
            for (name, znode) in &children.znodes {
                if let Znode::Member { registration, owner } = znode {
                    let entry = Entry { registration, owner: *owner, parent: &children.parent.path, name };
                    by_address.entry(registration.node.address()).or_default().push(entry);
                }
            }
        }
        by_address.into_values().filter_map(merge).collect()
    }

    /// Returns the address of the leader of the job scheduler.
    pub(super) fn leader(&self) -> Option<String> {
        let candidates = self.parents.iter().filter(|of| of.parent.children == ChildKind::LeaderCandidate);
        let numbered = candidates
            .flat_map(|children| &children.znodes)
            .filter_map(|(name, znode)| Some((registration::candidate_number(name)?, znode)));
        match numbered.min_by_key(|(number, _)| *number)? {
            (_, Znode::Candidate(address)) => Some(address.clone()),
            _ => None,
        }
    }
}

impl Children {
    fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.parent.path)
    }
}

/// A registration, its session and its znode.
struct Entry<'r> {
    registration: &'r Registration,
    owner: i64,
    parent: &'r str,
    name: &'r str,
}

/// Merges the registrations of one address.
fn merge(entries: Vec<Entry<'_>>) -> Option<DiscoveredNode> {
    let latest = entries.iter().max_by_key(|entry| (entry.registration.registered_at, entry.parent, entry.name))?;
    let states_roles_of_latest = |entry: &&Entry<'_>| {
        let same_znode = (entry.parent, entry.name) == (latest.parent, latest.name);
        let same_session = entry.owner != 0 && entry.owner == latest.owner;
        entry.registration.states_roles && (same_znode || same_session)
    };
    let roles = entries.iter().filter(states_roles_of_latest).map(|entry| entry.registration.node.roles());
    let roles = roles.reduce(Roles::and).unwrap_or(Roles::ALL);
    let source = format!("{}/{}", latest.parent, latest.name);
    Some(latest.registration.node.clone().with_source(source).with_roles(roles))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::connect_string::ConnectString;
    use super::super::layout::{Layout, parents};
    use super::*;

    /// Parents 0: 3.0, 1: 3.1, 2: leader, 3: all, 4: query, 5: job.
    fn registry() -> Registry {
        let mut registry = Registry::new(parents(&ConnectString::parse("zk/kylin/prod").unwrap(), &Layout::ALL));
        for parent in 0..registry.parents.len() {
            assert!(!registry.is_complete());
            registry.set_children(parent, Vec::new());
        }
        assert!(registry.is_complete());
        registry
    }

    fn put(registry: &mut Registry, parent: usize, name: &str, mode: &str, at: i64, owner: i64) {
        let mut names: Vec<String> = registry.parents[parent].znodes.keys().cloned().collect();
        names.push(name.to_owned());
        registry.set_children(parent, names);
        let data = json!({"address": "q1", "port": 7070, "payload": {"description": mode}, "registrationTimeUTC": at});
        registry.set_data(parent, name, Some(data.to_string().as_bytes()), owner);
    }

    fn roles(registry: &Registry) -> Vec<String> {
        registry.members().iter().map(|node| format!("{} {}", node.address(), node.roles())).collect()
    }

    #[test]
    fn the_latest_of_several_registrations_of_a_node_counts() {
        let mut registry = registry();
        put(&mut registry, 1, "b-older", "all", 1, 7);
        put(&mut registry, 1, "a-newer", "query", 2, 8);
        assert_eq!(roles(&registry), ["q1:7070 query"]);
        assert_eq!(registry.members()[0].source(), "/kylin/prod/service/cluster_servers/a-newer");
    }

    #[test]
    fn the_roles_of_all_registrations_of_a_session_are_merged() {
        let mut registry = registry();
        put(&mut registry, 4, "a", "", 1, 7);
        put(&mut registry, 5, "a", "", 2, 7);
        assert_eq!(roles(&registry), ["q1:7070 all"]);
    }

    #[test]
    fn a_registration_with_a_mode_takes_precedence_over_one_without() {
        let mut registry = registry();
        put(&mut registry, 1, "a", "job", 1, 7);
        put(&mut registry, 0, "b", "", 2, 7);
        assert_eq!(roles(&registry), ["q1:7070 job"]);
    }

    #[test]
    fn the_registry_is_complete_once_every_listed_znode_is_read() {
        let mut registry = registry();
        let changes = registry.set_children(1, vec!["b".into(), "a".into(), "a".into()]);
        assert_eq!(changes.added, ["a", "b"]);
        assert!(!registry.is_complete());
        registry.set_data(1, "a", Some(b"{}"), 1);
        assert!(!registry.is_complete() && registry.members().is_empty());
        assert_eq!(registry.set_children(1, vec!["a".into()]), Changes { added: vec![], removed: vec!["b".into()] });
        assert!(registry.is_complete());
        // Late data of a removed znode changes nothing.
        registry.set_data(1, "b", Some(b"{}"), 1);
        registry.set_data(99, "b", None, 1);
        assert!(registry.is_complete());
    }

    #[test]
    fn the_candidate_with_the_lowest_number_leads() {
        let mut registry = registry();
        registry.set_children(2, ["_c_1-lock-0000000012", "_c_2-lock-0000000009", "what"].map(str::to_owned).to_vec());
        assert_eq!(registry.leader(), None);
        registry.set_data(2, "_c_1-lock-0000000012", Some(b"j1:7070"), 1);
        registry.set_data(2, "_c_2-lock-0000000009", Some(b"j2:7070"), 1);
        registry.set_data(2, "what", Some(b"j3:7070"), 1);
        assert_eq!(registry.leader().as_deref(), Some("j2:7070"));
        registry.set_children(2, vec!["_c_1-lock-0000000012".to_owned()]);
        assert_eq!(registry.leader().as_deref(), Some("j1:7070"));
        assert!(registry.members().is_empty());
    }
}
