use super::place::Place;
use crate::endpoint::{Role, Roles};

/// A way in which a generation of Kylin registers its nodes: see the [module](super).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Layout {
    /// Kylin 3.0 with the Curator scheduler; KAP 2.4, unverified.
    Kylin30,
    /// Kylin 3.1 and 4.0 with self-discovery.
    Kylin31,
    /// Kylin 5.
    Kylin5,
}

impl Layout {
    /// All of them.
    pub const ALL: [Layout; 3] = [Layout::Kylin30, Layout::Kylin31, Layout::Kylin5];
}

/// A znode whose children are watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Folder {
    pub(super) path: String,
    pub(super) kind: Kind,
}

/// What the children of a folder are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nodes whose description tells the role, and before Kylin 3.1 the address.
    Described,
    /// Nodes that all have these roles.
    Of(Roles),
    /// Candidates for the lead of the jobs.
    Leader,
}

/// The folders to watch for these layouts.
pub(super) fn folders(place: &Place, layouts: &[Layout]) -> Vec<Folder> {
    let cluster = place.path();
    let folder = |path: &str, kind| Folder { path: format!("{cluster}/{path}"), kind };
    let mut folders = Vec::new();
    let has = |layout| layouts.contains(&layout);
    if has(Layout::Kylin30) {
        folders.push(folder("service/kylin", Kind::Described));
    }
    if has(Layout::Kylin31) {
        folders.push(folder("service/cluster_servers", Kind::Described));
    }
    if has(Layout::Kylin30) || has(Layout::Kylin31) {
        folders.push(folder("job_engine/leader", Kind::Leader));
    }
    if has(Layout::Kylin5) {
        let job = Roles::only(Role::Job);
        let services = [
            ("all", Roles::ALL),
            ("query", Roles::only(Role::Query)),
            ("job", job),
            ("data-loading", job),
            ("smart", job),
        ];
        folders.extend(services.map(|(name, roles)| folder(&format!("services/{name}"), Kind::Of(roles))));
    }
    folders
}
