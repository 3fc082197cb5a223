//! The list of a project's jobs, which shows when a build has changed the results of its queries.

use serde_json::Value;

/// Returns the target that lists the most recently changed job of `project`, within the past week.
///
/// Kylin 2.x-4.x read `projectName`, `timeFilter`, `limit` and `offset`, and list the most recently
/// changed job first (2.6.6 and 3.1.3 JobController.java, JobService.java). Kylin 2.1 fails without
/// `timeFilter`. Kylin 5 reads the other names (doc5.0 job_api.md). Each version ignores the names
/// of the other, so the version need not be known.
pub(crate) fn target(project: &str) -> String {
    const PATH: &str = "/kylin/api/jobs?";
    let mut query = form_urlencoded::Serializer::for_suffix(PATH.to_owned(), PATH.len());
    query.append_pair("projectName", project).append_pair("project", project);
    query.extend_pairs([("timeFilter", "1"), ("limit", "1"), ("offset", "0")]);
    query.extend_pairs([("time_filter", "1"), ("page_offset", "0"), ("page_size", "1")]);
    query.extend_pairs([("sort_by", "last_modified"), ("reverse", "true")]);
    query.finish()
}

/// Returns a text that changes when a job begins, finishes a step or ends; `None` if the body is
/// not a list of jobs.
pub(crate) fn last_change(body: &[u8]) -> Option<String> {
    let body: Value = serde_json::from_slice(body).ok()?;
    // A bare list, or one in an envelope of Kylin 5 or KAP.
    let list = [Some(&body), body.get("data"), body.pointer("/data/value"), body.pointer("/data/jobs")];
    let jobs = list.into_iter().flatten().find_map(Value::as_array)?;
    let mut change = String::new();
    for job in jobs {
        // An object without these is not a job.
        job.get("uuid").or_else(|| job.get("id"))?;
        for member in ["uuid", "id", "last_modified", "job_status", "progress", "step_ratio"] {
            change += &job.get(member).map(Value::to_string).unwrap_or_default();
            change.push(' ');
        }
    }
    Some(change)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_names_the_project_for_each_version() {
        let target = target("a&b c");
        assert!(target.starts_with("/kylin/api/jobs?projectName=a%26b+c&project=a%26b+c&timeFilter=1&"), "{target}");
        assert!(target.contains("&time_filter=1&") && http::Uri::try_from(target).is_ok());
    }

    #[test]
    fn a_step_of_a_job_changes_the_text_and_its_duration_does_not() {
        let job = |progress: &str, duration: u32| {
            format!(
                r#"{{"uuid":"1","last_modified":160,"job_status":"RUNNING","progress":{progress},"duration":{duration}}}"#
            )
        };
        let in_each_form = |job: String| {
            [
                format!("[{job}]"),
                format!(r#"{{"code":"000","data":{{"value":[{job}],"total_size":1}},"msg":""}}"#),
                format!(r#"{{"code":"000","data":{{"jobs":[{job}],"size":1}},"msg":""}}"#),
                format!(r#"{{"code":"000","data":[{job}],"msg":""}}"#),
            ]
            .map(|body| last_change(body.as_bytes()).unwrap())
        };
        let before = in_each_form(job("10.0", 7));
        assert!(before.iter().all(|change| *change == before[0]));
        assert_eq!(in_each_form(job("10.0", 8)), before);
        assert_ne!(in_each_form(job("20.0", 8)), before);
        assert_eq!(last_change(b"[]").as_deref(), Some(""));
    }

    #[test]
    fn what_is_no_list_of_jobs_is_not_read() {
        for body in ["", "<html>", "{}", r#"{"code":"999","data":null}"#, r#"["x"]"#, r#"[{"name":"x"}]"#] {
            assert_eq!(last_change(body.as_bytes()), None, "{body}");
        }
    }
}
