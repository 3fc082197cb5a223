//! The class of a request, and its consequences: whether it may be retried, which role must serve
//! it, and where its SQL is.
//!
//! The method alone does not determine the class. Each `PUT` of a build starts another build, most
//! `POST`s are queries that only read, and some `GET`s of Kylin 5 write.

mod common;
mod login;
mod routes;

pub(crate) use common::{is_in_all_versions, may_have_no_kylin};
pub(crate) use login::AUTHENTICATION;
pub(crate) use login::{SessionCall, needs_login};
pub(crate) use routes::classify;

use crate::kylin::node::role::Role;

/// The effect of the SQL in a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Sql {
    /// The SQL is unknown: it was not read yet, cannot be read, or is too long. The request is not
    /// retried once it was sent.
    Unknown,
    /// The SQL only reads: [`is_read_only`](super::query::is_read_only).
    ReadOnly,
    /// The SQL may write.
    Writes,
}

/// The class of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum RequestClass {
    /// `POST /query`.
    Query(Sql),
    /// `POST /query/prestate`: a query for the types of its columns. The node keeps no statement
    /// handle.
    Prepare(Sql),
    /// A query whose result is downloaded as a file. The node collects the whole result before it
    /// sends the first byte.
    Export(Sql),
    /// `POST /async_query`: starts a query whose result is fetched later. Each request starts
    /// another one.
    AsyncSubmit,
    /// Reads the status or the result of an asynchronous query. Any node of Kylin 5 can do this;
    /// for older KAP this is unverified.
    AsyncRead,
    /// Stops an asynchronous query or removes its result.
    AsyncStop,
    /// `PUT /query/{id}/stop` of 2.x-4.x. Only the node that runs the query can stop it, but every
    /// other node returns 200 too.
    Stop,
    /// `GET /query/runningQueries` of 2.x-4.x. Each node lists only its own queries.
    Running,
    /// `DELETE /query/{id}` of Kylin 5. The node tells all other nodes.
    Cancel,
    /// `GET` or `POST /user/authentication`, or the login form.
    Login,
    /// Ends a session.
    Logout,
    /// Reads metadata, which is the same on every node.
    Read,
    /// Changes metadata: models, cubes, projects, tables, users, saved queries.
    Write,
    /// Starts, stops or changes a job. Each repetition may start another job.
    Job,
    /// Reads the state of one node: its version, health, configuration or list of servers.
    AdminRead,
    /// Changes the system.
    AdminWrite,
    /// `PUT /admin/config` of 2.x-4.x: changes a property of the one node that receives it.
    NodeConfig,
    /// Reads something that only one node has: diagnosis packages and the Spark pages of Kylin 5.
    NodeBound,
    /// A call between nodes. Most of them need no login: [`Guard`](super::Guard).
    Internal,
    /// A file of the web interface.
    Page,
    /// Any other request.
    Unknown,
}

/// Whether a request may be sent to another node after a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum RetrySafety {
    /// The request changes nothing. It may be retried even if it was sent and no response came.
    Read,
    /// The request may be retried only if it was certainly not executed: not sent, or rejected
    /// before execution.
    Unexecuted,
    /// No other node can serve the request.
    Never,
    /// The request goes to every node once: [`fan_out`](super::fan_out).
    FanOut,
}

/// The location of the SQL of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum SqlLocation {
    /// The request has no SQL, or its SQL was read already.
    None,
    /// In the JSON body: [`QueryRequest::from_json`](super::query::QueryRequest::from_json).
    Json,
    /// In the query of the target or in the form body:
    /// [`QueryRequest::from_form`](super::query::QueryRequest::from_form).
    Form,
}

/// The properties of a class.
struct Row {
    name: &'static str,
    retry: RetrySafety,
    role: Option<Role>,
    writes: bool,
}

