//! Connections to the three kinds of Redis deployments.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::cluster::{ClusterClient, ClusterClientBuilder};
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::SingleNodeRoutingInfo;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, RedisConnectionInfo,
    RedisError, RedisResult, TlsCertificates, Value, cmd,
};
use tokio::task::JoinSet;

use super::failure::SYSTEM;
use crate::session::store::remote::{Failure, Login, Server, Tls, hosts};

/// The time limit for a server to accept a connection and a login.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// The time limit for a response. A caller's deadline is much shorter.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(1);
/// The time for which sent data may stay unacknowledged before the connection counts as broken.
#[cfg(target_os = "linux")]
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(2);

/// The servers that hold the records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Topology {
    Single(Server),
    Sentinel { sentinels: Vec<Server>, master: String },
    Cluster(Vec<Server>),
}

/// Opens connections.
#[derive(Debug)]
pub(super) struct Connector {
    pub(super) topology: Topology,
    pub(super) login: Login,
    pub(super) sentinel_login: Login,
    pub(super) database: u32,
    pub(super) tls: Tls,
}

/// A connection that any number of requests share.
#[derive(Clone)]
pub(super) enum RedisConnection {
    Single(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Topology {
    pub(super) fn is_cluster(&self) -> bool {
        matches!(self, Topology::Cluster(_))
    }
}

impl fmt::Display for Topology {
    /// Shows the address without a login.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Topology::Single(server) => write!(f, "redis://{}", hosts([server])),
            Topology::Sentinel { sentinels, master } => write!(f, "redis+sentinel://{}/{master}", hosts(sentinels)),
            Topology::Cluster(nodes) => write!(f, "redis+cluster://{}", hosts(nodes)),
        }
    }
}

impl RedisConnection {
    pub(super) async fn send(&mut self, command: &Cmd) -> RedisResult<Value> {
        match self {
            RedisConnection::Single(connection) => connection.send_packed_command(command).await?.extract_error(),
            RedisConnection::Cluster(connection) => {
                let response = command.query_async(connection).await;
                match response.as_ref().err().and_then(ask_redirect) {
                    Some(node) => send_asking(connection, command, node).await,
                    None => response,
                }
            }
        }
    }
}

/// Returns the node to which a slot is moving, if the error is an `ASK` redirect.
fn ask_redirect(error: &RedisError) -> Option<Server> {
    let (address, _slot) = error.redirect_node().filter(|_| error.code() == Some("ASK"))?;
    let (host, port) = address.rsplit_once(':')?;
    Some((host.to_owned(), port.parse().ok()?))
}

/// Sends a command to the node to which its slot is moving. The driver sends `ASKING` and the
/// command separately. On a shared connection, another command can come between and use up the
/// `ASKING`; the node then redirects this command back. In one pipeline they stay together.
async fn send_asking(connection: &mut ClusterConnection, command: &Cmd, (host, port): Server) -> RedisResult<Value> {
    let mut both = redis::Pipeline::with_capacity(2);
    both.cmd("ASKING").add_command(command.clone());
    let node = SingleNodeRoutingInfo::ByAddress { host, port };
    let mut responses = connection.route_pipeline(both, 1, 1, node).await?;
    responses.pop().unwrap_or(Value::Nil).extract_error()
}

impl Connector {
    pub(super) async fn connect(&self) -> Result<RedisConnection, Failure> {
        match &self.topology {
            Topology::Single(server) => Ok(RedisConnection::Single(self.connect_to_server(server).await?)),
            Topology::Sentinel { sentinels, master } => {
                Ok(RedisConnection::Single(self.connect_to_master(sentinels, master).await?))
            }
            Topology::Cluster(nodes) => {
                Ok(RedisConnection::Cluster(self.cluster_client(nodes)?.get_async_connection().await?))
            }
        }
    }

