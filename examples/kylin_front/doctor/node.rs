//! A node, the requests to it, and the facts that its responses show.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use kylin_lb::backend::http1::Address;
use kylin_lb::endpoint::{Role, Roles};
use kylin_lb::health::ProbeLevel;
use kylin_lb::kylin::MetadataUrl;
use kylin_lb::kylin::properties::{Properties, ServerAddr};
use kylin_lb::{Backend as _, Body, HttpBackend};
use serde_json::Value;

/// The maximum length of a body that is read. A list of projects may have a few hundred KiB.
const MAX_BODY: usize = 8 << 20;
/// Kylin 5 rejects requests without it.
const USER_AGENT: HeaderValue =
    HeaderValue::from_static(concat!("kylin_front/", env!("CARGO_PKG_VERSION"), " (doctor)"));

/// The cookies of one client.
#[derive(Default, Clone)]
pub struct Cookies(BTreeMap<String, String>);

impl Cookies {
    pub fn store(&mut self, headers: &HeaderMap) {
        for line in headers.get_all(header::SET_COOKIE).iter().filter_map(|line| line.to_str().ok()) {
            let pair = line.split(';').next().and_then(|pair| pair.split_once('='));
            let Some((name, value)) = pair.map(|(name, value)| (name.trim(), value.trim())) else { continue };
            match value {
                "" => _ = self.0.remove(name),
                value => _ = self.0.insert(name.to_owned(), value.to_owned()),
            }
        }
    }

    pub fn header(&self) -> Option<HeaderValue> {
        let pairs: Vec<String> = self.0.iter().map(|(name, value)| format!("{name}={value}")).collect();
        HeaderValue::try_from(pairs.join("; ")).ok().filter(|_| !pairs.is_empty())
    }

    /// Returns the name of Kylin 5's session cookie, a digest of its metadata URL.
    fn digest(&self) -> Option<String> {
        let is_digest = |name: &&String| name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
        self.0.keys().find(is_digest).cloned()
    }

    /// Returns whether an id of a session ends in a route: Tomcat's `jvmRoute`.
    pub fn has_route(&self) -> bool {
        self.0.get("JSESSIONID").is_some_and(|id| id.contains('.'))
    }
}

/// A user of Kylin.
pub struct Login(HeaderValue);

impl Login {
    /// Reads `USER:PASSWORD` in the first line of `file`.
    pub fn read(file: &str) -> Result<Self, String> {
        let text = std::fs::read_to_string(file).map_err(|error| format!("--login-file {file}: {error}"))?;
        let line = text.lines().next().unwrap_or_default().trim_start_matches('\u{feff}');
        if line.split_once(':').is_none_or(|(user, _)| user.trim().is_empty()) {
            return Err(format!("--login-file {file}: expected USER:PASSWORD in the first line"));
        }
        let encoded = base64::engine::general_purpose::STANDARD.encode(line);
        let mut value = HeaderValue::try_from(format!("Basic {encoded}")).expect("base64 is a valid header value");
        value.set_sensitive(true);
        Ok(Login(value))
    }
}

/// Returns a request without a body.
pub fn request(method: Method, path: &str, cookies: Option<&Cookies>, login: Option<&Login>) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path).header(header::USER_AGENT, USER_AGENT);
    request = request.header(header::ACCEPT, "application/json");
    if let Some(cookies) = cookies.and_then(Cookies::header) {
        request = request.header(header::COOKIE, cookies);
    }
    if let Some(Login(value)) = login {
        request = request.header(header::AUTHORIZATION, value.clone()).header(header::CONTENT_TYPE, "application/json");
    }
    request.body(Body::empty()).expect("a path of this program is valid")
}

/// A whole response.
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Reply {
    pub async fn read(response: http::Response<Body>) -> Result<Self, String> {
        let (head, body) = response.into_parts();
        let body = Limited::new(body, MAX_BODY).collect().await.map_err(|error| error.to_string())?;
        Ok(Reply { status: head.status, headers: head.headers, body: body.to_bytes() })
    }

    /// Returns the JSON without Kylin's envelope, if the status is 200.
    fn json(&self) -> Option<Value> {
        let mut json: Value = serde_json::from_slice(&self.body).ok().filter(|_| self.status == StatusCode::OK)?;
        Some(if json.get("code").is_some() && json.get("data").is_some() { json["data"].take() } else { json })
    }

    /// Returns whether the body is JSON, and not a page of Tomcat or of the web interface, or JSON
    /// of another server.
    fn is_json_object(&self) -> bool {
        self.json().is_some_and(|json| json.is_object())
    }
}

/// A node, and how the front end reaches it.
pub struct Node {
    pub id: String,
    /// The name of the cluster, or of the upstream.
    pub cluster: String,
    pub address: Address,
    /// The roles that the arguments give the node.
    pub given: Roles,
    /// Whether the operator took the node out of service. Such a node gets no requests.
    pub is_down: bool,
    pub backend: Arc<HttpBackend>,
    /// The timeout for a response.
    pub timeout: Duration,
}