impl RequestClass {
    /// Returns the properties of the class.
    ///
    /// An export changes nothing, but is not retried once it was sent, because a node may have
    /// worked on it for minutes.
    const fn row(self) -> Row {
        use RetrySafety::{FanOut, Never, Read, Unexecuted};

        const QUERY: Option<Role> = Some(Role::Query);
        const JOB: Option<Role> = Some(Role::Job);
        const fn row(name: &'static str, retry: RetrySafety, role: Option<Role>, writes: bool) -> Row {
            Row { name, retry, role, writes }
        }
        match self {
            RequestClass::Query(Sql::ReadOnly) => row("query", Read, QUERY, false),
            RequestClass::Query(Sql::Writes) => row("query", Unexecuted, QUERY, true),
            RequestClass::Query(Sql::Unknown) => row("query", Unexecuted, QUERY, false),
            RequestClass::Prepare(Sql::ReadOnly) => row("prepare", Read, QUERY, false),
            RequestClass::Prepare(Sql::Unknown | Sql::Writes) => row("prepare", Unexecuted, QUERY, false),
            RequestClass::Export(Sql::Writes) => row("export", Unexecuted, QUERY, true),
            RequestClass::Export(Sql::Unknown | Sql::ReadOnly) => row("export", Unexecuted, QUERY, false),
            RequestClass::AsyncSubmit => row("async_submit", Unexecuted, QUERY, false),
            RequestClass::AsyncRead => row("async_read", Read, QUERY, false),
            RequestClass::AsyncStop => row("async_stop", Unexecuted, QUERY, false),
            RequestClass::Stop => row("stop", FanOut, QUERY, false),
            RequestClass::Running => row("running", FanOut, QUERY, false),
            RequestClass::Cancel => row("cancel", Read, QUERY, false),
            RequestClass::Login => row("login", Read, None, false),
            RequestClass::Logout => row("logout", Read, None, false),
            RequestClass::Read => row("read", Read, None, false),
            RequestClass::Write => row("write", Unexecuted, None, true),
            RequestClass::Job => row("job", Unexecuted, JOB, true),
            RequestClass::AdminRead => row("admin_read", Read, None, false),
            RequestClass::AdminWrite => row("admin_write", Unexecuted, None, true),
            RequestClass::NodeConfig => row("node_config", FanOut, None, true),
            RequestClass::NodeBound => row("node_bound", Never, None, false),
            RequestClass::Internal => row("internal", Never, None, false),
            RequestClass::Page => row("page", Read, None, false),
            RequestClass::Unknown => row("unknown", Unexecuted, None, false),
        }
    }

    /// Returns the class for the given effect of its SQL. A class without SQL does not change.
    pub(crate) fn with_sql(self, sql: Sql) -> Self {
        match self {
            RequestClass::Query(_) => RequestClass::Query(sql),
            RequestClass::Prepare(_) => RequestClass::Prepare(sql),
            RequestClass::Export(_) => RequestClass::Export(sql),
            other => other,
        }
    }

    /// Returns whether the request may be sent to another node after a failed attempt.
    pub(crate) fn retry_safety(self) -> RetrySafety {
        self.row().retry
    }

    /// Returns the role that the serving node should have, or `None` if any node is suitable.
    pub(crate) fn role(self) -> Option<Role> {
        self.row().role
    }

    /// Returns whether the node must have that [`role`](Self::role) even if no node has it.
    ///
    /// A node in mode `job` rejects queries. Any node accepts builds: 2.x-4.x queues them, Kylin 5
    /// forwards them.
    pub(crate) fn role_is_strict(self) -> bool {
        self.role() == Some(Role::Query)
    }

