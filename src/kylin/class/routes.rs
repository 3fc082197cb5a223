//! The paths of Kylin's interface, by method.
//!
//! Sources: apache/kylin 3.1.3 and 4.0.4 server-base/src/main/java/org/apache/kylin/rest/controller (QueryController,
//! JobController, CubeController, AdminController, CacheController, UserController), kylin5 QueryNodeFilter.java:80-262 and
//! NQueryController. What a path of the models of Kylin 5 is for, beyond that filter, is inferred from its documentation.

use http::Method;

use super::{Class, Dialect, Sql, v5};

/// Segments behind `cubes/{name}` that begin a job (3.1.3 CubeController.java:434-560).
const CUBE_JOBS: [&str; 9] = [
    "build",
    "build2",
    "rebuild",
    "rebuild2",
    "build_streaming",
    "rebuild_streaming",
    "optimize",
    "optimize2",
    "recover_segment_optimize",
];

/// Segments behind `models/{name}` that begin a job in Kylin 5. Inferred; a miss costs only the preference for a job node.
const MODEL_JOBS: [&str; 5] = ["segments", "indexes", "indices", "model_segments", "last_segments"];

/// The most segments that a rule looks at.
const DEPTH: usize = 4;

/// What a request to `path` is for. The path must be [normalised](super::super::path::normalise).
///
/// Without a `dialect` the rules of both hold, and where they differ the stricter one.
///
/// ```
/// use http::Method;
/// use kylin_lb::kylin::class::{Class, Repeat, Sql, classify};
///
/// assert_eq!(classify(&Method::POST, "/kylin/api/query", None), Class::Query(Sql::Unread));
/// let build = classify(&Method::PUT, "/kylin/api/cubes/sales/rebuild", None);
/// assert_eq!((build, build.repeat()), (Class::Job, Repeat::Unexecuted));
/// ```
pub fn classify(method: &Method, path: &str, dialect: Option<Dialect>) -> Class {
    let Some(inside) = path.strip_prefix("/kylin").filter(|rest| rest.is_empty() || rest.starts_with('/')) else {
        return Class::Unknown;
    };
    let kind = Kind::of(method);
    match inside.strip_prefix("/api").filter(|rest| rest.is_empty() || rest.starts_with('/')) {
        Some(rest) => api(kind, rest, dialect),
        None => page(kind, inside),
    }
}

/// What a method means by itself.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Get,
    Post,
    Put,
    Delete,
    Other,
}

impl Kind {
    fn of(method: &Method) -> Self {
        match *method {
            Method::GET | Method::HEAD | Method::OPTIONS => Kind::Get,
            Method::POST => Kind::Post,
            Method::PUT => Kind::Put,
            Method::DELETE => Kind::Delete,
            _ => Kind::Other,
        }
    }

    fn or_write(self, read: Class, write: Class) -> Class {
        match self {
            Kind::Get => read,
            Kind::Post | Kind::Put | Kind::Delete => write,
            Kind::Other => Class::Unknown,
        }
    }
}

/// Paths outside `/kylin/api`.
fn page(kind: Kind, inside: &str) -> Class {
    match inside.split('/').nth(1).unwrap_or_default() {
        "sparder" => Class::NodeBound,
        // 2.x-4.x kylinSecurity.xml:234-267.
        "j_spring_security_logout" | "logout" => Class::Logout,
        "login" if kind == Kind::Post => Class::Login,
        // The exchange of assertions is no page, and an assertion counts once.
        "saml" => Class::Unknown,
        _ if kind == Kind::Get => Class::Page,
        _ => Class::Unknown,
    }
}

