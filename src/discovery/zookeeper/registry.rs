//! What is known of the znodes: pure bookkeeping between their events and the membership.

use std::collections::BTreeMap;

use ahash::AHashMap;

use super::folders::{Folder, Kind};
use super::payload::{self, Registration};
use crate::discovery::{DiscoveredNode, chain};
use crate::endpoint::{Role, Roles};

/// The most znodes of one folder that are read.
const MOST_NODES: usize = 4096;

#[derive(Debug)]
pub(super) struct Registry {
    folders: Vec<Known>,
}

#[derive(Debug)]
struct Known {
    folder: Folder,
    /// The children were told.
    listed: bool,
    nodes: BTreeMap<String, Node>,
}

#[derive(Debug, PartialEq, Eq)]
enum Node {
    /// Listed, not read yet.
    Unread,
    /// Read, and skipped.
    Unusable,
    Member {
        registration: Registration,
        owner: i64,
    },
    Candidate(String),
}

/// What changed in a folder's list: of which znodes the data is to be watched, and of which no longer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    pub(super) come: Vec<String>,
    pub(super) gone: Vec<String>,
}

impl Registry {
    pub(super) fn new(folders: Vec<Folder>) -> Self {
        let known = |folder| Known { folder, listed: false, nodes: BTreeMap::new() };
        Registry { folders: folders.into_iter().map(known).collect() }
    }

    /// Where a folder is.
    pub(super) fn path(&self, folder: usize) -> &str {
        self.folders.get(folder).map_or("", |known| &known.folder.path)
    }

    /// The children of a folder are these.
    pub(super) fn listed(&mut self, folder: usize, mut names: Vec<String>) -> Changes {
        let Some(known) = self.folders.get_mut(folder) else { return Changes::default() };
        known.listed = true;
        names.sort();
        names.dedup();
        if names.len() > MOST_NODES {
            tracing::warn!(path = known.folder.path, nodes = names.len(), "more znodes than are read: {MOST_NODES}");
            names.truncate(MOST_NODES);
        }
        let gone: Vec<String> = known.nodes.keys().filter(|name| names.binary_search(name).is_err()).cloned().collect();
        for name in &gone {
            known.nodes.remove(name);
        }
        let come: Vec<String> = names.into_iter().filter(|name| !known.nodes.contains_key(name)).collect();
        known.nodes.extend(come.iter().map(|name| (name.clone(), Node::Unread)));
        Changes { come, gone }
    }

    /// The data of a znode is this; `None` when it is gone or must not be read.
    pub(super) fn read(&mut self, folder: usize, name: &str, data: Option<&[u8]>, owner: i64) {
        let Some(known) = self.folders.get_mut(folder) else { return };
        // It may have left the list meanwhile.
        let Some(node) = known.nodes.get_mut(name) else { return };
        let read = match (data, known.folder.kind) {
            (None, _) => Ok(Node::Unusable),
            (Some(data), Kind::Leader) => payload::leader(data).map(Node::Candidate),
            (Some(data), kind) => {
                payload::registration(kind, data).map(|registration| Node::Member { registration, owner })
            }
        };
        *node = read.unwrap_or_else(|error| {
            // Debug writes what a hostile name may hold as escapes.
            let path = format!("{}/{name}", known.folder.path);
            tracing::warn!(?path, error = chain(&error), "a znode is skipped");
            Node::Unusable
        });
    }

    /// Is everything read that is listed?
    pub(super) fn is_complete(&self) -> bool {
        self.folders.iter().all(|known| known.listed && known.nodes.values().all(|node| *node != Node::Unread))
    }

    /// Each node once. Of several registrations of one address the latest counts, for an older one may be of a session that
    /// has not ended yet; its roles are those of all registrations of its session.
    pub(super) fn members(&self) -> Vec<DiscoveredNode> {
        let mut by_address: AHashMap<&str, Vec<Entry<'_>>> = AHashMap::new();
        for known in &self.folders {
            for (name, node) in &known.nodes {
                if let Node::Member { registration, owner } = node {
                    let entry = Entry { registration, owner: *owner, folder: &known.folder.path, name };
                    by_address.entry(registration.found.address()).or_default().push(entry);
                }
            }
        }
        by_address.into_values().filter_map(merged).collect()
    }

    /// The address of the candidate that leads.
    pub(super) fn leader(&self) -> Option<String> {
        let candidates = self.folders.iter().filter(|known| known.folder.kind == Kind::Leader);
        let nodes = candidates.flat_map(|known| &known.nodes);
        let (_, node) =
            nodes.filter_map(|(name, node)| Some((payload::sequence(name)?, node))).min_by_key(|(at, _)| *at)?;
        match node {
            Node::Candidate(address) => Some(address.clone()),
            _ => None,
        }
    }
}

/// A registration, its session and its znode.
struct Entry<'r> {
    registration: &'r Registration,
    owner: i64,
    folder: &'r str,
    name: &'r str,
}

