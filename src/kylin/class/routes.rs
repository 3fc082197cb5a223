//! The paths of Kylin's REST interface, by method.
//!
//! Sources: apache/kylin 3.1.3 and 4.0.4 server-base/src/main/java/org/apache/kylin/rest/controller
//! (QueryController, JobController, CubeController, AdminController, CacheController,
//! UserController), kylin5 QueryNodeFilter.java:80-262 and NQueryController. Beyond that filter,
//! the meaning of Kylin 5's model paths is inferred from its documentation.

use http::Method;

use super::{RequestClass, SessionCall, Sql};
use crate::kylin::KylinVersion;
use crate::kylin::path::NormalizedPath;

/// Segments after `cubes/{name}` that start a job (3.1.3 CubeController.java:434-560).
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

/// Segments after `models/{name}` that start a job in Kylin 5. They are inferred; a missing one
/// costs only the preference for a job node.
const MODEL_JOBS: [&str; 5] = ["segments", "indexes", "indices", "model_segments", "last_segments"];

/// `GET` paths of Kylin 5 that write: a query node forwards them to a node that may write (kylin5
/// QueryNodeFilter.java, `routeGetApiSet`).
const V5_WRITING_GETS: [&str; 5] = [
    "/tables/reload_hive_table_name",
    "/tables/project_table_names",
    "/query/favorite_queries",
    "/storage/table/sync",
    "/kafka/parsers",
];

/// The number of segments that the rules read.
const MAX_SEGMENTS: usize = 4;

/// Classifies a request by its method and its path.
///
/// Without a `version`, the rules of both versions apply, and the stricter rule if they differ.
pub(crate) fn classify(method: &Method, path: &NormalizedPath<'_>, version: Option<KylinVersion>) -> RequestClass {
    match SessionCall::of(method, path) {
        SessionCall::Login | SessionCall::LoginForm | SessionCall::WhoAmI => return RequestClass::Login,
        SessionCall::Logout => return RequestClass::Logout,
        SessionCall::Other => {}
    }
    let Some(below) = strip_segments(path.as_str(), "/kylin") else { return RequestClass::Unknown };
    let verb = Verb::of(method);
    match strip_segments(below, "/api") {
        Some(rest) => api(verb, rest, version),
        None => page(verb, below),
    }
}