/// Paths below `/kylin/api`.
fn api(kind: Kind, rest: &str, dialect: Option<Dialect>) -> Class {
    let (is_v4, is_v5) = (dialect != Some(Dialect::V5), dialect != Some(Dialect::V4));
    // Spring takes a path with a slash at its end for the one without.
    let mut all = rest.split('/').filter(|segment| !segment.is_empty());
    let mut segments = [""; DEPTH];
    let mut len = 0;
    for (slot, segment) in segments.iter_mut().zip(all.by_ref()) {
        *slot = segment;
        len += 1;
    }
    let longer = all.next().is_some();
    let segments = &segments[..len];
    if is_v5 && kind == Kind::Get && v5::is_routed_get(rest.trim_end_matches('/')) {
        return Class::Write;
    }
    match *segments {
        ["query", ref below @ ..] => query(kind, below, longer, is_v4, is_v5),
        ["async_query"] if kind == Kind::Post => Class::AsyncSubmit,
        ["async_query", ..] => match kind {
            Kind::Get => Class::AsyncRead,
            Kind::Delete => Class::AsyncStop,
            _ => Class::Write,
        },
        ["user", "authentication"] => match kind {
            Kind::Get | Kind::Post => Class::Login,
            Kind::Delete => Class::Logout,
            _ => Class::Unknown,
        },
        ["j_spring_security_logout"] => Class::Logout,
        ["user", "update_user"] | ["jobs", "spark"] | ["streaming_coordinator" | "broadcast" | "kg", ..] => {
            Class::Internal
        }
        ["epoch", "maintenance_mode"] if kind == Kind::Get => Class::AdminRead,
        ["epoch", ..] => Class::Internal,
        [first, ..] if first.starts_with("cache") => Class::Internal,
        _ if segments.contains(&"snapshotLocalCache") || (longer && rest.contains("/snapshotLocalCache")) => {
            Class::Internal
        }
        ["admin", "config"] if kind == Kind::Put && is_v4 => Class::NodeConfig,
        // Creating a diagnosis package may be asked of any node; what is made is only there.
        ["system", "diag"] if kind == Kind::Post => Class::AdminWrite,
        ["system", second, ..] if second.starts_with("diag") => Class::NodeBound,
        // 2.x-4.x make the package while they answer.
        ["diag", ..] => Class::Unknown,
        ["admin" | "system" | "service_discovery" | "monitor", ..] => {
            kind.or_write(Class::AdminRead, Class::AdminWrite)
        }
        ["health" | "prometheus" | "metrics"] => kind.or_write(Class::AdminRead, Class::Unknown),
        ["cubes", _, verb, ..] if CUBE_JOBS.contains(&verb) || verb == "segments" => {
            kind.or_write(Class::Read, Class::Job)
        }
        ["models", _, part, ..] if MODEL_JOBS.contains(&part) => kind.or_write(Class::Read, Class::Job),
        ["tables", "sampling_jobs"] | ["jobs" | "streaming_jobs" | "snapshots", ..] => {
            kind.or_write(Class::Read, Class::Job)
        }
        [] => kind.or_write(Class::Read, Class::Unknown),
        _ => kind.or_write(Class::Read, Class::Write),
    }
}

