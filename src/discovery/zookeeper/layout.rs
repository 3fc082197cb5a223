use super::connect_string::ConnectString;
use crate::endpoint::{Role, Roles};

/// The znodes in which a generation of Kylin registers its nodes: see the [module](super).
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
    /// Every layout.
    pub const ALL: [Layout; 3] = [Layout::Kylin30, Layout::Kylin31, Layout::Kylin5];
}

/// A znode whose children are watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parent {
    pub(super) path: String,
    pub(super) children: ChildKind,
}

/// The kind of the children of a [`Parent`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ChildKind {
    /// Nodes whose description contains the role and, before Kylin 3.1, the address.
    Described,
    /// Nodes that all have these roles.
    WithRoles(Roles),
    /// Candidates for the leader of the job scheduler.
    LeaderCandidate,
}

/// Returns the znodes to watch for these layouts.
pub(super) fn parents(connect_string: &ConnectString, layouts: &[Layout]) -> Vec<Parent> {
    use Layout::{Kylin5, Kylin30, Kylin31};
    let job = ChildKind::WithRoles(Role::Job.into());
    let table: [(&str, ChildKind, &[Layout]); 8] = [
        ("service/kylin", ChildKind::Described, &[Kylin30]),
        ("service/cluster_servers", ChildKind::Described, &[Kylin31]),
        ("job_engine/leader", ChildKind::LeaderCandidate, &[Kylin30, Kylin31]),
        ("services/all", ChildKind::WithRoles(Roles::ALL), &[Kylin5]),
        ("services/query", ChildKind::WithRoles(Role::Query.into()), &[Kylin5]),
        ("services/job", job, &[Kylin5]),
        ("services/data-loading", job, &[Kylin5]),
        ("services/smart", job, &[Kylin5]),
    ];
    let wanted = table.into_iter().filter(|(_, _, of)| of.iter().any(|layout| layouts.contains(layout)));
    let cluster = connect_string.path();
    wanted.map(|(path, children, _)| Parent { path: format!("{cluster}/{path}"), children }).collect()
}
