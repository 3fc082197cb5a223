//! Every class of request with every outcome of its attempt: whether another node is asked, what
//! the client gets, and how the node is rated.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::StatusCode;
use kylin_lb::backend::SendErrorKind;
use kylin_lb::clock::ManualClock;
use kylin_lb::endpoint::AdminState;
use kylin_lb::health::{HealthState, Reason};
use kylin_lb::probe::{HealthCheck, Probe};
use kylin_lb::proxy::{KylinRules, ProxyBuilder, RetryBudget, RetryPolicy};
use kylin_lb::testing::Scripted;
use kylin_lb::{Cluster, Endpoint, HttpBackend, Proxy, SendError};

use crate::support::front::{self, Front};
use crate::support::health::state;
use crate::support::kylin::{Says, ask, request, saying, scripted, sql, well};
use crate::support::raw_node::{self, Act, RawNode};

/// The outcomes after which a request is retried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RetriedAfter {
    /// Every failure of a node.
    Failures,
    /// Every failure of a node except a time-out, because a slow query is not started again.
    QueryFailures,
    /// Outcomes that show that the query was not executed. It may be a write.
    Unexecuted,
    /// Outcomes that show that the request was not executed. It is not a query, so messages that
    /// reject queries do not count.
    UnexecutedNoQuery,
    /// No outcome.
    Never,
}
use RetriedAfter::{Failures, Never, QueryFailures, Unexecuted, UnexecutedNoQuery};

/// Returns requests of each class, and queries with each effect of their SQL.
fn requests() -> Vec<(&'static str, String, RetriedAfter)> {
    let query = "POST /kylin/api/query";
    let mut all: Vec<(&str, String, RetriedAfter)> = Vec::new();
    for read in [
        "select 1",
        "-- note\n /* and */ ((SELECT count(*) FROM t))",
        "with x as (select 1) select * from x",
        "explain plan for select 1",
    ] {
        all.push((query, sql(read), QueryFailures));
        all.push(("POST /kylin/api/query/prestate", sql(read), QueryFailures));
    }
    for write in [
        "insert into t values (1)",
        "CREATE TABLE t AS SELECT 1",
        "drop table t",
        "select 1; delete from t",
        "frobnicate the cube",
        "select 'not closed",
    ] {
        all.push((query, sql(write), Unexecuted));
    }
    for unreadable in ["", "{", "{\"sql\":\"select 1\",\"sql\":\"drop table t\"}", "sql=select+1"] {
        all.push((query, unreadable.to_owned(), Unexecuted));
    }
    all.push(("GET /kylin/api/query/format/csv?sql=select+1&project=p", String::new(), Unexecuted));
    all.push(("POST /kylin/api/query/format/csv", "sql=select+1&project=p".to_owned(), Unexecuted));
    for line in [
        "GET /kylin/api/projects",
        "HEAD /kylin/api/projects",
        "GET /kylin/api/cubes/c/segments",
        "GET /kylin/api/user/authentication",
        "POST /kylin/api/user/authentication",
        "GET /kylin/api/admin/version",
        "GET /kylin/api/jobs",
        "GET /kylin/api/async_query/1/status",
        "DELETE /kylin/api/query/stop-id",
        "GET /kylin/j_spring_security_logout",
        "GET /kylin/js/app.js",
    ] {
        all.push((line, String::new(), Failures));
    }
    for line in [
        "PUT /kylin/api/cubes/c/build",
        "PUT /kylin/api/cubes/c/rebuild",
        "POST /kylin/api/models/m/segments",
        "PUT /kylin/api/jobs/1/resume",
        "DELETE /kylin/api/jobs/1/drop",
        "POST /kylin/api/saved_queries",
        "DELETE /kylin/api/saved_queries/1",
        "PUT /kylin/api/projects/p",
        "PUT /kylin/api/user/password",
        "POST /kylin/api/system/maintenance_mode",
        "POST /kylin/api/async_query",
        "DELETE /kylin/api/async_query/1",
        "GET /kylin/api/tables/reload_hive_table_name",
        "PATCH /kylin/api/projects/p",
        "POST /kylin/saml/SSO",
        "PUT /elsewhere",
    ] {
        all.push((line, "{}".to_owned(), UnexecutedNoQuery));
    }
    for line in ["PUT /kylin/api/admin/config", "GET /kylin/api/system/diag/status", "GET /kylin/sparder/jobs"] {
        all.push((line, String::new(), Never));
    }
    all
}

