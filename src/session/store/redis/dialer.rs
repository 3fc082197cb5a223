//! Connections to the three kinds of Redis.

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

use super::faults::{SYSTEM, fault};
use crate::session::store::remote::Fault;

/// How long one server may take to accept a connection, and a login on it.
const CONNECT: Duration = Duration::from_secs(1);
/// How long one server may take for one answer. Callers go at their own deadline, which is much shorter.
const ANSWER: Duration = Duration::from_secs(1);
/// How long what was sent may stay unacknowledged before the connection counts as broken.
const UNACKNOWLEDGED: Duration = Duration::from_secs(2);

/// Where the records are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Topology {
    Single(Server),
    Sentinel { sentinels: Vec<Server>, master: String },
    Cluster(Vec<Server>),
}

pub(super) type Server = (String, u16);

/// Who to log in as.
#[derive(Clone, Default)]
pub(super) struct Login {
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
}

/// All that is needed to connect.
pub(super) struct Dialer {
    pub(super) topology: Topology,
    pub(super) login: Login,
    pub(super) sentinel_login: Login,
    pub(super) database: u32,
    /// Present: over TLS.
    pub(super) tls: Option<TlsCertificates>,
}

/// A connection that any number of requests share.
#[derive(Clone)]
pub(super) enum Connection {
    Single(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Connection {
    pub(super) async fn ask(&mut self, command: &Cmd) -> RedisResult<Value> {
        match self {
            Connection::Single(connection) => connection.send_packed_command(command).await?.extract_error(),
            Connection::Cluster(connection) => {
                let answer = command.query_async(connection).await;
                match answer.as_ref().err().and_then(asks) {
                    Some(node) => ask_there(connection, command, node).await,
                    None => answer,
                }
            }
        }
    }
}

/// The node that a slot is moving to, where the error says so.
fn asks(error: &RedisError) -> Option<Server> {
    let (address, _slot) = error.redirect_node().filter(|_| error.code() == Some("ASK"))?;
    let (host, port) = address.rsplit_once(':')?;
    Some((host.to_owned(), port.parse().ok()?))
}

/// Sends a command to where its slot is moving. The driver does that too, but it sends `ASKING` apart from the command, and on a
/// connection that many share somebody else's command may come between, take the leave that was meant for this one, and
/// have this one sent back. Sent as one piece they stay together.
async fn ask_there(connection: &mut ClusterConnection, command: &Cmd, (host, port): Server) -> RedisResult<Value> {
    let mut both = redis::Pipeline::with_capacity(2);
    both.cmd("ASKING").add_command(command.clone());
    let there = SingleNodeRoutingInfo::ByAddress { host, port };
    let mut answers = connection.route_pipeline(both, 1, 1, there).await?;
    answers.pop().unwrap_or(Value::Nil).extract_error()
}

impl Dialer {
    pub(super) async fn dial(&self) -> Result<Connection, Fault> {
        match &self.topology {
            Topology::Single(server) => {
                let connection = connect(self.client(server, &self.login, self.database)).await;
                Ok(Connection::Single(connection.map_err(|error| fault(&error))?))
            }
            Topology::Sentinel { sentinels, master } => Ok(Connection::Single(self.find(sentinels, master).await?)),
            Topology::Cluster(nodes) => {
                let client = self.cluster(nodes).map_err(|error| fault(&error))?;
                let connection = client.get_async_connection().await.map_err(|error| fault(&error))?;
                Ok(Connection::Cluster(connection))
            }
        }
    }

    /// Asks all Sentinels at once who the master is, and takes the first answer that turns out right: one may be silent,
    /// another not have noticed a failover yet.
    async fn find(&self, sentinels: &[Server], master: &str) -> Result<MultiplexedConnection, Fault> {
        let master: Arc<str> = master.into();
        let mut asked: JoinSet<RedisResult<Option<Server>>> = JoinSet::new();
        for sentinel in sentinels {
            let client = self.client(sentinel, &self.sentinel_login, 0);
            let master = master.clone();
            asked.spawn(async move {
                let mut connection = connect(client).await?;
                cmd("SENTINEL").arg("get-master-addr-by-name").arg(&*master).query_async(&mut connection).await
            });
        }
        let mut why = Fault::unavailable(SYSTEM, "no Sentinel can be reached");
        let mut tried = Vec::new();
        while let Some(answer) = asked.join_next().await {
            match answer {
                Ok(Ok(Some(server))) if tried.contains(&server) => {}
                Ok(Ok(Some(server))) => match self.master(&server).await {
                    Ok(connection) => return Ok(connection),
                    Err(fault) => {
                        why = fault;
                        tried.push(server);
                    }
                },
                Ok(Ok(None)) => why = Fault::refused(SYSTEM, "the Sentinels know no master of this name"),
                Ok(Err(error)) if tried.is_empty() => why = fault(&error),
                Ok(Err(_)) | Err(_) => {}
            }
        }
        Err(why)
    }

    /// Connects to a server that is said to be the master, and makes sure that it is.
    async fn master(&self, server: &Server) -> Result<MultiplexedConnection, Fault> {
        let connected = connect(self.client(server, &self.login, self.database)).await;
        let mut connection = connected.map_err(|error| fault(&error))?;
        let role: Value = cmd("ROLE").query_async(&mut connection).await.map_err(|error| fault(&error))?;
        let is_master = match &role {
            Value::Array(parts) => matches!(parts.first(), Some(Value::BulkString(role)) if role == b"master"),
            _ => false,
        };
        if is_master { Ok(connection) } else { Err(Fault::unavailable(SYSTEM, "the master is changing")) }
    }

    fn info(&self, server: &Server, login: &Login, database: u32) -> RedisResult<ConnectionInfo> {
        let (host, port) = server.clone();
        let address = match &self.tls {
            None => ConnectionAddr::Tcp(host, port),
            Some(_) => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
        };
        let mut settings = RedisConnectionInfo::default().set_db(i64::from(database)).set_skip_set_lib_name();
        if let Some(user) = &login.user {
            settings = settings.set_username(user);
        }
        if let Some(password) = &login.password {
            settings = settings.set_password(password);
        }
        Ok(address.into_connection_info()?.set_redis_settings(settings).set_tcp_settings(tcp()))
    }

    fn client(&self, server: &Server, login: &Login, database: u32) -> RedisResult<Client> {
        let info = self.info(server, login, database)?;
        match &self.tls {
            None => Client::open(info),
            Some(certificates) => Client::build_with_tls(info, certificates.clone()),
        }
    }

    /// One or two quick attempts of its own, which lead it to where a slot has moved; the rest is the link's.
    fn cluster(&self, nodes: &[Server]) -> RedisResult<ClusterClient> {
        let nodes: Vec<_> =
            nodes.iter().map(|node| self.info(node, &self.login, 0)).collect::<Result<_, RedisError>>()?;
        let mut builder = ClusterClientBuilder::new(nodes)
            .connection_timeout(CONNECT)
            .response_timeout(ANSWER)
            .overall_response_timeout(Some(2 * ANSWER))
            .retries(2)
            .min_retry_wait(2)
            .max_retry_wait(12)
            .tcp_settings(tcp());
        if let Some(certificates) = &self.tls {
            builder = builder.certs(certificates.clone());
        }
        builder.build()
    }
}

async fn connect(client: RedisResult<Client>) -> RedisResult<MultiplexedConnection> {
    let settings = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT))
        .set_response_timeout(Some(ANSWER))
        // As many requests as a front end has under way; each caller has its own deadline.
        .set_pipeline_buffer_size(1024);
    client?.get_multiplexed_async_connection_with_config(&settings).await
}

fn tcp() -> TcpSettings {
    let settings = TcpSettings::default().set_nodelay(true);
    #[cfg(target_os = "linux")]
    let settings = settings.set_user_timeout(UNACKNOWLEDGED);
    settings
}