/// What the registrations of one address come to.
fn merged(entries: Vec<Entry<'_>>) -> Option<DiscoveredNode> {
    let latest = entries.iter().max_by_key(|entry| (entry.registration.at, entry.folder, entry.name))?;
    let together = |entry: &&Entry<'_>| {
        let same = (entry.folder, entry.name) == (latest.folder, latest.name);
        // A znode that no session owns stands for itself.
        entry.registration.roles_are_told && (same || entry.owner != 0 && entry.owner == latest.owner)
    };
    let roles = entries.iter().filter(together).map(|entry| entry.registration.found.roles());
    let roles = roles.reduce(|one, other| {
        [Role::Query, Role::Job].into_iter().filter(|role| other.has(*role)).fold(one, Roles::with)
    });
    let found = latest.registration.found.clone().with_source(format!("{}/{}", latest.folder, latest.name));
    Some(found.with_roles(roles.unwrap_or(Roles::ALL)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::folders::{Layout, folders};
    use super::super::place::Place;
    use super::*;

    /// Folders 0: 3.0, 1: 3.1, 2: leader, 3: all, 4: query, 5: job.
    fn registry() -> Registry {
        let mut registry = Registry::new(folders(&Place::parse("zk/kylin/prod").unwrap(), &Layout::ALL));
        for folder in 0..registry.folders.len() {
            assert!(!registry.is_complete());
            registry.listed(folder, Vec::new());
        }
        assert!(registry.is_complete());
        registry
    }

    fn put(registry: &mut Registry, folder: usize, name: &str, mode: &str, at: i64, owner: i64) {
        let mut names: Vec<String> = registry.folders[folder].nodes.keys().cloned().collect();
        names.push(name.to_owned());
        registry.listed(folder, names);
        let data = json!({"address": "q1", "port": 7070, "payload": {"description": mode}, "registrationTimeUTC": at});
        registry.read(folder, name, Some(data.to_string().as_bytes()), owner);
    }

    fn roles(registry: &Registry) -> Vec<String> {
        registry.members().iter().map(|found| format!("{} {}", found.address(), found.roles())).collect()
    }

    #[test]
    fn a_node_that_registers_anew_is_one_node_and_its_latest_word_counts() {
        let mut registry = registry();
        put(&mut registry, 1, "b-older", "all", 1, 7);
        put(&mut registry, 1, "a-newer", "query", 2, 8);
        assert_eq!(roles(&registry), ["q1:7070 query"]);
        assert_eq!(registry.members()[0].source(), "/kylin/prod/service/cluster_servers/a-newer");
    }

    #[test]
    fn a_node_that_registers_more_than_once_in_one_session_has_all_these_roles() {
        let mut registry = registry();
        put(&mut registry, 4, "a", "", 1, 7);
        put(&mut registry, 5, "a", "", 2, 7);
        assert_eq!(roles(&registry), ["q1:7070 all"]);
    }

    #[test]
    fn a_mode_goes_before_a_registration_without_one() {
        let mut registry = registry();
        put(&mut registry, 1, "a", "job", 1, 7);
        put(&mut registry, 0, "b", "", 2, 7);
        assert_eq!(roles(&registry), ["q1:7070 job"]);
    }

    #[test]
    fn what_is_listed_and_not_read_is_waited_for_and_what_is_gone_is_not() {
        let mut registry = registry();
        let changes = registry.listed(1, vec!["b".into(), "a".into(), "a".into()]);
        assert_eq!(changes.come, ["a", "b"]);
        assert!(!registry.is_complete());
        registry.read(1, "a", Some(b"{}"), 1);
        assert!(!registry.is_complete() && registry.members().is_empty());
        assert_eq!(registry.listed(1, vec!["a".into()]), Changes { come: vec![], gone: vec!["b".into()] });
        assert!(registry.is_complete());
        // Late news of what has left changes nothing.
        registry.read(1, "b", Some(b"{}"), 1);
        registry.read(99, "b", None, 1);
        assert!(registry.is_complete());
    }

    #[test]
    fn the_lowest_number_leads() {
        let mut registry = registry();
        registry.listed(2, ["_c_1-lock-0000000012", "_c_2-lock-0000000009", "what"].map(str::to_owned).to_vec());
        assert_eq!(registry.leader(), None);
        registry.read(2, "_c_1-lock-0000000012", Some(b"j1:7070"), 1);
        registry.read(2, "_c_2-lock-0000000009", Some(b"j2:7070"), 1);
        registry.read(2, "what", Some(b"j3:7070"), 1);
        assert_eq!(registry.leader().as_deref(), Some("j2:7070"));
        registry.listed(2, vec!["_c_1-lock-0000000012".to_owned()]);
        assert_eq!(registry.leader().as_deref(), Some("j1:7070"));
        assert!(registry.members().is_empty());
    }
}
