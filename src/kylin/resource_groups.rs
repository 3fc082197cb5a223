//! The resource groups of Kylin 5: which nodes serve a project.
//!
//! Kylin binds projects to groups, separately for queries and for builds, and instances to groups
//! (kylin5 core-metadata, `ResourceGroup`). A project has at most one group of each kind
//! (KE-040027209).

use std::fmt;
use std::sync::Arc;

use parking_lot::RwLock;
use serde::Deserialize;
use thiserror::Error;

use super::class::RequestClass;

/// The resource groups of a Kylin 5 cluster. Clones share one table, which
/// [`replace`](Self::replace) can exchange while requests are served.
///
/// ```
/// use kylin_lb::kylin::ResourceGroups;
///
/// let groups = ResourceGroups::parse(r#"{
///     "resource_group_enabled": true,
///     "resource_groups": [{"id": "sales"}],
///     "instances": [{"instance": "10.0.0.1:7070", "resource_group_id": "sales"}],
///     "mapping_info": [{"project": "orders", "resource_group_id": "sales", "request_type": "QUERY"}]
/// }"#)?;
/// assert_eq!(groups.to_string(), "orders: queries at sales (10.0.0.1:7070)");
/// # Ok::<(), kylin_lb::kylin::ResourceGroupError>(())
/// ```
#[derive(Clone)]
pub struct ResourceGroups(Arc<RwLock<Arc<Table>>>);

/// The groups of projects, sorted by project and kind.
#[derive(Debug, PartialEq, Eq)]
struct Table(Vec<(String, RequestType, Arc<NodeGroup>)>);

/// The nodes of a group.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NodeGroup {
    id: String,
    /// `host:port`, in lower case.
    instances: Vec<String>,
}

/// A kind of request that a group serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
enum RequestType {
    #[serde(rename = "QUERY")]
    Query,
    #[serde(rename = "BUILD")]
    Build,
}

/// An error in a description of resource groups.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ResourceGroupError {
    /// The text is not the JSON of resource groups.
    #[error("line {line}, column {column}: not the resource groups of Kylin 5 in JSON")]
    Json {
        /// The line, from 1.
        line: usize,
        /// The column, from 1.
        column: usize,
    },
    /// A project or an instance names a group that is not listed.
    #[error("there is no resource group {group:?}, which {of:?} names")]
    UnknownGroup {
        /// The group.
        group: String,
        /// The project or the instance.
        of: String,
    },
    /// A project has two groups for queries, or two for builds (KE-040027209).
    #[error("project {project:?} has two resource groups for the same kind of requests")]
    TwoGroups {
        /// The project.
        project: String,
    },
}

/// Kylin's own format: `relation` in its metadata, and the body of
/// `PUT /kylin/api/resource_groups`.
#[derive(Deserialize)]
struct Relation {
    #[serde(default)]
    resource_group_enabled: bool,
    #[serde(default)]
    resource_groups: Vec<Group>,
    #[serde(default)]
    instances: Vec<Instance>,
    #[serde(default)]
    mapping_info: Vec<Mapping>,
}

#[derive(Deserialize)]
struct Group {
    id: String,
}

#[derive(Deserialize)]
struct Instance {
    instance: String,
    resource_group_id: String,
}

#[derive(Deserialize)]
struct Mapping {
    project: String,
    resource_group_id: String,
    #[serde(default = "query")]
    request_type: RequestType,
}

/// Returns Kylin's default.
fn query() -> RequestType {
    RequestType::Query
}

impl ResourceGroups {
    /// Parses the JSON in which Kylin 5 keeps the groups: `resource_group_enabled`,
    /// `resource_groups`, `instances` and `mapping_info`. If `resource_group_enabled` is false, no
    /// project has a group.
    ///
    /// # Errors
    /// [`ResourceGroupError`] if the text is not this JSON, or Kylin would refuse it.
    pub fn parse(json: &str) -> Result<Self, ResourceGroupError> {
        Ok(ResourceGroups(Arc::new(RwLock::new(Arc::new(Table::parse(json)?)))))
    }

