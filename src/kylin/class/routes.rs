//! The paths of Kylin's interface, by method.
//!
//! Sources: apache/kylin 3.1.3 and 4.0.4 server-base/src/main/java/org/apache/kylin/rest/controller (QueryController,
//! JobController, CubeController, AdminController, CacheController, UserController), kylin5 QueryNodeFilter.java:80-262 and
//! NQueryController. What a path of the models of Kylin 5 is for, beyond that filter, is inferred from its documentation.

use http::Method;

use super::{KylinVersion, RequestClass, Sql, v5};

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
/// Without a `version` the rules of both hold, and where they differ the stricter one.
///
/// ```
/// use http::Method;
/// use kylin_lb::kylin::class::{RequestClass, RetrySafety, Sql, classify};
///
/// assert_eq!(classify(&Method::POST, "/kylin/api/query", None), RequestClass::Query(Sql::Unread));
/// let build = classify(&Method::PUT, "/kylin/api/cubes/sales/rebuild", None);
/// assert_eq!((build, build.repeat()), (RequestClass::Job, RetrySafety::Unexecuted));
/// ```
pub fn classify(method: &Method, path: &str, version: Option<KylinVersion>) -> RequestClass {
    let Some(inside) = path.strip_prefix("/kylin").filter(|rest| rest.is_empty() || rest.starts_with('/')) else {
        return RequestClass::Unknown;
    };
    let kind = Kind::of(method);
    match inside.strip_prefix("/api").filter(|rest| rest.is_empty() || rest.starts_with('/')) {
        Some(rest) => api(kind, rest, version),
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

    fn or_write(self, read: RequestClass, write: RequestClass) -> RequestClass {
        match self {
            Kind::Get => read,
            Kind::Post | Kind::Put | Kind::Delete => write,
            Kind::Other => RequestClass::Unknown,
        }
    }
}

/// Paths outside `/kylin/api`.
fn page(kind: Kind, inside: &str) -> RequestClass {
    match inside.split('/').nth(1).unwrap_or_default() {
        "sparder" => RequestClass::NodeBound,
        // 2.x-4.x kylinSecurity.xml:234-267.
        "j_spring_security_logout" | "logout" => RequestClass::Logout,
        "login" if kind == Kind::Post => RequestClass::Login,
        // The exchange of assertions is no page, and an assertion counts once.
        "saml" => RequestClass::Unknown,
        _ if kind == Kind::Get => RequestClass::Page,
        _ => RequestClass::Unknown,
    }
}

/// Paths below `/kylin/api`.
fn api(kind: Kind, rest: &str, version: Option<KylinVersion>) -> RequestClass {
    let (is_v4, is_v5) = (version != Some(KylinVersion::V5), version != Some(KylinVersion::V4));
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
        return RequestClass::Write;
    }
    match *segments {
        ["query", ref below @ ..] => query(kind, below, longer, is_v4, is_v5),
        ["async_query"] if kind == Kind::Post => RequestClass::AsyncSubmit,
        ["async_query", ..] => match kind {
            Kind::Get => RequestClass::AsyncRead,
            Kind::Delete => RequestClass::AsyncStop,
            _ => RequestClass::Write,
        },
        ["user", "authentication"] => match kind {
            Kind::Get | Kind::Post => RequestClass::Login,
            Kind::Delete => RequestClass::Logout,
            _ => RequestClass::Unknown,
        },
        ["j_spring_security_logout"] => RequestClass::Logout,
        ["user", "update_user"] | ["jobs", "spark"] | ["streaming_coordinator" | "broadcast" | "kg", ..] => {
            RequestClass::Internal
        }
        ["epoch", "maintenance_mode"] if kind == Kind::Get => RequestClass::AdminRead,
        ["epoch", ..] => RequestClass::Internal,
        [first, ..] if first.starts_with("cache") => RequestClass::Internal,
        _ if segments.contains(&"snapshotLocalCache") || (longer && rest.contains("/snapshotLocalCache")) => {
            RequestClass::Internal
        }
        ["admin", "config"] if kind == Kind::Put && is_v4 => RequestClass::NodeConfig,
        // Creating a diagnosis package may be asked of any node; what is made is only there.
        ["system", "diag"] if kind == Kind::Post => RequestClass::AdminWrite,
        ["system", second, ..] if second.starts_with("diag") => RequestClass::NodeBound,
        // 2.x-4.x make the package while they answer.
        ["diag", ..] => RequestClass::Unknown,
        ["admin" | "system" | "service_discovery" | "monitor", ..] => {
            kind.or_write(RequestClass::AdminRead, RequestClass::AdminWrite)
        }
        ["health" | "prometheus" | "metrics"] => kind.or_write(RequestClass::AdminRead, RequestClass::Unknown),
        ["cubes", _, verb, ..] if CUBE_JOBS.contains(&verb) || verb == "segments" => {
            kind.or_write(RequestClass::Read, RequestClass::Job)
        }
        ["models", _, part, ..] if MODEL_JOBS.contains(&part) => kind.or_write(RequestClass::Read, RequestClass::Job),
        ["tables", "sampling_jobs"] | ["jobs" | "streaming_jobs" | "snapshots", ..] => {
            kind.or_write(RequestClass::Read, RequestClass::Job)
        }
        [] => kind.or_write(RequestClass::Read, RequestClass::Unknown),
        _ => kind.or_write(RequestClass::Read, RequestClass::Write),
    }
}

