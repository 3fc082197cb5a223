//! Knowledge of Apache Kylin and Kyligence (KAP): which requests may be retried, what responses
//! mean, which SQL only reads, and the contents of Kylin's configuration files.
//!
//! Everything here is a pure function or a value. No item does I/O or depends on a cluster.
//!
//! | module | question |
//! |---|---|
//! | [`NormalizedPath`] | Which path does the node see? |
//! | `class` | What does a request do, may it be retried, which role serves it, does it need a login? |
//! | `query` | Does the SQL only read, and under which keys is the query placed? |
//! | `response`, `retry` | What does a response mean, and may another node be asked? |
//! | `fan_out` | Does a request go to every node, and how are the responses merged? |
//! | [`Guard`] | Which paths are closed to clients? |
//! | [`properties`], [`MetadataUrl`], [`tomcat`] | What do Kylin's files say about the cluster and its sessions? |
//! | [`ResourceGroups`] | Which nodes of Kylin 5 serve a project? |
//! | `node` | What does a node report about its roles, its cluster and its metastore? |
//!
//! Each source of a fact is a file of <https://github.com/apache/kylin> at the tag or branch named.
//! Facts that were inferred, not read, are marked as inferred.

pub(crate) mod class;
pub(crate) mod fan_out;
mod guard;
pub(crate) mod node;
pub(crate) mod path;
pub mod properties;
pub(crate) mod query;
pub(crate) mod resource_groups;
pub(crate) mod response;
pub(crate) mod retry;
pub mod tomcat;
mod version;

pub use guard::{Guard, InvalidPattern};

pub use node::metadata_url::MetadataUrl;
pub use path::{AmbiguousPath, NormalizedPath};
pub use resource_groups::{ResourceGroupError, ResourceGroups};
pub use version::KylinVersion;

pub(crate) use guard::{ClosedPaths, ROUTED, strip_internal_headers};
