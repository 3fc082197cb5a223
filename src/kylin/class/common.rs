//! Decides which requests may get a 404 that means that Kylin does not run at the node.

use super::{RequestClass, RetrySafety};
use crate::kylin::path::NormalizedPath;

/// The paths below `/kylin/api/` that 2.x, 3.x, 4.x and 5.x serve (apache/kylin 2.6.6, 3.1.3 and
/// 4.0.4 rest/controller: QueryController, UserController, ProjectController, JobController,
/// ModelController, TableController; kylin5 NQueryController, NUserController, NProjectController,
/// JobController, NModelController, NTableController).
const CALLS: [&str; 7] = ["query", "query/prestate", "user/authentication", "projects", "jobs", "models", "tables"];

/// Returns whether a 404 that Kylin did not write may come from a node where Kylin does not run, so
/// that nothing was executed.
///
/// Every version serves some paths. Kylin never responds there with a 404 unless it says so in
/// JSON. The method does not matter, because Spring responds to a wrong one with 405.
///
/// A read below `/kylin/api/` changes nothing, and the calls of jobs return the job in JSON in all
/// versions. So for both, a page with status 404 shows that nothing was executed. For other writes
/// this is unknown, because Tomcat writes the page if a handler has no body.
pub(crate) fn may_have_no_kylin(class: RequestClass, path: &NormalizedPath<'_>) -> bool {
    let is_known = class == RequestClass::Job || class.retry_safety() == RetrySafety::Read;
    is_in_all_versions(path) || is_known && path.as_str().starts_with("/kylin/api/")
}

/// Returns whether every version serves the path, so that a running Kylin never responds there with
/// a 404 page.
pub(crate) fn is_in_all_versions(path: &NormalizedPath<'_>) -> bool {
    let path = path.as_str().trim_end_matches('/');
    match path.strip_prefix("/kylin/api/") {
        Some(call) => CALLS.contains(&call),
        None => path == "/kylin",
    }
}

#[cfg(test)]
mod tests {
    use super::super::classify;
    use super::*;

    #[test]
    fn of_what_some_versions_serve_only_reads_and_jobs_are_known_to_have_changed_nothing() {
        for (line, expected) in [
            (("GET", "/kylin/api/projects/p"), true),
            (("PUT", "/kylin/api/cubes/c/build"), true),
            (("POST", "/kylin/api/models/m/segments"), true),
            (("POST", "/kylin/api/projects"), true),
            (("DELETE", "/kylin/api/projects/p"), false),
            (("PUT", "/kylin/api/cubes/c/enable"), false),
            (("GET", "/kylin/js/app.js"), false),
            (("POST", "/elsewhere"), false),
        ] {
            let path = NormalizedPath::parse(line.1).unwrap();
            let class = classify(&line.0.parse().unwrap(), &path, None);
            assert_eq!(may_have_no_kylin(class, &path), expected, "{line:?}");
        }
    }

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