    /// Replaces the groups, for requests that begin from now on. Returns whether they have changed.
    ///
    /// # Errors
    /// Those of [`parse`](Self::parse); the groups are then unchanged.
    pub fn replace(&self, json: &str) -> Result<bool, ResourceGroupError> {
        let table = Arc::new(Table::parse(json)?);
        let before = std::mem::replace(&mut *self.0.write(), Arc::clone(&table));
        Ok(before != table)
    }

    /// Returns the nodes that serve requests of `class` for `project`; `None` if any node does.
    pub(crate) fn group_of(&self, class: RequestClass, project: &str) -> Option<Arc<NodeGroup>> {
        let kind = request_type(class)?;
        let table = Arc::clone(&self.0.read());
        let of =
            |entry: &&(String, RequestType, Arc<NodeGroup>)| entry.1 == kind && entry.0.eq_ignore_ascii_case(project);
        table.0.iter().find(of).map(|(_, _, group)| Arc::clone(group))
    }
}

/// Returns the kind of a request; `None` if any node may serve it.
fn request_type(class: RequestClass) -> Option<RequestType> {
    match class {
        RequestClass::Query(_) | RequestClass::Prepare(_) | RequestClass::Export(_) | RequestClass::AsyncSubmit => {
            Some(RequestType::Query)
        }
        RequestClass::Job => Some(RequestType::Build),
        _ => None,
    }
}

/// Returns whether requests of `class` for a project go to the nodes of its group.
pub(crate) fn has_group(class: RequestClass) -> bool {
    request_type(class).is_some()
}

impl Table {
    fn parse(json: &str) -> Result<Self, ResourceGroupError> {
        // serde would accept an array as the members in order.
        if !json.trim_start().starts_with('{') {
            return Err(ResourceGroupError::Json { line: 1, column: 1 });
        }
        let relation: Relation = serde_json::from_str(json)
            .map_err(|error| ResourceGroupError::Json { line: error.line(), column: error.column() })?;
        let unknown = |group: &str, of: &str| ResourceGroupError::UnknownGroup { group: group.into(), of: of.into() };
        let mut groups: Vec<NodeGroup> = Vec::new();
        for Group { id } in relation.resource_groups {
            if !groups.iter().any(|group| group.id == id) {
                groups.push(NodeGroup { id, instances: Vec::new() });
            }
        }
        for Instance { instance, resource_group_id } in relation.instances {
            let group = groups.iter_mut().find(|group| group.id == resource_group_id);
            let group = group.ok_or_else(|| unknown(&resource_group_id, &instance))?;
            group.instances.push(instance.trim().to_ascii_lowercase());
        }
        let groups: Vec<Arc<NodeGroup>> = groups.into_iter().map(Arc::new).collect();
        let mut table: Vec<(String, RequestType, Arc<NodeGroup>)> = Vec::new();
        for Mapping { project, resource_group_id, request_type } in relation.mapping_info {
            let group = groups.iter().find(|group| group.id == resource_group_id);
            let group = Arc::clone(group.ok_or_else(|| unknown(&resource_group_id, &project))?);
            if table.iter().any(|(known, kind, _)| *kind == request_type && known.eq_ignore_ascii_case(&project)) {
                return Err(ResourceGroupError::TwoGroups { project });
            }
            table.push((project, request_type, group));
        }
        table.sort_by(|one, other| (&one.0, one.1).cmp(&(&other.0, other.1)));
        Ok(Table(if relation.resource_group_enabled { table } else { Vec::new() }))
    }
}

impl NodeGroup {
    /// Returns whether a node is in the group, by its id or its address.
    pub(crate) fn has(&self, id: &str, address: &str) -> bool {
        self.instances
            .iter()
            .any(|instance| instance.eq_ignore_ascii_case(address) || instance.eq_ignore_ascii_case(id))
    }
}