/// Returns the rest of `path` after the segments of `prefix`.
fn strip_segments<'p>(path: &'p str, prefix: &str) -> Option<&'p str> {
    path.strip_prefix(prefix).filter(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The meaning of a method alone.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verb {
    Get,
    Post,
    Put,
    Delete,
    Other,
}

impl Verb {
    fn of(method: &Method) -> Self {
        match *method {
            Method::GET | Method::HEAD | Method::OPTIONS => Verb::Get,
            Method::POST => Verb::Post,
            Method::PUT => Verb::Put,
            Method::DELETE => Verb::Delete,
            _ => Verb::Other,
        }
    }

    fn or_write(self, read: RequestClass, write: RequestClass) -> RequestClass {
        match self {
            Verb::Get => read,
            Verb::Post | Verb::Put | Verb::Delete => write,
            Verb::Other => RequestClass::Unknown,
        }
    }
}

/// Classifies a path outside of `/kylin/api`.
fn page(verb: Verb, below: &str) -> RequestClass {
    match below.split('/').nth(1).unwrap_or_default() {
        "sparder" => RequestClass::NodeBound,
        // An exchange of assertions is not a page, because an assertion can be used only once.
        "saml" => RequestClass::Unknown,
        _ if verb == Verb::Get => RequestClass::Page,
        _ => RequestClass::Unknown,
    }
}

/// Classifies a path below `/kylin/api`.
fn api(verb: Verb, rest: &str, version: Option<KylinVersion>) -> RequestClass {
    let (may_be_v4, may_be_v5) = (version != Some(KylinVersion::V5), version != Some(KylinVersion::V4));
    // Spring treats a path with a trailing slash like the path without it.
    let mut all = rest.split('/').filter(|segment| !segment.is_empty());
    let mut segments = [""; MAX_SEGMENTS];
    let mut len = 0;
    for (slot, segment) in segments.iter_mut().zip(all.by_ref()) {
        *slot = segment;
        len += 1;
    }
    let is_longer = all.next().is_some();
    let segments = &segments[..len];
    if may_be_v5 && verb == Verb::Get && V5_WRITING_GETS.contains(&rest.trim_end_matches('/')) {
        return RequestClass::Write;
    }
    match *segments {
        ["query", ref below @ ..] => query(verb, below, is_longer, may_be_v4, may_be_v5),
        ["async_query"] if verb == Verb::Post => RequestClass::AsyncSubmit,
        ["async_query", ..] => match verb {
            Verb::Get => RequestClass::AsyncRead,
            Verb::Delete => RequestClass::AsyncStop,
            _ => RequestClass::Write,
        },
        ["user", "authentication"] => verb.or_write(RequestClass::Read, RequestClass::Unknown),
        ["user", "update_user"] | ["jobs", "spark"] | ["streaming_coordinator" | "broadcast" | "kg", ..] => {
            RequestClass::Internal
        }
        ["epoch", "maintenance_mode"] if verb == Verb::Get => RequestClass::AdminRead,
        ["epoch", ..] => RequestClass::Internal,
        [first, ..] if first.starts_with("cache") => RequestClass::Internal,
        _ if segments.contains(&"snapshotLocalCache") || (is_longer && rest.contains("/snapshotLocalCache")) => {
            RequestClass::Internal
        }
        ["admin", "config"] if verb == Verb::Put && may_be_v4 => RequestClass::NodeConfig,
        // Any node can create a diagnosis package, but only that node has it.
        ["system", "diag"] if verb == Verb::Post => RequestClass::AdminWrite,
        ["system", second, ..] if second.starts_with("diag") => RequestClass::NodeBound,
        // 2.x-4.x create the package while they respond.
        ["diag", ..] => RequestClass::Unknown,
        ["admin" | "system" | "service_discovery" | "monitor", ..] => {
            verb.or_write(RequestClass::AdminRead, RequestClass::AdminWrite)
        }
        ["health" | "prometheus" | "metrics"] => verb.or_write(RequestClass::AdminRead, RequestClass::Unknown),
        ["cubes", _, action, ..] if CUBE_JOBS.contains(&action) || action == "segments" => {
            verb.or_write(RequestClass::Read, RequestClass::Job)
        }
        ["models", _, part, ..] if MODEL_JOBS.contains(&part) => verb.or_write(RequestClass::Read, RequestClass::Job),
        ["tables", "sampling_jobs"] | ["jobs" | "streaming_jobs" | "snapshots", ..] => {
            verb.or_write(RequestClass::Read, RequestClass::Job)
        }
        [] => verb.or_write(RequestClass::Read, RequestClass::Unknown),
        _ => verb.or_write(RequestClass::Read, RequestClass::Write),
    }
}

/// Classifies a path below `/kylin/api/query`.
fn query(verb: Verb, below: &[&str], is_longer: bool, may_be_v4: bool, may_be_v5: bool) -> RequestClass {
    match (verb, below) {
        (Verb::Post, []) => RequestClass::Query(Sql::Unknown),
        (Verb::Post, ["prestate"]) => RequestClass::Prepare(Sql::Unknown),
        (Verb::Get | Verb::Post, ["format", _]) if !is_longer => RequestClass::Export(Sql::Unknown),
        (Verb::Get, ["runningQueries"]) if may_be_v4 => RequestClass::Running,
        (Verb::Put, [_, "stop"]) if may_be_v4 => RequestClass::Stop,
        // This segment is a call, not the id of a query.
        (Verb::Post | Verb::Delete, ["if_big_query"]) => RequestClass::Unknown,
        (Verb::Delete, ["query_histories" | "history_queries" | "favorite_queries", ..]) => RequestClass::Write,
        (Verb::Delete, [] | [_]) if may_be_v5 => RequestClass::Cancel,
        _ => verb.or_write(RequestClass::Read, RequestClass::Write),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::RetrySafety;
    use super::*;

    const UNKNOWN: Sql = Sql::Unknown;

    fn normal(path: &str) -> NormalizedPath<'_> {
        NormalizedPath::parse(path).unwrap()
    }

    fn class(line: &str, version: Option<KylinVersion>) -> RequestClass {
        let (method, path) = line.split_once(' ').unwrap();
        classify(&method.parse().unwrap(), &normal(path), version)
    }

    #[test]
    fn paths_of_both_versions_have_their_class() {
        for (line, expected) in [
            ("POST /kylin/api/query", RequestClass::Query(UNKNOWN)),
            ("POST /kylin/api/query/", RequestClass::Query(UNKNOWN)),
            ("POST /kylin/api/query/prestate", RequestClass::Prepare(UNKNOWN)),
            ("GET /kylin/api/query/format/csv", RequestClass::Export(UNKNOWN)),
            ("POST /kylin/api/query/format/csv", RequestClass::Export(UNKNOWN)),
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
    fn a_known_version_lifts_the_rules_of_the_other_version() {
        for (line, version, expected) in [
            ("GET /kylin/api/tables/reload_hive_table_name", KylinVersion::V4, RequestClass::Read),
            ("DELETE /kylin/api/query/x", KylinVersion::V4, RequestClass::Write),
            ("GET /kylin/api/query/runningQueries", KylinVersion::V5, RequestClass::Read),
            ("PUT /kylin/api/query/x/stop", KylinVersion::V5, RequestClass::Write),
            ("PUT /kylin/api/admin/config", KylinVersion::V5, RequestClass::AdminWrite),
            ("POST /kylin/api/query", KylinVersion::V5, RequestClass::Query(UNKNOWN)),
        ] {
            assert_eq!(class(line, Some(version)), expected, "{line}");
        }
    }

    #[test]
    fn writing_gets_of_kylin_5_are_not_retried_once_sent() {
        for path in V5_WRITING_GETS {
            let class = classify(&Method::GET, &normal(&format!("/kylin/api{path}")), None);
            assert_eq!((class, class.retry_safety()), (RequestClass::Write, RetrySafety::Unexecuted), "{path}");
            assert_eq!(
                classify(&Method::GET, &normal(&format!("/kylin/api{path}/")), None),
                RequestClass::Write,
                "{path}"
            );
        }
    }

    proptest! {
        #[test]
        fn methods_other_than_get_write_unless_known_to_read(
            method in "POST|PUT|DELETE|PATCH|LOCK",
            path in "/kylin/api(/(query|cubes|jobs|x|models|build|admin|tables|format|1)){0,6}/?",
        ) {
            let class = classify(&method.parse().unwrap(), &normal(&path), None);
            let reads = class.retry_safety() == RetrySafety::Read;
            prop_assert!(!reads || class == RequestClass::Cancel, "{method} {path}: {class:?}");
        }

        #[test]
        fn a_trailing_slash_changes_nothing(path in "/kylin/api(/(query|cubes|jobs|cache|diag|system|x|stop)){1,6}") {
            for method in [Method::GET, Method::POST, Method::PUT, Method::DELETE] {
                prop_assert_eq!(classify(&method, &normal(&path), None), classify(&method, &normal(&format!("{path}/")), None));
            }
        }
    }
}
