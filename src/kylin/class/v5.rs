//! Which requests a query node of Kylin 5 serves itself. All others it sends on to a node that may write.
//!
//! Source: kylin5 QueryNodeFilter.java, the sets `routeGetApiSet`, `notRoutePostApiSet`, `notRoutePutApiSet` and
//! `notRouteDeleteApiSet`. They grew over the releases; what a release lacks it sends on or answers with 404.

use http::Method;

/// `GET`s that are sent on, because they change something.
const ROUTED_GETS: [&str; 5] = [
    "/tables/reload_hive_table_name",
    "/tables/project_table_names",
    "/query/favorite_queries",
    "/storage/table/sync",
    "/kafka/parsers",
];

const LOCAL_POSTS: [&str; 28] = [
    "/query",
    "/async_query",
    "/query/if_big_query",
    "/query/prestate",
    "/query/format/csv",
    "/user/authentication",
    "/system/maintenance_mode",
    "/kg/health/instance_info",
    "/kg/health/instance_service/query_up_grade",
    "/kg/health/instance_service/query_down_grade",
    "/system/license/content",
    "/system/license/file",
    "/system/diag",
    "/metastore/backup/models",
    "/epoch",
    "/epoch/all",
    "/system/metadata/reload",
    "/storage/config/refresh",
    "/storage/node/status",
    "/snapshots/source_table_stats",
    "/snapshots/view_mapping",
    "/system/metadata_backup",
    "/system/broadcast_metadata_backup",
    "/metastore/cleanup_storage/tenant_node",
    "/metastore/cleanup_storage",
    "/jobs/gluten_cache",
    "/cache/gluten_cache",
    "/cache/gluten_cache_async",
];

const LOCAL_PUTS: [&str; 9] = [
    "/system/diag/progress",
    "/tables/catalog_cache",
    "/tables/single_catalog_cache",
    "/index_plans/agg_index_count",
    "/system/roll_event_log",
    "/user/refresh",
    "/jobs/stage/status",
    "/jobs/spark",
    "/jobs/wait_and_run_time",
];

const LOCAL_DELETES: [&str; 6] = [
    "/query",
    "/query/if_big_query",
    "/system/diag",
    "/system/maintenance_mode",
    "/system/clean_sparder_event_log",
    "/async_query/tenant_node",
];

/// Does a query node of Kylin 5 serve this itself? What it does not, it sends to a job node and then reads the change, so that
/// the client sees it on this node at once and on the others some seconds later.
///
/// The path must be [normalised](super::super::path::normalise).
///
/// ```
/// use http::Method;
/// use kylin_lb::kylin::class::is_local_in_v5;
///
/// assert!(is_local_in_v5(&Method::POST, "/kylin/api/query"));
/// assert!(!is_local_in_v5(&Method::POST, "/kylin/api/models"));
/// ```
pub fn is_local_in_v5(method: &Method, path: &str) -> bool {
    let Some(path) = path.strip_prefix("/kylin/api") else { return true };
    let path = path.trim_end_matches('/');
    match *method {
        Method::GET => !is_routed_get(path),
        Method::POST => LOCAL_POSTS.contains(&path),
        Method::PUT => LOCAL_PUTS.contains(&path),
        Method::DELETE => LOCAL_DELETES.contains(&path),
        _ => false,
    }
}

/// Is this path, below `/kylin/api` and without a slash at its end, one that is sent on although it is a `GET`?
pub(super) fn is_routed_get(path: &str) -> bool {
    ROUTED_GETS.contains(&path)
}

#[cfg(test)]
mod tests {
    use super::super::{RequestClass, RetrySafety, classify};
    use super::*;

    #[test]
    fn follows_the_filter() {
        for (method, path, local) in [
            (Method::GET, "/kylin/api/projects", true),
            (Method::GET, "/kylin/api/tables/project_table_names/", false),
            (Method::GET, "/kylin/api/tables/reload_hive_table_name", false),
            (Method::GET, "/kylin/api/query/favorite_queries", false),
            (Method::GET, "/kylin/api/storage/table/sync", false),
            (Method::GET, "/kylin/api/kafka/parsers", false),
            (Method::POST, "/kylin/api/query/", true),
            (Method::POST, "/kylin/api/query/x", false),
            (Method::PUT, "/kylin/api/tables/catalog_cache", true),
            (Method::PUT, "/kylin/api/cubes/c/rebuild", false),
            (Method::DELETE, "/kylin/api/query", true),
            (Method::DELETE, "/kylin/api/query/stop-id", false),
            (Method::HEAD, "/kylin/api/projects", false),
            (Method::POST, "/kylin/login", true),
        ] {
            assert_eq!(is_local_in_v5(&method, path), local, "{method} {path}");
        }
    }

    #[test]
    fn a_get_that_is_sent_on_is_repeated_by_nobody() {
        for path in ROUTED_GETS {
            let class = classify(&Method::GET, &format!("/kylin/api{path}"), None);
            assert_eq!((class, class.repeat()), (RequestClass::Write, RetrySafety::Unexecuted), "{path}");
        }
    }
}
