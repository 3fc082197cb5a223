//! Ready-made probes for Kylin nodes.

use http::StatusCode;
use http::uri::PathAndQuery;
use serde_json::json;

use super::matcher::ResponseMatcher;
use super::request::RequestProbe;
use super::spec::{InvalidProbe, Probe};

impl Probe {
    /// Probes each node with the best request that its version offers. It works with every version
    /// of Kylin, even with different versions in one cluster, and needs no login.
    ///
    /// | level | request | a healthy response | offered by |
    /// |---|---|---|---|
    /// | [`Version`](crate::health::ProbeLevel::Version) | `GET /kylin/api/admin/version` | 200 with the version in JSON | Kylin 3.1 and later |
    /// | [`Authentication`](crate::health::ProbeLevel::Authentication) | `GET /kylin/api/user/authentication` | 200 with a JSON object, 401, or the error KE-010021006 of Kylin 5, whose user source is unreachable | every Kylin |
    /// | [`Tcp`](crate::health::ProbeLevel::Tcp) | those above | any status except 5xx | a server that is not Kylin, or whose Kylin is not deployed yet |
    ///
    /// The first probe of a node settles on the first level that succeeds. From then on, the node
    /// must succeed at that level or a higher one, because a stopping Tomcat sends 404 for every
    /// path. A node at `Tcp` is probed at all levels each time. A node at `Authentication` is asked
    /// for the version every minute and after a failure, because it may have been upgraded. A node
    /// that was unreachable, or in maintenance, may return with an older Kylin and then settle on
    /// `Authentication`.
    ///
    /// [`EndpointStatus::probe_level`](crate::cluster::EndpointStatus::probe_level) shows the level
    /// of each endpoint. A change is logged.
    pub fn kylin() -> Self {
        let mut authentication = RequestProbe::get(PathAndQuery::from_static("/kylin/api/user/authentication"));
        authentication.expected = vec![
            ok().json_object(),
            ResponseMatcher::status(StatusCode::UNAUTHORIZED),
            ResponseMatcher::status(StatusCode::INTERNAL_SERVER_ERROR).json_object().contains("KE-010021006"),
        ];
        Probe::by_level(version(), authentication)
    }

    /// Sends `GET /kylin/api/admin/version` (Kylin 3.1 and later; no login), which shows that Kylin
    /// responds, in any role. The body must name the version, because an older Kylin, or another
    /// server at the address, may have a page for any path.
    pub fn kylin_version() -> Self {
        Probe::of(version())
    }

    /// Sends `GET /kylin/api/health` (Kylin 5; no login), in which the node reports on its
    /// metastore, Spark and disk. A fault that nodes share makes all of them unhealthy at once: see
    /// [`panic_mode`](crate::cluster::ClusterBuilder::panic_mode).
    pub fn kylin5_health() -> Self {
        get("/kylin/api/health").expect(ok().json_text("/status", "UP"))
    }

    /// Sends `GET /kylin/api/service_discovery/state/is_active_job_node` (Kylin 3 and 4 with the
    /// job scheduler that elects a leader; no login). Only the node that runs jobs is healthy. Use
    /// this probe for a cluster whose requests must go to that node.
    pub fn active_job_node() -> Self {
        get("/kylin/api/service_discovery/state/is_active_job_node").expect(ok().json_bool("", true))
    }

    /// Runs `sql` in `project` as `user`, which shows that a node can execute queries. Choose cheap
    /// SQL, a sufficient [`timeout`](Probe::timeout), and a dedicated user. A node that rejects the
    /// query because of its role (*job*), or because it is at its limit of queries, is healthy too.
    ///
    /// # Errors
    /// [`InvalidProbe::User`] if the user's name contains a colon (RFC 7617).
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
        let probe = Probe::post_json("/kylin/api/query", body)?.login(user, password)?;
        Ok(probe
            .expect(ok().json_bool("/isException", false))
            .or_expect(ok().json_bool("/data/isException", false))
            // Kylin 2 to 4 in the mode "job".
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

fn get(path: &'static str) -> Probe {
    Probe::of(RequestProbe::get(PathAndQuery::from_static(path)))
}

fn version() -> RequestProbe {
    let mut probe = RequestProbe::get(PathAndQuery::from_static("/kylin/api/admin/version"));
    // Kylin 5 wraps the response in `data`.
    probe.expected = vec![ok().json_has("/kylin.version"), ok().json_has("/data/kylin.version")];
    probe
}

fn ok() -> ResponseMatcher {
    ResponseMatcher::status(StatusCode::OK)
}