    /// Asks all Sentinels at once for the master, and takes the first response that proves to be
    /// right. A Sentinel may not respond, or may not have noticed a failover yet.
    async fn connect_to_master(&self, sentinels: &[Server], master: &str) -> Result<MultiplexedConnection, Failure> {
        let master: Arc<str> = master.into();
        let mut lookups: JoinSet<RedisResult<Option<Server>>> = JoinSet::new();
        for sentinel in sentinels {
            let client = self.client(sentinel, &self.sentinel_login, 0);
            let master = master.clone();
            lookups.spawn(async move {
                let mut connection = connect(client).await?;
                cmd("SENTINEL").arg("get-master-addr-by-name").arg(&*master).query_async(&mut connection).await
            });
        }
        let mut last_failure = Failure::unavailable(SYSTEM, "no Sentinel can be reached");
        let mut attempted = Vec::new();
        while let Some(lookup) = lookups.join_next().await {
            match lookup {
                Ok(Ok(Some(server))) if attempted.contains(&server) => {}
                Ok(Ok(Some(server))) => match self.connect_if_master(&server).await {
                    Ok(connection) => return Ok(connection),
                    Err(failure) => {
                        last_failure = failure;
                        attempted.push(server);
                    }
                },
                Ok(Ok(None)) => {
                    last_failure = Failure::refused(SYSTEM, "the Sentinels know no master of this name");
                }
                Ok(Err(error)) if attempted.is_empty() => last_failure = error.into(),
                Ok(Err(_)) | Err(_) => {}
            }
        }
        Err(last_failure)
    }

    async fn connect_to_server(&self, server: &Server) -> RedisResult<MultiplexedConnection> {
        connect(self.client(server, &self.login, self.database)).await
    }

    /// Connects to the server that a Sentinel named, and checks that it is a master.
    async fn connect_if_master(&self, server: &Server) -> Result<MultiplexedConnection, Failure> {
        let mut connection = self.connect_to_server(server).await?;
        let role: Value = cmd("ROLE").query_async(&mut connection).await?;
        match &role {
            Value::Array(parts) if parts.first() == Some(&Value::BulkString(b"master".to_vec())) => Ok(connection),
            _ => Err(Failure::unavailable(SYSTEM, "the master is changing")),
        }
    }

    fn connection_info(&self, server: &Server, login: &Login, database: u32) -> RedisResult<ConnectionInfo> {
        let (host, port) = server.clone();
        let address = match &self.tls {
            Tls::Off => ConnectionAddr::Tcp(host, port),
            Tls::DefaultRoots | Tls::Roots(_) => {
                ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
            }
        };
        let mut settings = RedisConnectionInfo::default().set_db(i64::from(database)).set_skip_set_lib_name();
        if let Some(user) = &login.user {
            settings = settings.set_username(user);
        }
        if let Some(password) = &login.password {
            settings = settings.set_password(password);
        }
        Ok(address.into_connection_info()?.set_redis_settings(settings).set_tcp_settings(tcp_settings()))
    }

    fn client(&self, server: &Server, login: &Login, database: u32) -> RedisResult<Client> {
        let info = self.connection_info(server, login, database)?;
        match self.certificates() {
            None => Client::open(info),
            Some(certificates) => Client::build_with_tls(info, certificates),
        }
    }

    /// Returns the certificates for the driver, or `None` without TLS.
    fn certificates(&self) -> Option<TlsCertificates> {
        let root_cert = match &self.tls {
            Tls::Off => return None,
            Tls::DefaultRoots => None,
            Tls::Roots(pem) => Some(pem.clone()),
        };
        Some(TlsCertificates { client_tls: None, root_cert })
    }

    /// Returns a client of a cluster. The driver makes one or two quick attempts of its own, which
    /// follow a slot that has moved.
    fn cluster_client(&self, nodes: &[Server]) -> RedisResult<ClusterClient> {
        let nodes: Vec<_> =
            nodes.iter().map(|node| self.connection_info(node, &self.login, 0)).collect::<Result<_, RedisError>>()?;
        let mut builder = ClusterClientBuilder::new(nodes)
            .connection_timeout(CONNECT_TIMEOUT)
            .response_timeout(RESPONSE_TIMEOUT)
            .overall_response_timeout(Some(2 * RESPONSE_TIMEOUT))
            .retries(2)
            .min_retry_wait(2)
            .max_retry_wait(12)
            .tcp_settings(tcp_settings());
        if let Some(certificates) = self.certificates() {
            builder = builder.certs(certificates);
        }
        builder.build()
    }
}

async fn connect(client: RedisResult<Client>) -> RedisResult<MultiplexedConnection> {
    let settings = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(RESPONSE_TIMEOUT))
        // Enough for all requests in flight; each caller has its own deadline.
        .set_pipeline_buffer_size(1024);
    client?.get_multiplexed_async_connection_with_config(&settings).await
}

fn tcp_settings() -> TcpSettings {
    let settings = TcpSettings::default().set_nodelay(true);
    #[cfg(target_os = "linux")]
    let settings = settings.set_user_timeout(TCP_USER_TIMEOUT);
    settings
}