/// The outcome of the first attempt.
struct AttemptOutcome {
    says: Says,
    /// The classes that are retried after it.
    retried: &'static [RetriedAfter],
    /// Whether the outcome counts as a failure of the node.
    counts: bool,
}

fn outcomes() -> Vec<AttemptOutcome> {
    const NONE: &[RetriedAfter] = &[];
    const UNSENT: &[RetriedAfter] = &[Failures, QueryFailures, Unexecuted, UnexecutedNoQuery];
    const READS: &[RetriedAfter] = &[Failures, QueryFailures];
    const QUERIES: &[RetriedAfter] = &[QueryFailures, Unexecuted];
    let outcome = |says, retried, counts| AttemptOutcome { says, retried, counts };
    let page = |status| Says::Html(status, "<html>Apache Tomcat</html>".to_owned());
    let mut all = vec![
        outcome(Says::Nothing(SendErrorKind::Connect), UNSENT, true),
        outcome(Says::Nothing(SendErrorKind::ConnectTimeout), UNSENT, true),
        outcome(Says::Nothing(SendErrorKind::Refused), UNSENT, true),
        outcome(Says::Nothing(SendErrorKind::Limit), UNSENT, false),
        outcome(Says::Nothing(SendErrorKind::Shortage), UNSENT, false),
        outcome(Says::Nothing(SendErrorKind::Broken), READS, true),
        outcome(Says::Nothing(SendErrorKind::Invalid), READS, true),
        outcome(Says::Nothing(SendErrorKind::HeadTimeout), &[Failures], false),
        outcome(Says::Nothing(SendErrorKind::RequestBody), NONE, false),
        // Rejected before execution: a query by a message, any request by a code.
        outcome(Says::error(400, "Query is not allowed in 'job' mode."), QUERIES, false),
        outcome(Says::error(400, "Too many concurrent query requests."), QUERIES, false),
        outcome(Says::exception("Too many concurrent query requests."), QUERIES, false),
        outcome(Says::exception("Column X not found"), NONE, false),
        outcome(Says::error(500, "Column 'Too many concurrent query requests.' not found"), NONE, false),
        outcome(Says::error(500, "metastore is gone"), NONE, false),
        outcome(Says::error(404, "no such cube"), NONE, false),
        outcome(Says::Json(503, r#"{"status":"DOWN"}"#.to_owned()), NONE, false),
        outcome(page(501), NONE, false),
        // tomcat-redis-session-manager responds before any handler.
        outcome(
            Says::Html(500, "<html>Race condition encountered: attempted to load session[X]</html>".to_owned()),
            UNSENT,
            false,
        ),
    ];
    for code in ["KE-040023202", "KE-040023201", "KE-040023203", "KE-020032001"] {
        all.push(outcome(Says::code(code), UNSENT, false));
    }
    for code in ["KE-040024201", "KE-010021002", "KE-040021201", "KE-010021003", "KE-010021004", "KE-010019002"] {
        all.push(outcome(Says::code(code), NONE, false));
    }
    for status in [500, 502, 503, 504] {
        all.push(outcome(page(status), READS, true));
    }
    all
}

fn three(first: &Scripted, second: &Scripted, rules: KylinRules) -> Proxy<Scripted> {
    three_with(first, second, |proxy| proxy.rules(rules))
}

fn three_with(
    first: &Scripted,
    second: &Scripted,
    change: impl FnOnce(ProxyBuilder<Scripted>) -> ProxyBuilder<Scripted>,
) -> Proxy<Scripted> {
    let nodes = [("0", first), ("1", second), ("2", second)].map(|(id, node)| scripted(id, node));
    change(Proxy::builder(Cluster::builder().endpoints(nodes).build().unwrap())).build().unwrap()
}

#[tokio::test]
async fn every_class_of_request_after_every_outcome() {
    let mut cases = 0;
    for (line, body, class) in requests() {
        for AttemptOutcome { says, retried, counts } in outcomes() {
            let (first, second) = (saying(says.clone()), well("second"));
            let proxy = three(&first, &second, KylinRules::default());
            let (status, text) = ask(&proxy, request(line, &[], &body)).await;
            let case = format!("{line} {body} {says:?}: {status} {text}");
            assert_eq!(first.calls(), 1, "{case}");
            assert_eq!(second.calls(), usize::from(retried.contains(&class)), "{case}");
            match (&says, second.calls()) {
                (_, 1) => assert!(status == StatusCode::OK && text.contains("second"), "{case}"),
                (Says::Json(code, said) | Says::Html(code, said), _) => {
                    assert_eq!((status.as_u16(), &text), (*code, said), "as the node sent it: {case}");
                }
                (Says::Nothing(kind), _) => {
                    let expected = match kind {
                        SendErrorKind::HeadTimeout | SendErrorKind::ConnectTimeout => 504,
                        SendErrorKind::RequestBody => 400,
                        SendErrorKind::Limit | SendErrorKind::Shortage => 503,
                        _ => 502,
                    };
                    assert_eq!(status, expected, "{case}");
                    assert!(text.starts_with(r#"{"code":"999","data":null,"msg":"#), "in Kylin's form: {case}");
                }
            }
            let seen = &proxy.cluster().status().endpoints[0];
            assert_eq!((seen.failed, seen.in_flight), (u64::from(counts), 0), "{case}");
            let slow = matches!(says, Says::Nothing(SendErrorKind::HeadTimeout));
            let expected = (HealthState::Suspect, Some(Reason::Slow));
            assert_eq!(state(proxy.cluster(), "0") == expected, slow, "{case}");
            cases += 1;
        }
    }
    assert!(cases > 1500, "{cases}");
}

/// A node that closes its first connection, and responds in this way on later ones.
fn closed_once(then: Says) -> Scripted {
    let closed = AtomicBool::new(false);
    Scripted::new(move |request| {
        let is_closed = closed.swap(true, Ordering::SeqCst);
        let says = if is_closed { then.clone() } else { Says::Nothing(SendErrorKind::Stale) };
        std::future::ready(says.say(request))
    })
}

#[tokio::test]
async fn a_safe_request_on_a_stale_connection_is_repeated_where_its_session_lives_or_elsewhere() {
    let fine = || Says::Json(200, r#"{"node":"first"}"#.to_owned());
    for (line, body, class) in requests() {
        let is_safe = matches!(class, Failures | QueryFailures);
        for (headers, is_at_home) in [(COOKIE, true), (COOKIE_5, true), (BASIC, false), (BOTH, false), (OTHER, false)] {
            let (first, second) = (closed_once(fine()), well("second"));
            let proxy = three(&first, &second, KylinRules::default());
            let (status, text) = ask(&proxy, request(line, headers, &body)).await;
            let expected = match (is_safe, is_at_home) {
                // A logout goes to all nodes if none is known to have the session, and once more to
                // a node that closed its connection.
                _ if is_at_home && line == LOGOUT => (2, 2, 200),
                // The node is first asked whether it still responds.
                (true, true) => (3, 0, 200),
                (true, false) => (1, 1, 200),
                (false, _) => (1, 0, 502),
            };
            assert_eq!((first.calls(), second.calls(), status.as_u16()), expected, "{line} {body}: {text}");
            assert_eq!(proxy.cluster().status().endpoints[0].failed, 0, "the node did not fail");
        }
    }
    // The only node gets the request again.
    let only = closed_once(fine());
    let cluster = Cluster::builder().endpoints([scripted("0", &only)]).build().unwrap();
    let proxy = Proxy::builder(cluster).build().unwrap();
    let (status, _) = ask(&proxy, request("GET /kylin/api/projects", BASIC, "")).await;
    assert_eq!((status.as_u16(), only.calls()), (200, 2));
}

/// A stopping Tomcat accepts new connections and never serves them.
#[tokio::test]
async fn a_session_whose_node_has_gone_is_looked_for_elsewhere() {
    let page = |status| Says::Html(status, "<html>".to_owned());
    for (then, is_there) in [
        (Says::Nothing(SendErrorKind::Connect), false),
        (Says::Nothing(SendErrorKind::Broken), false),
        (Says::Nothing(SendErrorKind::HeadTimeout), false),
        (page(404), false),
        (Says::error(401, "who are you"), true),
        // Kylin redirects in this way if it leaves logins to another server.
        (page(302), true),
    ] {
        let (first, second) = (closed_once(then.clone()), well("second"));
        let proxy = three(&first, &second, KylinRules::default());
        ask(&proxy, request("POST /kylin/api/query", COOKIE, &sql("select 1"))).await;
        if is_there {
            assert!(first.calls() > 2, "{then:?}");
        } else {
            assert_eq!((first.calls(), second.calls()), (2, 1), "{then:?}");
            assert_eq!(proxy.cluster().status().endpoints[0].failed, 1, "{then:?}");
        }
    }
}

const LOGOUT: &str = "GET /kylin/j_spring_security_logout";
const COOKIE: &[(&str, &str)] = &[("cookie", "a=b; JSESSIONID=0123456789ABCDEF; c=d")];
const COOKIE_5: &[(&str, &str)] =
    &[("cookie", "ce8a5bd5b23fe84d1894dce1bd9399364ba5af3c7a25f025442c92244c729804=eA==")];
const BASIC: &[(&str, &str)] = &[("authorization", "Basic QURNSU46S1lMSU4=")];
const BOTH: &[(&str, &str)] = &[("cookie", "JSESSIONID=1"), ("authorization", "Basic QURNSU46S1lMSU4=")];
const OTHER: &[(&str, &str)] = &[("cookie", "theme=dark")];

#[tokio::test]
async fn a_session_is_searched_for_and_a_password_is_never_sent_twice() {
    let unauthorized = || saying(Says::Html(401, "<html>401</html>".to_owned()));
    for (line, body, class) in requests() {
        for (headers, searched) in
            [(COOKIE, true), (COOKIE_5, true), (BASIC, false), (BOTH, false), (OTHER, false), (&[], false)]
        {
            let searched = searched && class != Never;
            let (first, second) = (unauthorized(), well("second"));
            let proxy = three(&first, &second, KylinRules::default());
            let (status, text) = ask(&proxy, request(line, headers, &body)).await;
            let expected = match searched {
                // A logout goes to all nodes if none is known to have the session.
                true if line == LOGOUT => (1, 2, 200),
                true => (1, 1, 200),
                false => (1, 0, 401),
            };
            assert_eq!((first.calls(), second.calls(), status.as_u16()), expected, "{line} {body} {headers:?}: {text}");

            // If no node knows the session, each is asked once and the client gets their response.
            let (first, second) = (unauthorized(), unauthorized());
            let proxy = three(&first, &second, KylinRules::default());
            let (status, text) = ask(&proxy, request(line, headers, &body)).await;
            let asked = if searched { (1, 2) } else { (1, 0) };
            assert_eq!((first.calls(), second.calls()), asked, "{line} {body} {headers:?}");
            assert_eq!((status.as_u16(), &*text), (401, "<html>401</html>"));
            let endpoints = proxy.cluster().status().endpoints;
            assert!(endpoints.iter().all(|endpoint| endpoint.failed == 0), "no node failed");
        }
    }
}

/// A few wrong passwords lock a user.
#[tokio::test]
async fn a_login_form_beside_a_cookie_is_sent_once() {
    let form = "username=ADMIN&password=wrong";
    for line in [
        "POST /kylin/login",
        "POST /kylin/login;jsessionid=0123456789ABCDEF",
        "POST /kylin/j_spring_security_check",
        "POST /kylin/api/j_spring_security_check",
    ] {
        for says in [Says::Html(401, "<html>401</html>".to_owned()), Says::Json(200, "{}".to_owned())] {
            for headers in [COOKIE, COOKIE_5, OTHER] {
                let (first, second) = (saying(says.clone()), well("second"));
                let proxy = three(&first, &second, KylinRules::default());
                let (status, text) = ask(&proxy, request(line, headers, form)).await;
                assert_eq!((first.calls(), second.calls()), (1, 0), "{line} {headers:?} {says:?}");
                assert_eq!(Some(status.as_u16()), says.status(), "{text}");
            }
        }
    }
}

#[tokio::test]
async fn a_session_in_the_path_is_searched_for_as_one_in_a_cookie() {
    for (line, says) in [
        ("GET /kylin/api/projects;jsessionid=0123456789ABCDEF", Says::Html(401, String::new())),
        ("GET /kylin/api/user/authentication;jsessionid=0123456789ABCDEF", Says::Json(200, "{}".to_owned())),
    ] {
        let (first, second) = (saying(says), well("second"));
        let proxy = three(&first, &second, KylinRules::default());
        let (status, _) = ask(&proxy, request(line, &[], "")).await;
        assert_eq!((first.calls(), second.calls(), status.as_u16()), (1, 1, 200), "{line}");
    }
}

#[tokio::test]
async fn a_search_for_sessions_stops_when_the_budget_is_used_up() {
    for budget in [RetryBudget::default(), RetryBudget::default().ratio(0.0).unwrap()] {
        let node = saying(Says::Html(401, String::new()));
        let clock = ManualClock::new();
        let retry = RetryPolicy::default().budget(Some(budget));
        let proxy = three_with(&node, &node, |proxy| proxy.clock(clock.clone()).retry(retry));
        for _ in 0..2000 {
            ask(&proxy, request("GET /kylin/api/projects", COOKIE, "")).await;
        }
        // The size of the budget of searches, and the share of one client in its reserve.
        let more = node.calls() - 2000;
        assert!((3000..=3150).contains(&more), "{more}");
    }
    let none = RetryBudget::default().ratio(0.0).unwrap().min_per_second(0);
    let node = saying(Says::Html(401, String::new()));
    let proxy = three_with(&node, &node, |proxy| proxy.retry(RetryPolicy::default().budget(Some(none))));
    ask(&proxy, request("GET /kylin/api/projects", COOKIE, "")).await;
    assert_eq!(node.calls(), 1);
}

#[tokio::test]
async fn each_rule_can_be_switched_off() {
    let refused = Says::error(400, "Query is not allowed in 'job' mode.");
    let (first, second) = (saying(refused), well("second"));
    let proxy = three(&first, &second, KylinRules::default().retry_rejected(false));
    let (status, _) = ask(&proxy, request("POST /kylin/api/query", &[], &sql("select 1"))).await;
    assert_eq!((status.as_u16(), second.calls()), (400, 0));

    let first = saying(Says::Html(401, String::new()));
    let proxy = three(&first, &second, KylinRules::default().retry_unauthorized(false));
    let (status, _) = ask(&proxy, request("GET /kylin/api/projects", COOKIE, "")).await;
    assert_eq!((status.as_u16(), second.calls()), (401, 0));

    let first = saying(Says::Nothing(SendErrorKind::Broken));
    let nodes = [("0", &first), ("1", &second)].map(|(id, node)| scripted(id, node));
    let cluster = Cluster::builder().endpoints(nodes).build().unwrap();
    let proxy = Proxy::builder(cluster).retry(RetryPolicy::none()).build().unwrap();
    let (status, _) = ask(&proxy, request("GET /kylin/api/projects", &[], "")).await;
    assert_eq!((status.as_u16(), second.calls()), (502, 0));
}

#[tokio::test]
async fn nodes_in_job_mode_cost_nothing_of_the_budget() {
    let refusing = saying(Says::error(400, "Query is not allowed in 'job' mode."));
    let second = well("second");
    let none = RetryBudget::default().ratio(0.0).unwrap().min_per_second(0);
    let proxy = three_with(&refusing, &second, |proxy| proxy.retry(RetryPolicy::default().budget(Some(none))));
    for _ in 0..300 {
        let (status, text) = ask(&proxy, request("POST /kylin/api/query", &[], &sql("select 1"))).await;
        assert_eq!(status, StatusCode::OK, "{text}");
    }
    assert!(second.calls() == 300 && refusing.calls() >= 100, "{refusing:?} {second:?}");
}

#[tokio::test]
async fn a_retried_query_is_the_same_to_the_byte_and_an_insert_is_sent_once() {
    for (text, repeated) in [("select 'ä'", true), ("insert into t values (1)", false)] {
        let bad = RawNode::start([vec![Act::Read, Act::Reset]]).await;
        let good = RawNode::start([raw_node::healthy("good")]).await;
        let endpoints =
            [(0, &bad), (1, &good)].map(|(id, node)| front::endpoint(id, node.address(), |backend| backend));
        let front = Front::kylin(endpoints, |proxy| proxy);
        let response = front.post("/kylin/api/query", &sql(text)).await.unwrap();
        assert_eq!(bad.seen().requests.len(), 1);
        if repeated {
            assert_eq!((response.status(), response.text()), (200, "good"));
            assert_eq!(bad.seen().requests, good.seen().requests);
        } else {
            assert_eq!((response.status(), good.seen().connections), (502, 0));
            front::refusal(&response, 502);
        }
        front.idle().await;
    }
}

/// A long query is still in flight. Failures count, except at a node that was taken out of service
/// meanwhile.
#[tokio::test]
async fn a_read_that_timed_out_on_a_node_that_is_out_by_then_goes_on_and_a_write_does_not() {
    for (line, body, class) in requests() {
        let cluster: Arc<OnceLock<Cluster<Scripted>>> = Arc::default();
        let (inside, second) = (cluster.clone(), well("second"));
        let first = Scripted::new(move |_| {
            inside
                .get()
                .unwrap()
                .set_admin_state(&"0".parse().unwrap(), kylin_lb::endpoint::AdminState::Maintenance)
                .unwrap();
            std::future::ready(Err(SendError::new(SendErrorKind::HeadTimeout, "scripted")))
        });
        let nodes = [("0", &first), ("1", &second)].map(|(id, node)| scripted(id, node));
        let built = cluster.get_or_init(|| Cluster::builder().endpoints(nodes).build().unwrap());
        let proxy = Proxy::builder(built.clone()).build().unwrap();
        let (status, text) = ask(&proxy, request(line, &[], &body)).await;
        let expected = if matches!(class, Failures | QueryFailures) { (1, 1, 200) } else { (1, 0, 504) };
        assert_eq!((first.calls(), second.calls(), status.as_u16()), expected, "{line} {body}: {text}");
    }
}

/// The node may be busy with the query or dead; a probe finds out.
#[tokio::test]
async fn a_node_on_which_a_query_timed_out_is_probed_at_once_and_not_ejected() {
    let version = r#"{"kylin.version":"3.1.3.0","kylin.version.commitId":"x"}"#;
    let version = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{version}",
        version.len()
    );
    let probed = || raw_node::respond(version.clone());
    let node = RawNode::start([probed(), vec![Act::Read, Act::UntilClosed], probed()]).await;
    let backend = HttpBackend::builder(&node.address().to_string()).unwrap().head_timeout(Duration::from_secs(3));
    let other = Endpoint::http("1", &front::closed_port().to_string()).unwrap().admin_state(AdminState::Maintenance);
    let front = Front::kylin(
        [Endpoint::new("0", backend.build().unwrap()).unwrap().max_fails(NonZeroU32::new(1)), other],
        |proxy| proxy,
    );
    let hour = Duration::from_secs(3600);
    let checks =
        HealthCheck::new(Probe::kylin_version()).interval(hour).fast_interval(Duration::from_millis(20)).jitter(0.0);
    let _checker = checks.start(front.proxy.cluster()).unwrap();
    node.wait_until(|seen| seen.requests.len() == 1).await;
    let up = || state(front.proxy.cluster(), "0").0 == HealthState::Healthy;
    front::eventually(up, || "the first probe is over".to_owned()).await;
    let response = front.post("/kylin/api/query", &sql("select 1")).await.unwrap();
    front::refusal(&response, 504);
    let seen = node.wait_until(|seen| seen.requests.len() == 3).await.texts();
    assert!(seen[0].starts_with("GET /kylin/api/admin/version") && seen[1].starts_with("POST /kylin/api/query"));
    assert!(seen[2].starts_with("GET /kylin/api/admin/version"), "{}", seen[2]);
    front::eventually(up, || format!("{:?}", front.proxy.cluster().status())).await;
    let status = &front.proxy.cluster().status().endpoints[0];
    assert_eq!((status.failed, status.ejected), (0, false));
}

#[tokio::test]
async fn a_discarded_response_is_closed_before_the_next_attempt() {
    let head = "HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\nContent-Length: 100000\r\n\r\n<html>";
    let bad = RawNode::start([vec![Act::Read, Act::Write(head.into()), Act::UntilClosed]]).await;
    let good = RawNode::start([vec![Act::Read, Act::WaitForGo, Act::Write(raw_node::ok("good"))]]).await;
    let front = Front::kylin(front::endpoints(&[bad.address(), good.address()]), |proxy| proxy);
    let mut client = front.connect().await;
    client.send("GET /kylin/api/projects HTTP/1.1\r\nHost: kylin\r\n\r\n").await.unwrap();
    good.wait_until(|seen| seen.requests.len() == 1).await;
    bad.wait_until(|seen| seen.closed == 1).await;
    assert_eq!(front.in_flight(), 1);
    good.go();
    assert_eq!(client.response().await.unwrap().text(), "good");
}