/// Paths below `/kylin/api/query`.
fn query(kind: Kind, below: &[&str], longer: bool, is_v4: bool, is_v5: bool) -> Class {
    match (kind, below) {
        (Kind::Post, []) => Class::Query(Sql::Unread),
        (Kind::Post, ["prestate"]) => Class::Prepare(Sql::Unread),
        (Kind::Get | Kind::Post, ["format", _]) if !longer => Class::Export(Sql::Unread),
        (Kind::Get, ["runningQueries"]) if is_v4 => Class::Running,
        (Kind::Put, [_, "stop"]) if is_v4 => Class::Stop,
        // Not a query in the list of those to be watched, but the same path.
        (Kind::Post | Kind::Delete, ["if_big_query"]) => Class::Unknown,
        (Kind::Delete, ["query_histories" | "history_queries" | "favorite_queries", ..]) => Class::Write,
        (Kind::Delete, [] | [_]) if is_v5 => Class::Cancel,
        _ => kind.or_write(Class::Read, Class::Write),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const READ: Sql = Sql::Unread;

    fn class(line: &str, dialect: Option<Dialect>) -> Class {
        let (method, path) = line.split_once(' ').unwrap();
        classify(&method.parse().unwrap(), path, dialect)
    }

    #[test]
    fn paths_of_both_dialects_have_their_class() {
        for (line, expected) in [
            ("POST /kylin/api/query", Class::Query(READ)),
            ("POST /kylin/api/query/", Class::Query(READ)),
            ("POST /kylin/api/query/prestate", Class::Prepare(READ)),
            ("GET /kylin/api/query/format/csv", Class::Export(READ)),
            ("POST /kylin/api/query/format/csv", Class::Export(READ)),
            ("GET /kylin/api/query/runningQueries", Class::Running),
            ("PUT /kylin/api/query/a-b-c/stop", Class::Stop),
            ("DELETE /kylin/api/query/stop-id", Class::Cancel),
            ("GET /kylin/api/query/history_queries", Class::Read),
            ("GET /kylin/api/query/favorite_queries", Class::Write),
            ("DELETE /kylin/api/query/history_queries", Class::Write),
            ("POST /kylin/api/saved_queries", Class::Write),
            ("GET /kylin/api/saved_queries/P", Class::Read),
            ("DELETE /kylin/api/saved_queries/1", Class::Write),
            ("GET /kylin/api/tables_and_columns", Class::Read),
            ("GET /kylin/api/projects", Class::Read),
            ("HEAD /kylin/api/projects", Class::Read),
            ("PUT /kylin/api/projects/p", Class::Write),
            ("PATCH /kylin/api/projects/p", Class::Unknown),
            ("GET /kylin/api/user/authentication", Class::Login),
            ("POST /kylin/api/user/authentication", Class::Login),
            ("PUT /kylin/api/user/password", Class::Write),
            ("POST /kylin/api/user/update_user", Class::Internal),
            ("GET /kylin/j_spring_security_logout", Class::Logout),
            ("POST /kylin/api/j_spring_security_logout", Class::Logout),
            ("POST /kylin/login", Class::Login),
            ("GET /kylin/login", Class::Page),
            ("POST /kylin/api/async_query", Class::AsyncSubmit),
            ("GET /kylin/api/async_query/1/status", Class::AsyncRead),
            ("GET /kylin/api/async_query/1/result_download", Class::AsyncRead),
            ("DELETE /kylin/api/async_query/stop/1", Class::AsyncStop),
            ("DELETE /kylin/api/async_query", Class::AsyncStop),
            ("GET /kylin/api/jobs", Class::Read),
            ("GET /kylin/api/jobs/1/steps/2/output", Class::Read),
            ("PUT /kylin/api/jobs/1/resume", Class::Job),
            ("DELETE /kylin/api/jobs/1/drop", Class::Job),
            ("PUT /kylin/api/jobs/spark", Class::Internal),
            ("PUT /kylin/api/cubes/c/build", Class::Job),
            ("PUT /kylin/api/cubes/c/rebuild2", Class::Job),
            ("PUT /kylin/api/cubes/c/disable", Class::Write),
            ("GET /kylin/api/cubes/c/segments", Class::Read),
            ("POST /kylin/api/models/m/segments", Class::Job),
            ("POST /kylin/api/models", Class::Write),
            ("GET /kylin/api/admin/config", Class::AdminRead),
            ("PUT /kylin/api/admin/config", Class::NodeConfig),
            ("GET /kylin/api/admin/version", Class::AdminRead),
            ("DELETE /kylin/api/admin/storage", Class::AdminWrite),
            ("GET /kylin/api/service_discovery/state/all", Class::AdminRead),
            ("GET /kylin/api/system/servers", Class::AdminRead),
            ("POST /kylin/api/system/maintenance_mode", Class::AdminWrite),
            ("POST /kylin/api/system/diag", Class::AdminWrite),
            ("GET /kylin/api/system/diag/status", Class::NodeBound),
            ("GET /kylin/api/diag/project/p/download", Class::Unknown),
            ("GET /kylin/api/health", Class::AdminRead),
            ("PUT /kylin/api/cache/cube/c/update", Class::Internal),
            ("PUT /kylin/api/cache_x/y", Class::Internal),
            ("POST /kylin/api/streaming_coordinator/x", Class::Internal),
            ("GET /kylin/api/tables/a/b/snapshotLocalCache/x", Class::Internal),
            ("GET /kylin/api/a/b/c/d/e/snapshotLocalCache/x", Class::Internal),
            ("GET /kylin/api/epoch/maintenance_mode", Class::AdminRead),
            ("POST /kylin/api/epoch", Class::Internal),
            ("GET /kylin/api/tables/reload_hive_table_name", Class::Write),
            ("GET /kylin/sparder/SQL/execution/", Class::NodeBound),
            ("GET /kylin", Class::Page),
            ("GET /kylin/", Class::Page),
            ("GET /kylin/js/app.js", Class::Page),
            ("POST /kylin/js/app.js", Class::Unknown),
            ("POST /kylin/saml/SSO", Class::Unknown),
            ("GET /kylin/api", Class::Read),
            ("GET /kylin/apix", Class::Page),
            ("GET /kylinx/api/query", Class::Unknown),
            ("GET /", Class::Unknown),
            ("POST /api/query", Class::Unknown),
            ("TRACE /kylin/api/query", Class::Unknown),
        ] {
            assert_eq!(class(line, None), expected, "{line}");
        }
    }

    #[test]
    fn a_known_dialect_lifts_the_other_ones_rules() {
        for (line, dialect, expected) in [
            ("GET /kylin/api/tables/reload_hive_table_name", Dialect::V4, Class::Read),
            ("DELETE /kylin/api/query/x", Dialect::V4, Class::Write),
            ("GET /kylin/api/query/runningQueries", Dialect::V5, Class::Read),
            ("PUT /kylin/api/query/x/stop", Dialect::V5, Class::Write),
            ("PUT /kylin/api/admin/config", Dialect::V5, Class::AdminWrite),
            ("POST /kylin/api/query", Dialect::V5, Class::Query(READ)),
        ] {
            assert_eq!(class(line, Some(dialect)), expected, "{line}");
        }
    }

    proptest! {
        #[test]
        fn no_method_but_get_reads_unless_it_is_known_to(
            method in "POST|PUT|DELETE|PATCH|LOCK",
            path in "/kylin/api(/(query|cubes|jobs|x|models|build|admin|tables|format|1)){0,6}/?",
        ) {
            let class = classify(&method.parse().unwrap(), &path, None);
            let reads = class.repeat() == super::super::Repeat::Read;
            prop_assert!(!reads || class == Class::Cancel, "{method} {path}: {class:?}");
        }

        #[test]
        fn a_slash_at_the_end_changes_nothing(path in "/kylin/api(/(query|cubes|jobs|cache|diag|system|x|stop)){1,6}") {
            for method in [Method::GET, Method::POST, Method::PUT, Method::DELETE] {
                prop_assert_eq!(classify(&method, &path, None), classify(&method, &format!("{path}/"), None));
            }
        }
    }
}
