//! The cluster: its nodes with their settings, and its policy.

use std::error::Error;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use kylin_lb::cluster::ClusterError;
use kylin_lb::discovery::DiscoveredNode;
use kylin_lb::endpoint::{AdminState, Roles};
use kylin_lb::health::Outlier;
use kylin_lb::nginx::PolicyName;
use kylin_lb::{Cluster, Endpoint, HttpBackend};

use crate::args::Args;
use crate::tls::TlsOptions;

/// A node named on the command line.
pub struct Node {
    node: DiscoveredNode,
    /// The node's jvmRoute.
    route: Option<String>,
    settings: NodeSettings,
}

/// The settings of a node, or the defaults of all nodes. The names are nginx's.
#[derive(Clone, Default)]
pub struct NodeSettings {
    weight: Option<NonZeroU32>,
    /// 0 is no limit, as in nginx.
    pub max_conns: Option<u32>,
    max_fails: Option<u32>,
    fail_timeout: Option<Duration>,
    slow_start: Option<Duration>,
    pub connect_timeout: Option<Duration>,
    pub read_timeout: Option<Duration>,
    backup: bool,
    admin_state: AdminState,
    https: bool,
}

const SETTINGS: &str = "weight=N, max_conns=N, max_fails=N, fail_timeout=TIME, slow_start=TIME, connect_timeout=TIME, \
                        read_timeout=TIME, backup, down or drain";

/// Parses `[NAME@]HOST:PORT[=ROLE] [SETTING]...`, separated by commas.
pub fn parse(text: &str) -> Result<Vec<Node>, String> {
    text.split(',').map(|node| Node::parse(node.trim())).collect()
}

impl Node {
    fn parse(text: &str) -> Result<Self, String> {
        let (text, settings) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let (name, rest) = match text.rsplit_once('@') {
            // Kylin's own list has the form `USER:PASSWORD@HOST:PORT`. User and password are
            // dropped; a password may contain an `@`.
            Some((credentials, rest)) if credentials.contains(':') => (None, rest),
            Some((name, rest)) => (Some(name), rest),
            None => (None, text),
        };
        let (address, roles) = match rest.split_once('=') {
            Some((address, role)) => (address, role.parse::<Roles>().map_err(|error| format!("{address}: {error}"))?),
            None => (rest, Roles::ALL),
        };
        let mut settings = NodeSettings::parse(settings).map_err(|error| format!("{address}: {error}"))?;
        let address = match address.strip_prefix("https://") {
            Some(_) if cfg!(not(feature = "tls")) => {
                return Err(format!("{address}: this build has no TLS: build it with --features tls"));
            }
            Some(address) => {
                settings.https = true;
                address
            }
            None => address,
        };
        let node = DiscoveredNode::new(address).map_err(|error| error.to_string())?.with_roles(roles);
        let node = match name {
            Some(name) => node.with_id(name).map_err(|error| format!("{address}: {error}"))?,
            None => node,
        };
        Ok(Node { node, route: name.map(str::to_owned), settings })
    }

    pub fn is_https(&self) -> bool {
        self.settings.https
    }

    /// Returns a node from a source without settings of its own.
    pub fn discovered(node: DiscoveredNode) -> Self {
        Node { node, route: None, settings: NodeSettings::default() }
    }

    /// Returns a demo node.
    pub fn demo(name: &str, address: std::net::SocketAddr) -> Self {
        let node = DiscoveredNode::new(&address.to_string()).expect("a socket address is valid");
        let node = node.with_id(name).expect("a demo name is a valid id");
        Node { node, route: Some(name.to_owned()), settings: NodeSettings::default() }
    }
}

impl NodeSettings {
    fn parse(text: &str) -> Result<Self, String> {
        let mut settings = NodeSettings::default();
        for word in text.split_whitespace() {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            let number = || value.parse::<u32>().map_err(|_| format!("{word}: expected {name}=N"));
            let positive =
                || number().and_then(|number| NonZeroU32::new(number).ok_or(format!("{word}: 0 is no {name}")));
            let time_or_zero = || time_or_zero(value).ok_or_else(|| format!("{word}: {EXPECTED_TIME}"));
            let time = || time(value).map_err(|error| format!("{word}: {error}"));
            match name {
                "weight" => settings.weight = Some(positive()?),
                "max_conns" => settings.max_conns = Some(number()?),
                "max_fails" => settings.max_fails = Some(number()?),
                "fail_timeout" => settings.fail_timeout = Some(time_or_zero()?),
                "slow_start" => settings.slow_start = Some(time_or_zero()?),
                "connect_timeout" => settings.connect_timeout = Some(time()?),
                "read_timeout" => settings.read_timeout = Some(time()?),
                "backup" if word == name => settings.backup = true,
                "down" if word == name => settings.admin_state = AdminState::Maintenance,
                "drain" if word == name => settings.admin_state = AdminState::Drain,
                _ => return Err(format!("{word}: expected {SETTINGS}")),
            }
        }
        Ok(settings)
    }

