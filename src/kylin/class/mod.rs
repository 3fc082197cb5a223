//! What a request is for, and what follows from that: whether it may be repeated, who must serve it, what has to be read
//! of it.
//!
//! The method does not say: a `PUT` submits a cube build each time it is sent, a `POST` mostly asks a question, and some
//! `GET`s of Kylin 5 change things.

mod login;
mod routes;
mod v5;

pub(crate) use login::{AUTHENTICATION, SessionCall};
pub use routes::classify;
pub use v5::is_local_in_v5;

use crate::endpoint::Role;

/// The two families of Kylin's HTTP interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KylinVersion {
    /// Apache Kylin 2.x-4.x and KAP of that time.
    V4,
    /// Kylin 5 and Kyligence Enterprise 4.
    V5,
}

/// What is known of the SQL in a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Sql {
    /// It was not looked at, or could not be. It counts as a write.
    Unread,
    /// It changes nothing: [`is_read_only`](super::sql::is_read_only).
    ReadOnly,
    /// It may change something.
    Writes,
}

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RequestClass {
    /// `POST /query`.
    Query(Sql),
    /// `POST /query/prestate`: the same, and only the types are wanted. No handle stays on the node.
    Prepare(Sql),
    /// A query whose result is downloaded as a file. The node gathers all of it before the first byte.
    Export(Sql),
    /// `POST /async_query`: begins a query whose result is fetched later. Each makes a new one.
    AsyncSubmit,
    /// Status or result of such a query. In Kylin 5 any node knows them; whether in KAP before that is unverified.
    AsyncRead,
    /// Stops such a query or removes its result.
    AsyncStop,
    /// `PUT /query/{id}/stop` of 2.x-4.x. Only the node that runs the query can, and every other says 200 all the same.
    Stop,
    /// `GET /query/runningQueries` of 2.x-4.x: each node knows only its own.
    Running,
    /// `DELETE /query/{id}` of Kylin 5: the node tells all others.
    Cancel,
    /// `GET` or `POST /user/authentication`, or the login form.
    Login,
    /// Ends a session.
    Logout,
    /// Reads metadata, which is the same on every node.
    Read,
    /// Changes metadata: models, cubes, projects, tables, users, saved queries.
    Write,
    /// Begins, stops or changes a job: each repetition may begin another.
    Job,
    /// Reads the state of one node: its version, health, configuration, list of servers.
    AdminRead,
    /// Changes something of the system.
    AdminWrite,
    /// `PUT /admin/config` of 2.x-4.x: changes a property of the one node that gets it.
    NodeConfig,
    /// Something that only one node has: diagnosis packages and the Spark pages of Kylin 5.
    NodeBound,
    /// What nodes tell each other. Most of it asks for no login: [`Guard`](super::guard::Guard).
    Internal,
    /// A file of the web pages.
    Page,
    /// None of these.
    Unknown,
}

/// When a request of a class may be sent to another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RetrySafety {
    /// It changes nothing: also after it was sent and no answer came.
    Read,
    /// Only where it was certainly not carried out: not sent, or refused unexecuted.
    Unexecuted,
    /// Not even then: another node cannot serve it.
    Never,
    /// It goes to every node once: [`fan_out`](super::fan_out).
    FanOut,
}

/// Where the SQL of a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SqlLocation {
    /// There is none.
    Nowhere,
    /// In the body, which is JSON: [`QueryRequest::from_json`](super::query::QueryRequest::from_json).
    Json,
    /// In the query of the target, or in a body that is a form:
    /// [`QueryRequest::from_form`](super::query::QueryRequest::from_form).
    Form,
}

impl RequestClass {
    /// The class once the SQL was looked at. Classes without SQL stay what they are.
    pub fn with_sql(self, sql: Sql) -> Self {
        match self {
            RequestClass::Query(_) => RequestClass::Query(sql),
            RequestClass::Prepare(_) => RequestClass::Prepare(sql),
            RequestClass::Export(_) => RequestClass::Export(sql),
            other => other,
        }
    }

    /// When a request may be sent to another node.
    ///
    /// Exports are not repeated once sent although they change nothing: a node may have worked on one for minutes.
    pub fn repeat(self) -> RetrySafety {
        match self {
            RequestClass::Query(Sql::ReadOnly) | RequestClass::Prepare(Sql::ReadOnly) => RetrySafety::Read,
            RequestClass::Query(_) | RequestClass::Prepare(_) | RequestClass::Export(_) => RetrySafety::Unexecuted,
            RequestClass::AsyncRead
            | RequestClass::Cancel
            | RequestClass::Login
            | RequestClass::Logout
            | RequestClass::Read
            | RequestClass::AdminRead
            | RequestClass::Page => RetrySafety::Read,
            RequestClass::AsyncSubmit
            | RequestClass::AsyncStop
            | RequestClass::Write
            | RequestClass::Job
            | RequestClass::AdminWrite
            | RequestClass::Unknown => RetrySafety::Unexecuted,
            RequestClass::Stop | RequestClass::Running | RequestClass::NodeConfig => RetrySafety::FanOut,
            RequestClass::NodeBound | RequestClass::Internal => RetrySafety::Never,
        }
    }