impl Node {
    pub async fn send(&self, mut request: Request<Body>) -> Result<Reply, String> {
        let host = self.backend.host().unwrap_or(HeaderValue::from_static("localhost"));
        request.headers_mut().insert(header::HOST, host);
        let exchange = async {
            let response = self.backend.send(request).await.map_err(|error| {
                // Only the text is kept, because the error itself may contain the request.
                let mut text = error.to_string();
                let mut cause = std::error::Error::source(&error);
                while let Some(error) = cause {
                    text += &format!(": {error}");
                    cause = error.source();
                }
                text
            })?;
            Reply::read(response).await
        };
        let timed_out = |_| format!("no complete response within {} s", self.timeout.as_secs_f64());
        tokio::time::timeout(self.timeout, exchange).await.map_err(timed_out)?
    }

    pub async fn get(&self, path: &str, cookies: &Cookies) -> Result<Reply, String> {
        self.send(request(Method::GET, path, Some(cookies), None)).await
    }
}

/// The facts that the responses of a node show.
#[derive(Default)]
pub struct Facts {
    /// The reason why the node does not respond.
    pub unreachable: Option<String>,
    pub level: Option<ProbeLevel>,
    /// The version and the commit.
    pub version: Option<(String, String)>,
    /// The bounds of the number of seconds by which the node's clock is ahead of this machine's.
    pub clock: Option<(i64, i64)>,
    pub is_kylin5: bool,
    /// The parts that Kylin 5 reports as down.
    pub down_parts: Vec<String>,
    /// The name of Kylin 5's session cookie.
    pub cookie_name: Option<String>,
    /// The ids of the projects, by name.
    pub projects: BTreeMap<String, String>,
    /// The configuration, which an administrator's login shows. Kylin 5 has no such call.
    pub config: Option<Properties>,
    /// The properties that everyone may see.
    pub public_config: Option<Properties>,
    /// The nodes that the node knows from discovery.
    pub discovered: Option<Vec<(String, Roles)>>,
    /// Whether the node is elected to run the jobs; `None` without an election.
    pub is_leader: Option<bool>,
    /// The session of the login.
    pub session: Option<Cookies>,
    pub is_admin: bool,
}

impl Facts {
    /// Reads the facts that a node shows without a login.
    pub async fn of(node: &Node) -> Self {
        let mut facts = Facts::default();
        if node.is_down {
            return facts;
        }
        let none = Cookies::default();
        let begun = seconds_now();
        let reply = match node.get("/kylin/api/admin/version", &none).await {
            Ok(reply) => reply,
            Err(error) => return Facts { unreachable: Some(error), ..facts },
        };
        facts.clock = clock(&reply, begun, seconds_now());
        facts.level = (!reply.status.is_server_error()).then_some(ProbeLevel::Tcp);
        if let Some(json) = reply.json().filter(|json| json.get("kylin.version").is_some()) {
            let text = |key: &str| json[key].as_str().unwrap_or_default().to_owned();
            facts.version = Some((text("kylin.version"), text("kylin.version.commitId")));
            facts.level = Some(ProbeLevel::Version);
        } else if let Ok(reply) = node.get("/kylin/api/user/authentication", &none).await
            && (reply.status == StatusCode::UNAUTHORIZED || reply.is_json_object())
        {
            facts.level = Some(ProbeLevel::Authentication);
        }
        if facts.level < Some(ProbeLevel::Authentication) {
            return facts;
        }
        if let Ok(reply) = node.get("/kylin/api/projects", &none).await {
            let mut cookies = Cookies::default();
            cookies.store(&reply.headers);
            facts.cookie_name = cookies.digest();
            facts.projects = projects(&reply).unwrap_or_default();
        }
        let is_five = facts.version.as_ref().is_some_and(|(version, _)| version.starts_with("5"));
        facts.is_kylin5 = is_five || facts.cookie_name.is_some();
        if let Ok(reply) = node.get("/kylin/api/admin/public_config", &none).await {
            facts.public_config = config(&node.id, &reply);
        }
        if facts.is_kylin5 {
            facts.down_parts =
                node.get("/kylin/api/health", &none).await.map(|reply| down_parts(&reply)).unwrap_or_default();
        } else if let Ok(reply) = node.get("/kylin/api/service_discovery/state/is_active_job_node", &none).await {
            facts.is_leader = reply.json().and_then(|json| json.as_bool());
        }
        facts
    }

    /// Returns whether the node responds as Kylin.
    pub fn is_kylin(&self) -> bool {
        self.level > Some(ProbeLevel::Tcp)
    }