impl PartialEq for ResourceGroups {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || **self.0.read() == **other.0.read()
    }
}

/// Shows a line for each project.
impl fmt::Display for ResourceGroups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table = Arc::clone(&self.0.read());
        if table.0.is_empty() {
            return f.write_str("no project has a resource group");
        }
        for (index, (project, kind, group)) in table.0.iter().enumerate() {
            let line_end = if index == 0 { "" } else { "\n" };
            let kind = match kind {
                RequestType::Query => "queries",
                RequestType::Build => "builds",
            };
            let nodes = if group.instances.is_empty() { "no node".to_owned() } else { group.instances.join(", ") };
            write!(f, "{line_end}{project}: {kind} at {} ({nodes})", group.id)?;
        }
        Ok(())
    }
}

impl fmt::Debug for ResourceGroups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ResourceGroups").field(&*self.0.read()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kylin::class::Sql;

    fn relation(mapping: &str) -> String {
        format!(
            r#"{{"uuid":"x","resource_group_enabled":true,"resource_groups":[{{"id":"a","create_time":1}},{{"id":"b"}}],
            "instances":[{{"instance":"Q1:7070","resource_group_id":"a"}},{{"instance":"q2:7070","resource_group_id":"b"}}],
            "mapping_info":[{mapping}]}}"#
        )
    }

    #[test]
    fn a_project_has_a_group_for_queries_and_one_for_builds() {
        let groups = ResourceGroups::parse(&relation(
            r#"{"project":"P","resource_group_id":"a"},{"project":"p","resource_group_id":"b","request_type":"BUILD"}"#,
        ))
        .unwrap();
        let id = |class, project| groups.group_of(class, project).map(|group| group.id.clone());
        assert_eq!(id(RequestClass::Query(Sql::ReadOnly), "p"), Some("a".into()));
        assert_eq!(id(RequestClass::AsyncSubmit, "P"), Some("a".into()));
        assert_eq!(id(RequestClass::Job, "P"), Some("b".into()));
        assert_eq!(id(RequestClass::Read, "P"), None);
        assert_eq!(id(RequestClass::Query(Sql::ReadOnly), "other"), None);
        let group = groups.group_of(RequestClass::Job, "P").unwrap();
        assert!(group.has("n2", "Q2:7070") && group.has("q2:7070", "x") && !group.has("q1:7070", "q1:7070"));
        assert_eq!(groups.to_string(), "P: queries at a (q1:7070)\np: builds at b (q2:7070)");
        assert_eq!(groups.replace(&relation("")), Ok(true));
        assert_eq!(
            (groups.replace(&relation("")), groups.to_string()),
            (Ok(false), "no project has a resource group".into())
        );
    }

    #[test]
    fn what_kylin_would_refuse_is_an_error_and_changes_nothing() {
        let one = r#"{"project":"P","resource_group_id":"a"}"#;
        let groups = ResourceGroups::parse(&relation(one)).unwrap();
        for (text, message) in [
            (relation(&format!("{one},{}", one.replace("\"a\"", "\"b\""))), "project \"P\" has two resource groups"),
            (relation(&one.replace("\"a\"", "\"c\"")), "there is no resource group \"c\", which \"P\" names"),
            (relation(&one.replace("}", ",\"request_type\":\"X\"}")), "line 3, column"),
            ("[]".into(), "line 1, column"),
            (String::new(), "line 1, column 1"),
        ] {
            let error = groups.replace(&text).unwrap_err().to_string();
            assert!(error.contains(message), "{text}: {error}");
            assert_eq!(groups.to_string(), "P: queries at a (q1:7070)");
        }
        let off = ResourceGroups::parse(&relation(one).replace("true", "false")).unwrap();
        assert_eq!(off.group_of(RequestClass::AsyncSubmit, "P"), None);
        assert_eq!(ResourceGroups::parse("{}").unwrap(), off);
    }
}
