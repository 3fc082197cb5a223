//! Probes that Kylin nodes answer.

use http::StatusCode;
use serde_json::json;

use super::matcher::ResponseMatcher;
use super::probe::{InvalidProbe, Probe};

impl Probe {
    /// `GET /kylin/api/admin/version` (Kylin 3.1 and later; no login): shows that a Kylin answers, in any role. The
    /// body must name the version, because an older Kylin, or something else at the address, may have a page for any path.
    pub fn kylin_version() -> Self {
        let ok = || ResponseMatcher::status(StatusCode::OK);
        ready_made("/kylin/api/admin/version")
            .expect(ok().json_has("/kylin.version"))
            // Kylin 5 wraps what it says.
            .or_expect(ok().json_has("/data/kylin.version"))
    }

    /// `GET /kylin/api/health` (Kylin 5; no login): the node's own opinion of its metastore, Spark and disk. What nodes
    /// share takes all of them down at once here: see [`panic_mode`](crate::cluster::ClusterBuilder::panic_mode).
    pub fn kylin5_health() -> Self {
        ready_made("/kylin/api/health").expect(ResponseMatcher::status(StatusCode::OK).json_text("/status", "UP"))
    }

    /// `GET /kylin/api/service_discovery/state/is_active_job_node` (Kylin 3 and 4 with the job scheduler that elects a
    /// leader; no login): good is the one node that runs jobs. For a cluster whose requests only that one is to get.
    pub fn active_job_node() -> Self {
        ready_made("/kylin/api/service_discovery/state/is_active_job_node")
            .expect(ResponseMatcher::status(StatusCode::OK).json_bool("", true))
    }

    /// Runs `sql` in `project` as `user`: shows that a node can do what it is there for. Choose SQL that is cheap, give it
    /// time ([`timeout`](Probe::timeout)), and a user of its own. That a node refuses the query for its role, *job*, or because
    /// as many run as may, is a good answer too: neither is an illness.
    ///
    /// # Errors
    /// [`InvalidProbe::User`] as [`login`](Probe::login).
    ///
    /// ```
    /// use kylin_lb::probe::Probe;
    /// use std::time::Duration;
    ///
    /// let probe = Probe::query("select count(*) from KYLIN_CAL_DT", "learn_kylin", "PROBE", "secret")?
    ///     .timeout(Duration::from_secs(20));
    /// # let _ = probe;
    /// # Ok::<(), kylin_lb::probe::InvalidProbe>(())
    /// ```
    pub fn query(sql: &str, project: &str, user: &str, password: &str) -> Result<Self, InvalidProbe> {
        let body = json!({"sql": sql, "project": project, "offset": 0, "limit": 1, "acceptPartial": false}).to_string();
        let ok = || ResponseMatcher::status(StatusCode::OK);
        let probe = Probe::post_json("/kylin/api/query", body)?.login(user, password)?;
        Ok(probe
            .expect(ok().json_bool("/isException", false))
            .or_expect(ok().json_bool("/data/isException", false))
            // Kylin 2 to 4, in the mode "job".
            .or_expect(ResponseMatcher::status(StatusCode::BAD_REQUEST).contains("Query is not allowed in "))
            .or_expect(ok().or_status(StatusCode::BAD_REQUEST).contains("Too many concurrent query requests"))
            // Kylin 5: queries are not available on a job node.
            .or_expect(
                ResponseMatcher::status(StatusCode::INTERNAL_SERVER_ERROR)
                    .or_status(StatusCode::BAD_REQUEST)
                    .contains("KE-040023202"),
            ))
    }
}

fn ready_made(path: &'static str) -> Probe {
    Probe::fixed(http::uri::PathAndQuery::from_static(path))
}
