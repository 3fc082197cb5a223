//! Tests the ways to keep logins: uses the login of one node at another, and logs in through the
//! front end.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use kylin_lb::EndpointId;
use kylin_lb::observe::{AttemptBegan, AttemptEnded, Observer, RequestObserver};
use kylin_lb::session::Sessions;
use parking_lot::Mutex;
use serde_json::json;

use super::checks::{Seen, by_upstream, nodes_of};
use super::node::{Cookies, Facts, Login, Node, Reply, request};
use super::report::{Check, Report};
use super::source::{Front, with_causes};

/// The number of attempts with a session that another node may write only after its response, and
/// the pause between them.
const LATE_ATTEMPTS: usize = 10;
const LATE_INTERVAL: Duration = Duration::from_millis(200);

const UNKNOWN: &str = "does not tell whether it knows a session";

/// A call that every user may make, and only with a login.
fn private_call(facts: &Facts) -> &'static str {
    // Kylin 2.6 lists projects without a login.
    if facts.is_kylin5 { "/kylin/api/projects?page_size=1" } else { "/kylin/api/cubes?limit=1&offset=0" }
}

/// A node's response to the session of another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    Yes,
    /// The node knows it only after a while, because the other node writes its sessions after the
    /// response.
    Late,
    No,
    /// The node fails with this session, but not with its own, so this session was never written.
    Broken,
}

/// Checks that the store of the front end's sessions responds.
pub async fn store(sessions: &Sessions, timeout: Duration, report: &mut Report) {
    let Some(address) = sessions.store_address() else { return };
    report.ran(Check::Sessions);
    if let Err(error) = sessions.check_store(timeout).await {
        let text = format!("the session store at {address} does not work: {}", with_causes(&error));
        report.fault(Check::Sessions, &[], text);
    }
}

/// Checks whether the nodes share the sessions of the login. Each node gets the session of the
/// previous node.
pub async fn between_nodes(nodes: &[Seen], replicated: &[String], report: &mut Report) {
    for members in by_upstream(nodes) {
        let members: Vec<&Seen> = members.into_iter().filter(|(_, facts)| facts.session.is_some()).collect();
        if members.len() < 2 {
            continue;
        }
        report.ran(Check::Sessions);
        let mut known = Vec::new();
        for (at, seen) in members.iter().enumerate() {
            let (node, facts) = seen;
            let (_, before) = members[(at + members.len() - 1) % members.len()];
            let Some((own, other)) = facts.session.as_ref().zip(before.session.as_ref()) else { continue };
            match asks(node, facts, own).await {
                Some(Known::Yes | Known::Late) => {}
                Some(Known::No) => {
                    let text = "does not know a session that it made itself: is its session store available?";
                    report.fault(Check::Sessions, &[&node.id], text);
                    continue;
                }
                Some(Known::Broken) | None => {
                    report.unchecked(Check::Sessions, &[&node.id], UNKNOWN);
                    continue;
                }
            }
            match asks(node, facts, other).await {
                Some(result) => known.push((*seen, result)),
                None => report.unchecked(Check::Sessions, &[&node.id], UNKNOWN),
            }
        }
        report_sharing(&members, &known, replicated, report);
    }
}

/// Returns whether a node knows a session; `None` if its response does not show it.
async fn asks(node: &Node, facts: &Facts, session: &Cookies) -> Option<Known> {
    for attempt in 0..LATE_ATTEMPTS {
        match node.get(private_call(facts), session).await.ok()?.status {
            StatusCode::OK if attempt == 0 => return Some(Known::Yes),
            StatusCode::OK => return Some(Known::Late),
            StatusCode::UNAUTHORIZED => return Some(Known::No),
            // A session that is not written yet (tomcat-redis-session-manager).
            status if status.is_server_error() => tokio::time::sleep(LATE_INTERVAL).await,
            _ => return None,
        }
    }
    Some(Known::Broken)
}