    /// Makes the endpoint of a node. `head_timeout` is the time that Kylin's own files allow for a
    /// query.
    pub fn endpoint(
        &self,
        node: &DiscoveredNode,
        head_timeout: Option<Duration>,
        args: &DefaultSettings,
    ) -> Result<Endpoint<HttpBackend>, Box<dyn Error + Send + Sync>> {
        let mut backend = HttpBackend::builder(node.address())?;
        if let Some(timeout) = self.connect_timeout.or(args.settings.connect_timeout) {
            backend = backend.connect_timeout(timeout);
        }
        // As in nginx, the time limits the head and each piece of the body.
        match self.read_timeout.or(args.settings.read_timeout) {
            Some(timeout) => backend = backend.head_timeout(timeout).body_timeout(timeout),
            None => backend = head_timeout.into_iter().fold(backend, |backend, timeout| backend.head_timeout(timeout)),
        }
        #[cfg(feature = "tls")]
        if self.https {
            backend = backend.tls(&args.tls.nodes()?)?;
        }
        let mut endpoint = node.endpoint(backend.build()?)?;
        // nginx's `max_fails=1` applies if the default outlier rule is turned off.
        let max_fails = self.max_fails.or(self.fail_timeout.map(|_| 1)).or((!args.outlier).then_some(1));
        if let Some(fails) = max_fails {
            endpoint = endpoint.max_fails(NonZeroU32::new(fails));
        }
        if let Some(timeout) = self.fail_timeout {
            endpoint = endpoint.fail_timeout(timeout);
        }
        if let Some(ramp) = self.slow_start {
            endpoint = endpoint.slow_start(ramp);
        }
        if let Some(weight) = self.weight {
            endpoint = endpoint.weight(weight);
        }
        if self.backup {
            endpoint = endpoint.backup(true);
        }
        if self.admin_state != AdminState::Ready {
            endpoint = endpoint.admin_state(self.admin_state);
        }
        Ok(endpoint.max_in_flight(self.max_conns.or(args.settings.max_conns).and_then(NonZeroU32::new)))
    }
}

/// The settings of nodes that set nothing themselves.
#[derive(Clone)]
pub struct DefaultSettings {
    pub settings: NodeSettings,
    pub outlier: bool,
    #[cfg_attr(not(feature = "tls"), allow(dead_code, reason = "only TLS asks"))]
    pub tls: Arc<TlsOptions>,
}

/// Builds the cluster of these nodes; there are none if discovery adds them later. `head_timeout`
/// is the time that Kylin's own files allow for a query.
pub fn cluster(nodes: &[Node], head_timeout: Option<Duration>, args: &Args) -> Result<Cluster, Box<dyn Error>> {
    let mut endpoints = Vec::new();
    for Node { node, route, settings } in nodes {
        let endpoint = settings.endpoint(node, head_timeout, &args.default_settings());
        let endpoint = endpoint.map_err(|error| error.to_string())?;
        endpoints.push(match route {
            Some(route) => endpoint.route(route),
            None => endpoint,
        });
    }
    let policy = args.policy.unwrap_or(PolicyName::LeastConn);
    let outlier = Outlier::new().drain(args.drain);
    let cluster = Cluster::builder()
        .endpoints(endpoints)
        .balancer(policy.balancer(args.kylin && args.single_flight))
        .outlier(outlier);
    Ok(cluster.panic_mode(args.panic).build().map_err(|error: ClusterError| format!("--nodes: {error}"))?)
}

const EXPECTED_TIME: &str = "expected a time such as 500ms, 5s, 5m or 1h";

/// Parses a time as nginx writes it: `500ms`, `5s`, `5m`, `1h`, or a number of seconds.
pub fn time(text: &str) -> Result<Duration, String> {
    time_or_zero(text).filter(|time| !time.is_zero()).ok_or_else(|| EXPECTED_TIME.to_owned())
}

fn time_or_zero(text: &str) -> Option<Duration> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "ms" => Some(Duration::from_millis(1)),
        "" | "s" => Some(Duration::from_secs(1)),
        "m" => Some(Duration::from_secs(60)),
        "h" => Some(Duration::from_secs(3600)),
        _ => None,
    };
    unit.zip(digits.parse::<u32>().ok()).and_then(|(unit, number)| unit.checked_mul(number))
}
