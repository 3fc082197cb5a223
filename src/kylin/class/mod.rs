//! What a request is for, and what follows from that: whether it may be repeated, who must serve it, what has to be read
//! of it.
//!
//! The method does not say: a `PUT` submits a cube build each time it is sent, a `POST` mostly asks a question, and some
//! `GET`s of Kylin 5 change things.

mod routes;
mod v5;

pub use routes::classify;
pub use v5::is_local_in_v5;

use crate::endpoint::Role;

/// The two families of Kylin's HTTP interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Dialect {
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
pub enum Class {
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
pub enum Repeat {
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
pub enum Look {
    /// There is none.
    Nowhere,
    /// In the body, which is JSON: [`QueryRequest::from_json`](super::query::QueryRequest::from_json).
    Json,
    /// In the query of the target, or in a body that is a form:
    /// [`QueryRequest::from_form`](super::query::QueryRequest::from_form).
    Form,
}

impl Class {
    /// The class once the SQL was looked at. Classes without SQL stay what they are.
    pub fn with_sql(self, sql: Sql) -> Self {
        match self {
            Class::Query(_) => Class::Query(sql),
            Class::Prepare(_) => Class::Prepare(sql),
            Class::Export(_) => Class::Export(sql),
            other => other,
        }
    }

    /// When a request may be sent to another node.
    ///
    /// Exports are not repeated once sent although they change nothing: a node may have worked on one for minutes.
    pub fn repeat(self) -> Repeat {
        match self {
            Class::Query(Sql::ReadOnly) | Class::Prepare(Sql::ReadOnly) => Repeat::Read,
            Class::Query(_) | Class::Prepare(_) | Class::Export(_) => Repeat::Unexecuted,
            Class::AsyncRead
            | Class::Cancel
            | Class::Login
            | Class::Logout
            | Class::Read
            | Class::AdminRead
            | Class::Page => Repeat::Read,
            Class::AsyncSubmit | Class::AsyncStop | Class::Write | Class::Job | Class::AdminWrite | Class::Unknown => {
                Repeat::Unexecuted
            }
            Class::Stop | Class::Running | Class::NodeConfig => Repeat::FanOut,
            Class::NodeBound | Class::Internal => Repeat::Never,
        }
    }

    /// The role that a node should have to serve this; none where any may.
    pub fn role(self) -> Option<Role> {
        match self {
            Class::Query(_)
            | Class::Prepare(_)
            | Class::Export(_)
            | Class::AsyncSubmit
            | Class::AsyncRead
            | Class::AsyncStop
            | Class::Stop
            | Class::Running
            | Class::Cancel => Some(Role::Query),
            Class::Job => Some(Role::Job),
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
    pub fn look(self) -> Look {
        match self {
            Class::Query(Sql::Unread) | Class::Prepare(Sql::Unread) => Look::Json,
            Class::Export(Sql::Unread) => Look::Form,
            _ => Look::Nowhere,
        }
    }

    /// May it change what the same client reads next? Then it should be read from the same node for a while: nodes learn
    /// of changes from each other seconds later.
    pub fn is_write(self) -> bool {
        match self {
            Class::Query(sql) => sql != Sql::ReadOnly,
            Class::Export(sql) => sql == Sql::Writes,
            Class::Write | Class::Job | Class::AdminWrite | Class::NodeConfig => true,
            _ => false,
        }
    }

    /// Is it work for the query engine, the kind that takes long and fills a node?
    pub fn is_query(self) -> bool {
        matches!(self, Class::Query(_) | Class::Prepare(_) | Class::Export(_))
    }

    /// A short name, for logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Class::Query(_) => "query",
            Class::Prepare(_) => "prepare",
            Class::Export(_) => "export",
            Class::AsyncSubmit => "async_submit",
            Class::AsyncRead => "async_read",
            Class::AsyncStop => "async_stop",
            Class::Stop => "stop",
            Class::Running => "running",
            Class::Cancel => "cancel",
            Class::Login => "login",
            Class::Logout => "logout",
            Class::Read => "read",
            Class::Write => "write",
            Class::Job => "job",
            Class::AdminRead => "admin_read",
            Class::AdminWrite => "admin_write",
            Class::NodeConfig => "node_config",
            Class::NodeBound => "node_bound",
            Class::Internal => "internal",
            Class::Page => "page",
            Class::Unknown => "unknown",
        }
    }

    /// Every class, with each state of its SQL: for tables and tests.
    #[cfg(test)]
    pub(super) fn all() -> Vec<Class> {
        let sqls = [Sql::Unread, Sql::ReadOnly, Sql::Writes];
        let mut all: Vec<Class> =
            sqls.iter().flat_map(|&sql| [Class::Query(sql), Class::Prepare(sql), Class::Export(sql)]).collect();
        all.extend([
            Class::AsyncSubmit,
            Class::AsyncRead,
            Class::AsyncStop,
            Class::Stop,
            Class::Running,
            Class::Cancel,
            Class::Login,
            Class::Logout,
            Class::Read,
            Class::Write,
            Class::Job,
            Class::AdminRead,
            Class::AdminWrite,
            Class::NodeConfig,
            Class::NodeBound,
            Class::Internal,
            Class::Page,
            Class::Unknown,
        ]);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sql_that_was_not_read_is_a_write() {
        for class in [Class::Query(Sql::Unread), Class::Query(Sql::Writes), Class::Prepare(Sql::Unread)] {
            assert_eq!(class.repeat(), Repeat::Unexecuted, "{class:?}");
        }
        assert!(Class::Query(Sql::Unread).is_write());
        assert_eq!(Class::Query(Sql::Unread).with_sql(Sql::ReadOnly).repeat(), Repeat::Read);
        assert_eq!(Class::Read.with_sql(Sql::Writes), Class::Read);
    }

    #[test]
    fn nothing_that_writes_is_repeated_once_sent() {
        for class in Class::all() {
            assert!(!(class.is_write() && class.repeat() == Repeat::Read), "{class:?}");
        }
    }

    #[test]
    fn sql_is_looked_for_once() {
        for class in Class::all() {
            assert_eq!(class.with_sql(Sql::ReadOnly).look(), Look::Nowhere, "{class:?}");
            assert_eq!(class.with_sql(Sql::Unread).look() != Look::Nowhere, class.is_query(), "{class:?}");
        }
    }

    #[test]
    fn only_queries_must_have_their_role() {
        assert!(Class::Query(Sql::Unread).role_is_strict() && Class::AsyncRead.role_is_strict());
        assert!(!Class::Job.role_is_strict() && Class::Job.role() == Some(Role::Job));
        assert!(!Class::Write.role_is_strict() && Class::Write.role().is_none());
    }
}