fn report_sharing(members: &[&Seen], known: &[(&Seen, Known)], replicated: &[String], report: &mut Report) {
    let with =
        |result: Known| known.iter().filter(|(_, known)| *known == result).map(|(seen, _)| *seen).collect::<Vec<_>>();
    let (alone, late, broken) = (with(Known::No), with(Known::Late), with(Known::Broken));
    let shares = known.len() - alone.len();
    if !broken.is_empty() {
        let text =
            "fails at the session of another node, and not at its own: the other node has not written it to the store";
        report.fault(Check::Sessions, &nodes_of(&broken), text);
    }
    if !late.is_empty() {
        let text = "finds a new session of another node only after a while, so a client must stay with the node where it logged in";
        report.note(Check::Sessions, &nodes_of(&late), text);
    }
    if shares > 0 && !alone.is_empty() {
        let text = "does not know the sessions of other nodes, which share theirs: is its session manager configured, with one store?";
        report.fault(Check::Sessions, &nodes_of(&alone), text);
    }
    let is_shared = alone.is_empty() && broken.is_empty() && !known.is_empty();
    let routes = members.iter().all(|(_, facts)| facts.session.as_ref().is_some_and(Cookies::has_route));
    let ways = json!({
        "round robin": is_shared && late.is_empty(),
        "ip_hash": true,
        "a session learned or a cookie of the front end": true,
        "login-relay": true,
        "replicated": is_shared,
        "route": routes,
    });
    let upstream = members.first().map(|(node, _)| node.cluster.clone()).unwrap_or_default();
    if shares == 0 && !known.is_empty() && replicated.contains(&upstream) {
        let text = "do not share their sessions, as the chosen --sessions replicated expects";
        report.fault(Check::Sessions, &nodes_of(members), text);
    }
    report.session_ways.insert(upstream, ways);
}

/// An attempt: the endpoint, and the status of its response.
type Attempt = (EndpointId, Option<StatusCode>);

/// The attempts of one request: the endpoints of those that began, and those that ended.
#[derive(Default, Clone)]
struct Attempts(Arc<Mutex<Vec<Attempt>>>, Arc<Mutex<Vec<EndpointId>>>);

impl Observer for Attempts {
    fn attempt_began(&self, event: &AttemptBegan<'_>) {
        self.1.lock().push(event.endpoint.clone());
    }

    fn attempt_ended(&self, event: &AttemptEnded<'_>) {
        self.0.lock().push((event.attempt.endpoint.clone(), event.attempt.status));
    }
}

impl Attempts {
    /// Returns whether a node did not know the login and another node got the request. The login
    /// relay would send it to the same node again.
    fn were_elsewhere(&self) -> bool {
        let attempts = self.0.lock();
        let is_elsewhere = |pair: &[Attempt]| match pair {
            [(one, status), (other, _)] => *status == Some(StatusCode::UNAUTHORIZED) && one != other,
            _ => false,
        };
        attempts.windows(2).any(is_elsewhere)
    }

    /// Returns why the next such request may reach a server that is not Kylin. Returns `None` if
    /// this one was sent, and only to clusters in which every eligible node is a Kylin.
    fn doubt(&self, nodes: &[Seen], path: &str) -> Option<String> {
        let begun = self.1.lock();
        let is_begun = |(node, _): &&Seen| begun.iter().any(|id| node.id == id.as_str());
        let clusters: BTreeSet<&str> = nodes.iter().filter(is_begun).map(|(node, _)| &*node.cluster).collect();
        let is_listed = |id: &EndpointId| nodes.iter().any(|(node, _)| node.id == id.as_str());
        let may_be_picked = |(node, _): &&Seen| !node.is_down && clusters.contains(&*node.cluster);
        let others: Vec<&Seen> = nodes.iter().filter(may_be_picked).filter(|(_, facts)| !facts.is_kylin()).collect();
        if begun.is_empty()
            || !begun.iter().all(is_listed)
            || others.iter().any(|(_, facts)| facts.unreachable.is_none())
        {
            return Some(format!("{path} of localhost may reach a server that is no Kylin"));
        }
        let ids = nodes_of(&others).join(", ");
        (!others.is_empty()).then(|| format!("no response shows whether a Kylin is at the address of {ids}"))
    }

    /// Returns the facts about the node of the last attempt.
    fn last<'n>(&self, nodes: &'n [Seen]) -> Option<&'n Facts> {
        let last = self.1.lock().last()?.clone();
        let is_last = |(node, facts): &&Seen| node.id == last.as_str() && facts.is_kylin();
        nodes.iter().find(is_last).map(|(_, facts)| facts)
    }
}

/// Returns whether the responses of every eligible node are those of a Kylin.
fn are_kylins<'n>(mut nodes: impl Iterator<Item = &'n Seen>) -> bool {
    nodes.all(|(node, facts)| node.is_down || facts.is_kylin())
}