/// Paths below `/kylin/api/query`.
fn query(kind: Kind, below: &[&str], longer: bool, is_v4: bool, is_v5: bool) -> RequestClass {
    match (kind, below) {
        (Kind::Post, []) => RequestClass::Query(Sql::Unread),
        (Kind::Post, ["prestate"]) => RequestClass::Prepare(Sql::Unread),
        (Kind::Get | Kind::Post, ["format", _]) if !longer => RequestClass::Export(Sql::Unread),
        (Kind::Get, ["runningQueries"]) if is_v4 => RequestClass::Running,
        (Kind::Put, [_, "stop"]) if is_v4 => RequestClass::Stop,
        // Not a query in the list of those to be watched, but the same path.
        (Kind::Post | Kind::Delete, ["if_big_query"]) => RequestClass::Unknown,
        (Kind::Delete, ["query_histories" | "history_queries" | "favorite_queries", ..]) => RequestClass::Write,
        (Kind::Delete, [] | [_]) if is_v5 => RequestClass::Cancel,
        _ => kind.or_write(RequestClass::Read, RequestClass::Write),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const READ: Sql = Sql::Unread;

    fn class(line: &str, version: Option<KylinVersion>) -> RequestClass {
        let (method, path) = line.split_once(' ').unwrap();
        classify(&method.parse().unwrap(), path, version)
    }

    #[test]
    fn paths_of_both_dialects_have_their_class() {
        for (line, expected) in [
            ("POST /kylin/api/query", RequestClass::Query(READ)),
            ("POST /kylin/api/query/", RequestClass::Query(READ)),
            ("POST /kylin/api/query/prestate", RequestClass::Prepare(READ)),
            ("GET /kylin/api/query/format/csv", RequestClass::Export(READ)),
            ("POST /kylin/api/query/format/csv", RequestClass::Export(READ)),
            ("GET /kylin/api/query/runningQueries", RequestClass::Running),
            ("PUT /kylin/api/query/a-b-c/stop", RequestClass::Stop),
            ("DELETE /kylin/api/query/stop-id", RequestClass::Cancel),
            ("GET /kylin/api/query/history_queries", RequestClass::Read),
            ("GET /kylin/api/query/favorite_queries", RequestClass::Write),
            ("DELETE /kylin/api/query/history_queries", RequestClass::Write),
            ("POST /kylin/api/saved_queries", RequestClass::Write),
            ("GET /kylin/api/saved_queries/P", RequestClass::Read),
            ("DELETE /kylin/api/saved_queries/1", RequestClass::Write),
            ("GET /kylin/api/tables_and_columns", RequestClass::Read),
            ("GET /kylin/api/projects", RequestClass::Read),
            ("HEAD /kylin/api/projects", RequestClass::Read),
            ("PUT /kylin/api/projects/p", RequestClass::Write),
            ("PATCH /kylin/api/projects/p", RequestClass::Unknown),
            ("GET /kylin/api/user/authentication", RequestClass::Login),
            ("POST /kylin/api/user/authentication", RequestClass::Login),
            ("PUT /kylin/api/user/password", RequestClass::Write),
            ("POST /kylin/api/user/update_user", RequestClass::Internal),
            ("GET /kylin/j_spring_security_logout", RequestClass::Logout),
            ("POST /kylin/api/j_spring_security_logout", RequestClass::Logout),
            ("POST /kylin/login", RequestClass::Login),
            ("GET /kylin/login", RequestClass::Page),
            ("POST /kylin/api/async_query", RequestClass::AsyncSubmit),
            ("GET /kylin/api/async_query/1/status", RequestClass::AsyncRead),
            ("GET /kylin/api/async_query/1/result_download", RequestClass::AsyncRead),
            ("DELETE /kylin/api/async_query/stop/1", RequestClass::AsyncStop),
            ("DELETE /kylin/api/async_query", RequestClass::AsyncStop),
            ("GET /kylin/api/jobs", RequestClass::Read),
            ("GET /kylin/api/jobs/1/steps/2/output", RequestClass::Read),
            ("PUT /kylin/api/jobs/1/resume", RequestClass::Job),
            ("DELETE /kylin/api/jobs/1/drop", RequestClass::Job),
            ("PUT /kylin/api/jobs/spark", RequestClass::Internal),
            ("PUT /kylin/api/cubes/c/build", RequestClass::Job),
            ("PUT /kylin/api/cubes/c/rebuild2", RequestClass::Job),
            ("PUT /kylin/api/cubes/c/disable", RequestClass::Write),
            ("GET /kylin/api/cubes/c/segments", RequestClass::Read),
            ("POST /kylin/api/models/m/segments", RequestClass::Job),
            ("POST /kylin/api/models", RequestClass::Write),
            ("GET /kylin/api/admin/config", RequestClass::AdminRead),
            ("PUT /kylin/api/admin/config", RequestClass::NodeConfig),
            ("GET /kylin/api/admin/version", RequestClass::AdminRead),
            ("DELETE /kylin/api/admin/storage", RequestClass::AdminWrite),
            ("GET /kylin/api/service_discovery/state/all", RequestClass::AdminRead),
            ("GET /kylin/api/system/servers", RequestClass::AdminRead),
            ("POST /kylin/api/system/maintenance_mode", RequestClass::AdminWrite),
            ("POST /kylin/api/system/diag", RequestClass::AdminWrite),
            ("GET /kylin/api/system/diag/status", RequestClass::NodeBound),
            ("GET /kylin/api/diag/project/p/download", RequestClass::Unknown),
            ("GET /kylin/api/health", RequestClass::AdminRead),
            ("PUT /kylin/api/cache/cube/c/update", RequestClass::Internal),
            ("PUT /kylin/api/cache_x/y", RequestClass::Internal),
            ("POST /kylin/api/streaming_coordinator/x", RequestClass::Internal),
            ("GET /kylin/api/tables/a/b/snapshotLocalCache/x", RequestClass::Internal),
            ("GET /kylin/api/a/b/c/d/e/snapshotLocalCache/x", RequestClass::Internal),
            ("GET /kylin/api/epoch/maintenance_mode", RequestClass::AdminRead),
            ("POST /kylin/api/epoch", RequestClass::Internal),
            ("GET /kylin/api/tables/reload_hive_table_name", RequestClass::Write),
            ("GET /kylin/sparder/SQL/execution/", RequestClass::NodeBound),
            ("GET /kylin", RequestClass::Page),
            ("GET /kylin/", RequestClass::Page),
            ("GET /kylin/js/app.js", RequestClass::Page),
            ("POST /kylin/js/app.js", RequestClass::Unknown),
            ("POST /kylin/saml/SSO", RequestClass::Unknown),
            ("GET /kylin/api", RequestClass::Read),
            ("GET /kylin/apix", RequestClass::Page),
            ("GET /kylinx/api/query", RequestClass::Unknown),
            ("GET /", RequestClass::Unknown),
            ("POST /api/query", RequestClass::Unknown),
            ("TRACE /kylin/api/query", RequestClass::Unknown),
        ] {
            assert_eq!(class(line, None), expected, "{line}");
        }
    }

    #[test]
    fn a_known_dialect_lifts_the_other_ones_rules() {
        for (line, version, expected) in [
            ("GET /kylin/api/tables/reload_hive_table_name", KylinVersion::V4, RequestClass::Read),
            ("DELETE /kylin/api/query/x", KylinVersion::V4, RequestClass::Write),
            ("GET /kylin/api/query/runningQueries", KylinVersion::V5, RequestClass::Read),
            ("PUT /kylin/api/query/x/stop", KylinVersion::V5, RequestClass::Write),
            ("PUT /kylin/api/admin/config", KylinVersion::V5, RequestClass::AdminWrite),
            ("POST /kylin/api/query", KylinVersion::V5, RequestClass::Query(READ)),
        ] {
            assert_eq!(class(line, Some(version)), expected, "{line}");
        }
    }

    proptest! {
        #[test]
        fn no_method_but_get_reads_unless_it_is_known_to(
            method in "POST|PUT|DELETE|PATCH|LOCK",
            path in "/kylin/api(/(query|cubes|jobs|x|models|build|admin|tables|format|1)){0,6}/?",
        ) {
            let class = classify(&method.parse().unwrap(), &path, None);
            let reads = class.repeat() == super::super::RetrySafety::Read;
            prop_assert!(!reads || class == RequestClass::Cancel, "{method} {path}: {class:?}");
        }

        #[test]
        fn a_slash_at_the_end_changes_nothing(path in "/kylin/api(/(query|cubes|jobs|cache|diag|system|x|stop)){1,6}") {
            for method in [Method::GET, Method::POST, Method::PUT, Method::DELETE] {
                prop_assert_eq!(classify(&method, &path, None), classify(&method, &format!("{path}/"), None));
            }
        }
    }
}