    /// The role that a node should have to serve this; none where any may.
    pub fn role(self) -> Option<Role> {
        match self {
            RequestClass::Query(_)
            | RequestClass::Prepare(_)
            | RequestClass::Export(_)
            | RequestClass::AsyncSubmit
            | RequestClass::AsyncRead
            | RequestClass::AsyncStop
            | RequestClass::Stop
            | RequestClass::Running
            | RequestClass::Cancel => Some(Role::Query),
            RequestClass::Job => Some(Role::Job),
            _ => None,
        }
    }

    /// Must the node have that role, or would any other do when none has it?
    ///
    /// A node in mode `job` refuses queries. Any node takes builds: in 2.x-4.x it queues them, in 5 it sends them on.
    pub fn role_is_strict(self) -> bool {
        self.role() == Some(Role::Query)
    }

    /// Where SQL has to be looked for before the rules are final.
    pub fn look(self) -> SqlLocation {
        match self {
            RequestClass::Query(Sql::Unread) | RequestClass::Prepare(Sql::Unread) => SqlLocation::Json,
            RequestClass::Export(Sql::Unread) => SqlLocation::Form,
            _ => SqlLocation::Nowhere,
        }
    }

    /// May it change what the same client reads next? Then it should be read from the same node for a while: nodes learn
    /// of changes from each other seconds later.
    pub fn is_write(self) -> bool {
        match self {
            RequestClass::Query(sql) => sql != Sql::ReadOnly,
            RequestClass::Export(sql) => sql == Sql::Writes,
            RequestClass::Write | RequestClass::Job | RequestClass::AdminWrite | RequestClass::NodeConfig => true,
            _ => false,
        }
    }

    /// Is it work for the query engine, the kind that takes long and fills a node?
    pub fn is_query(self) -> bool {
        matches!(self, RequestClass::Query(_) | RequestClass::Prepare(_) | RequestClass::Export(_))
    }

    /// A short name, for logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            RequestClass::Query(_) => "query",
            RequestClass::Prepare(_) => "prepare",
            RequestClass::Export(_) => "export",
            RequestClass::AsyncSubmit => "async_submit",
            RequestClass::AsyncRead => "async_read",
            RequestClass::AsyncStop => "async_stop",
            RequestClass::Stop => "stop",
            RequestClass::Running => "running",
            RequestClass::Cancel => "cancel",
            RequestClass::Login => "login",
            RequestClass::Logout => "logout",
            RequestClass::Read => "read",
            RequestClass::Write => "write",
            RequestClass::Job => "job",
            RequestClass::AdminRead => "admin_read",
            RequestClass::AdminWrite => "admin_write",
            RequestClass::NodeConfig => "node_config",
            RequestClass::NodeBound => "node_bound",
            RequestClass::Internal => "internal",
            RequestClass::Page => "page",
            RequestClass::Unknown => "unknown",
        }
    }

    /// Every class, with each state of its SQL: for tables and tests.
    #[cfg(test)]
    pub(super) fn all() -> Vec<RequestClass> {
        let sqls = [Sql::Unread, Sql::ReadOnly, Sql::Writes];
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
    fn sql_that_was_not_read_is_a_write() {
        for class in
            [RequestClass::Query(Sql::Unread), RequestClass::Query(Sql::Writes), RequestClass::Prepare(Sql::Unread)]
        {
            assert_eq!(class.repeat(), RetrySafety::Unexecuted, "{class:?}");
        }
        assert!(RequestClass::Query(Sql::Unread).is_write());
        assert_eq!(RequestClass::Query(Sql::Unread).with_sql(Sql::ReadOnly).repeat(), RetrySafety::Read);
        assert_eq!(RequestClass::Read.with_sql(Sql::Writes), RequestClass::Read);
    }

    #[test]
    fn nothing_that_writes_is_repeated_once_sent() {
        for class in RequestClass::all() {
            assert!(!(class.is_write() && class.repeat() == RetrySafety::Read), "{class:?}");
        }
    }

    #[test]
    fn sql_is_looked_for_once() {
        for class in RequestClass::all() {
            assert_eq!(class.with_sql(Sql::ReadOnly).look(), SqlLocation::Nowhere, "{class:?}");
            assert_eq!(class.with_sql(Sql::Unread).look() != SqlLocation::Nowhere, class.is_query(), "{class:?}");
        }
    }

    #[test]
    fn only_queries_must_have_their_role() {
        assert!(RequestClass::Query(Sql::Unread).role_is_strict() && RequestClass::AsyncRead.role_is_strict());
        assert!(!RequestClass::Job.role_is_strict() && RequestClass::Job.role() == Some(Role::Job));
        assert!(!RequestClass::Write.role_is_strict() && RequestClass::Write.role().is_none());
    }
}