/// Logs in through the front end, and sends enough requests with the login that each node could get
/// some. Sends the login only if a request without one has shown that it reaches nothing but Kylin
/// nodes.
pub async fn through_front_end(front: &Front, nodes: &[Seen], login: &Login, report: &mut Report) {
    let Some((Node { timeout, .. }, _)) = nodes.iter().find(|(_, facts)| facts.session.is_some()) else {
        let text = "a login through the front end was not tried: no node has accepted the login";
        return report.unchecked(Check::Sessions, &[], text);
    };
    for way in 0..front.count() {
        let send = async |method, path, cookies: &Cookies, login, attempts: Attempts| {
            let mut request = request(method, path, Some(cookies), login);
            request.headers_mut().insert(http::header::HOST, http::HeaderValue::from_static("localhost"));
            request.extensions_mut().insert(RequestObserver::new(attempts));
            let exchange = async { Reply::read(front.send(way, request).await).await };
            let timed_out = |_| format!("no complete response within {} s", timeout.as_secs_f64());
            tokio::time::timeout(*timeout, exchange).await.map_err(timed_out)?
        };
        let mut cookies = Cookies::default();
        let path = "/kylin/api/user/authentication";
        if !are_kylins(nodes.iter()) {
            let attempts = Attempts::default();
            _ = send(Method::POST, path, &cookies, None, attempts.clone()).await;
            if let Some(doubt) = attempts.doubt(nodes, path) {
                let text = format!("a login through the front end was not tried: {doubt}");
                report.unchecked(Check::Sessions, &[], text);
                continue;
            }
        }
        let attempts = Attempts::default();
        match send(Method::POST, path, &cookies, Some(login), attempts.clone()).await {
            Ok(reply) if reply.status == StatusCode::OK => cookies.store(&reply.headers),
            other => {
                let is_refused = matches!(&other, Ok(reply) if reply.status == StatusCode::UNAUTHORIZED);
                let reason = other.map_or_else(|error| error, |reply| format!("status {}", reply.status));
                let text = format!("a login through the front end was not tried: {reason} to {path} of localhost");
                report.unchecked(Check::Sessions, &[], text);
                // Kylin 5 locks a user after three wrong passwords.
                if is_refused {
                    return;
                }
                continue;
            }
        }
        let Some(facts) = attempts.last(nodes) else {
            let text = "a login through the front end was not followed: no node of the source has responded to it";
            report.unchecked(Check::Sessions, &[], text);
            continue;
        };
        let count = 3 * nodes.len() + 2;
        let mut elsewhere = 0;
        for number in 1..=count {
            let attempts = Attempts::default();
            let problem = match send(Method::GET, private_call(facts), &cookies, None, attempts.clone()).await {
                Ok(reply) if reply.status == StatusCode::OK => {
                    cookies.store(&reply.headers);
                    elsewhere += usize::from(attempts.were_elsewhere());
                    continue;
                }
                Ok(reply) if reply.status == StatusCode::UNAUTHORIZED => {
                    let status = reply.status;
                    let text = format!(
                        "a login through the front end is lost at request {number} of {count}: status {status}"
                    );
                    report.fault(Check::Sessions, &[], text);
                    elsewhere = 0;
                    break;
                }
                Ok(reply) => format!("status {}", reply.status),
                Err(error) => error,
            };
            let text =
                format!("whether a login through the front end is kept: {problem} to request {number} of {count}");
            report.unchecked(Check::Sessions, &[], text);
            break;
        }
        if elsewhere > 0 {
            let text = format!(
                "a login through the front end is not kept with its node: {elsewhere} of {count} requests reached one that does \
                 not know it, and were repeated at another, for which the front end has a budget"
            );
            report.fault(Check::Sessions, &[], text);
        }
        // Otherwise the session would live for hours.
        _ = send(Method::GET, logout(facts), &cookies, None, Attempts::default()).await;
    }
}

/// Ends the session of the login at each node, which would otherwise live for hours.
pub async fn log_out(nodes: &[Seen]) {
    for (node, facts) in nodes {
        if let Some(session) = &facts.session {
            _ = node.get(logout(facts), session).await;
        }
    }
}

fn logout(facts: &Facts) -> &'static str {
    if facts.is_kylin5 { "/kylin/api/j_spring_security_logout" } else { "/kylin/j_spring_security_logout" }
}