    /// Returns the location of the SQL that must be read before the class is final.
    pub(crate) fn sql_location(self) -> SqlLocation {
        match self {
            RequestClass::Query(Sql::Unknown) | RequestClass::Prepare(Sql::Unknown) => SqlLocation::Json,
            RequestClass::Export(Sql::Unknown) => SqlLocation::Form,
            RequestClass::Query(Sql::ReadOnly | Sql::Writes)
            | RequestClass::Prepare(Sql::ReadOnly | Sql::Writes)
            | RequestClass::Export(Sql::ReadOnly | Sql::Writes)
            | RequestClass::AsyncSubmit
            | RequestClass::AsyncRead
            | RequestClass::AsyncStop
            | RequestClass::Stop
            | RequestClass::Running
            | RequestClass::Cancel
            | RequestClass::Login
            | RequestClass::Logout
            | RequestClass::Read
            | RequestClass::Write
            | RequestClass::Job
            | RequestClass::AdminRead
            | RequestClass::AdminWrite
            | RequestClass::NodeConfig
            | RequestClass::NodeBound
            | RequestClass::Internal
            | RequestClass::Page
            | RequestClass::Unknown => SqlLocation::None,
        }
    }

    /// Returns whether the request may change what the same client reads next.
    ///
    /// Nodes learn of each other's changes seconds later, so the client should read from the same
    /// node for a while.
    pub(crate) fn is_write(self) -> bool {
        self.row().writes
    }

    /// Returns whether the request runs the query engine, which takes time and loads a node.
    pub(crate) fn is_query(self) -> bool {
        matches!(self, RequestClass::Query(_) | RequestClass::Prepare(_) | RequestClass::Export(_))
    }

    /// Returns a short name for logs and metrics.
    pub(crate) fn name(self) -> &'static str {
        self.row().name
    }

    /// Returns every class with every effect of its SQL.
    #[cfg(test)]
    pub(super) fn all() -> Vec<RequestClass> {
        let sqls = [Sql::Unknown, Sql::ReadOnly, Sql::Writes];
        let mut all: Vec<RequestClass> = sqls
            .iter()
            .flat_map(|&sql| [RequestClass::Query(sql), RequestClass::Prepare(sql), RequestClass::Export(sql)])
            .collect();
        all.extend([
            RequestClass::AsyncSubmit,
            RequestClass::AsyncRead,
            RequestClass::AsyncStop,
            RequestClass::Stop,
            RequestClass::Running,
            RequestClass::Cancel,
            RequestClass::Login,
            RequestClass::Logout,
            RequestClass::Read,
            RequestClass::Write,
            RequestClass::Job,
            RequestClass::AdminRead,
            RequestClass::AdminWrite,
            RequestClass::NodeConfig,
            RequestClass::NodeBound,
            RequestClass::Internal,
            RequestClass::Page,
            RequestClass::Unknown,
        ]);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sql_that_reads_is_retried_once_sent() {
        for class in
            [RequestClass::Query(Sql::Unknown), RequestClass::Query(Sql::Writes), RequestClass::Prepare(Sql::Unknown)]
        {
            assert_eq!(class.retry_safety(), RetrySafety::Unexecuted, "{class:?}");
        }
        assert!(RequestClass::Query(Sql::Writes).is_write() && !RequestClass::Query(Sql::Unknown).is_write());
        assert_eq!(RequestClass::Query(Sql::Unknown).with_sql(Sql::ReadOnly).retry_safety(), RetrySafety::Read);
        assert_eq!(RequestClass::Read.with_sql(Sql::Writes), RequestClass::Read);
    }

    #[test]
    fn no_write_is_retried_once_sent() {
        for class in RequestClass::all() {
            assert!(!(class.is_write() && class.retry_safety() == RetrySafety::Read), "{class:?}");
        }
    }

    #[test]
    fn sql_is_read_once() {
        for class in RequestClass::all() {
            assert_eq!(class.with_sql(Sql::ReadOnly).sql_location(), SqlLocation::None, "{class:?}");
            assert_eq!(class.with_sql(Sql::Unknown).sql_location() != SqlLocation::None, class.is_query(), "{class:?}");
        }
    }

    #[test]
    fn only_queries_require_their_role() {
        assert!(RequestClass::Query(Sql::Unknown).role_is_strict() && RequestClass::AsyncRead.role_is_strict());
        assert!(!RequestClass::Job.role_is_strict() && RequestClass::Job.role() == Some(Role::Job));
        assert!(!RequestClass::Write.role_is_strict() && RequestClass::Write.role().is_none());
    }
}
