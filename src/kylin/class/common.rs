//! The paths that every version of Kylin serves.

use crate::kylin::path::NormalizedPath;

/// Below `/kylin/api/`, in 2.x, 3.x, 4.x and 5.x (apache/kylin 2.6.6, 3.1.3 and 4.0.4 rest/controller: QueryController,
/// UserController, ProjectController, JobController, ModelController, TableController; kylin5 NQueryController, NUserController,
/// NProjectController, JobController, NModelController, NTableController).
const CALLS: [&str; 7] = ["query", "query/prestate", "user/authentication", "projects", "jobs", "models", "tables"];

/// Returns whether every version of Kylin serves the path. Kylin never responds there
/// with 404 unless it says so in JSON, whatever the method: Spring responds to a wrong one with 405.
pub(crate) fn is_in_all_versions(path: &NormalizedPath<'_>) -> bool {
    let path = path.as_str().trim_end_matches('/');
    match path.strip_prefix("/kylin/api/") {
        Some(call) => CALLS.contains(&call),
        None => path == "/kylin",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_some_versions_or_of_one_object_may_be_missing() {
        for path in ["/kylin/api/query", "/kylin/api/query/", "/kylin/api/user/authentication", "/kylin/", "/kylin"] {
            assert!(is_in_all_versions(&NormalizedPath::parse(path).unwrap()), "{path}");
        }
        for path in
            ["/", "/kylin/api", "/kylin/api/admin/version", "/kylin/api/projects/p", "/kylin/js/app.js", "/api/query"]
        {
            assert!(!is_in_all_versions(&NormalizedPath::parse(path).unwrap()), "{path}");
        }
    }
}