    /// Logs in. Returns whether the node refused the login.
    pub async fn log_in(&mut self, node: &Node, login: &Login) -> Result<bool, String> {
        let reply = node.send(request(Method::POST, "/kylin/api/user/authentication", None, Some(login))).await?;
        if reply.status != StatusCode::OK {
            return match reply.status {
                StatusCode::UNAUTHORIZED => Ok(true),
                status => Err(format!("status {status} to a login")),
            };
        }
        let details = reply.json().unwrap_or_default();
        let details = details.get("userDetails").unwrap_or(&details);
        let authorities = details["authorities"].as_array().into_iter().flatten();
        self.is_admin = authorities.into_iter().any(|authority| authority["authority"] == "ROLE_ADMIN");
        let mut cookies = Cookies::default();
        cookies.store(&reply.headers);
        self.session = Some(cookies);
        Ok(false)
    }

    /// Reads the facts that a node shows to a logged-in user.
    pub async fn learn_more(&mut self, node: &Node) {
        let Some(session) = self.session.clone() else { return };
        if let Ok(reply) = node.get("/kylin/api/projects", &session).await
            && let Some(projects) = projects(&reply)
        {
            self.projects = projects;
        }
        let list = if self.is_kylin5 {
            node.get("/kylin/api/system/servers?ext=true", &session).await
        } else {
            node.get("/kylin/api/service_discovery/state/all", &session).await
        };
        self.discovered = list.ok().and_then(|reply| discovered(&reply.json()?));
        if self.is_admin && !self.is_kylin5 {
            let reply = node.get("/kylin/api/admin/config", &session).await;
            self.config = reply.ok().and_then(|reply| config(&node.id, &reply));
        }
    }

    pub fn metadata_url(&self) -> Option<MetadataUrl> {
        self.config.as_ref()?.get("kylin.metadata.url").map(MetadataUrl::parse)
    }

    /// Returns the roles that the node itself states.
    pub fn roles(&self) -> Option<Roles> {
        self.config.as_ref()?.server_mode().ok()
    }
}

fn seconds_now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// Returns the minimum and the maximum number of seconds by which the node's clock was ahead when
/// it made the response.
fn clock(reply: &Reply, begun: i64, ended: i64) -> Option<(i64, i64)> {
    let date = httpdate::parse_http_date(reply.headers.get(header::DATE)?.to_str().ok()?).ok()?;
    let date = i64::try_from(date.duration_since(UNIX_EPOCH).ok()?.as_secs()).ok()?;
    // A date has whole seconds, and Tomcat updates it once a second.
    Some((date.saturating_sub(ended), date.saturating_add(1).saturating_sub(begun)))
}

/// Reads `{"config":"key=value\n…"}`, which has no escapes.
fn config(node: &str, reply: &Reply) -> Option<Properties> {
    let json = reply.json()?;
    Properties::parse(node, &json.get("config")?.as_str()?.replace('\\', "\\\\")).ok()
}

/// Reads a list of projects, bare or under a name.
fn projects(reply: &Reply) -> Option<BTreeMap<String, String>> {
    let json = reply.json()?;
    let mut lists = [Some(&json), json.get("projects"), json.get("value")].into_iter().flatten();
    let text = |project: &Value, key: &str| project[key].as_str().map(str::to_owned);
    let list = lists.find_map(Value::as_array)?.iter();
    list.map(|project| Some((text(project, "name")?, text(project, "uuid")?))).collect()
}

/// Reads the nodes that Kylin 5 lists (`[{"host", "mode"}]`), or that Kylin 3 and 4 discover.
fn discovered(json: &Value) -> Option<Vec<(String, Roles)>> {
    let address = |text: &Value| ServerAddr::parse(text.as_str()?).map(|address| address.to_string());
    if let Some(servers) = json.as_array() {
        let server = |server: &Value| Some((address(&server["host"])?, Roles::parse(server["mode"].as_str()?).ok()?));
        return servers.iter().map(server).collect();
    }
    let is_in = |list: &str, node: &Value| json[list].as_array().is_some_and(|list| list.contains(node));
    let node = |node: &Value| {
        let mut roles = Roles::NONE;
        for (list, role) in [("queryNodes", Role::Query), ("jobNodes", Role::Job)] {
            roles = if is_in(list, node) { roles.with(role) } else { roles };
        }
        Some((address(node)?, roles))
    };
    json["allNodes"].as_array()?.iter().map(node).collect()
}

/// Returns the parts of Kylin 5 that are not up.
fn down_parts(reply: &Reply) -> Vec<String> {
    let json: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    if json["status"].as_str().is_none_or(|status| status == "UP") {
        return Vec::new();
    }
    let parts = json["components"].as_object().into_iter().flatten();
    let mut down: Vec<String> =
        parts.filter(|(_, part)| part["status"] != "UP").map(|(name, _)| name.clone()).collect();
    if down.is_empty() {
        down.push("the node".into());
    }
    down
}
