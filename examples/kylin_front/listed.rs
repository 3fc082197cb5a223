//! A front end for listed nodes: those of an option, of a file, of ZooKeeper or of Kylin's
//! properties.

use std::error::Error;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use kylin_lb::nginx::{ProbeMode, SessionMode};
use kylin_lb::observe::Watch;
use kylin_lb::probe::HealthChecker;
use kylin_lb::proxy::{KylinRules, ProxyBuilder};
use kylin_lb::server::{Listen, Server, ServerBuilder};
use kylin_lb::session::{Secret, Sessions};
use kylin_lb::{Cluster, HttpBackend, Proxy};

use crate::args::{Args, Source};
use crate::front::{Front, Health};
use crate::log_file::LogFile;
use crate::members::Members;
use crate::running::Reload;
use crate::status::Monitored;
use crate::tls::Clients;
use crate::{CHECK_TIMEOUT, Logs, START_TIMEOUT, demo, greet, say, sessions, summary, table};

const OWN_NAME: &str = "kylin.server.cluster-servers names localhost alone, which is each node's name for itself, so that only a \
                        front end beside the node reaches it: write the names of the hosts there, or give the nodes with --nodes";

/// A running front end for a list of nodes.
pub struct Listed {
    args: Args,
    logs: Logs,
    members: Members,
    mode: SessionMode,
    secret: Secret,
    sessions: Option<Sessions>,
    listens: Vec<Listen>,
    /// The certificates that clients see; `None` if they use plain HTTP.
    clients: Option<Clients>,
    /// The port to which requests at the address of `--redirect` are redirected.
    https_port: Arc<AtomicU16>,
    health: Arc<Health>,
    monitored: Arc<Monitored>,
    /// Servers of the status, which stop when they are dropped.
    _operators: Vec<Server>,
    _checker: Option<HealthChecker>,
    _watches: Vec<Watch>,
    store_watches: Vec<Watch>,
}

impl Listed {
    /// Starts the front end. With `--check` it returns `None`.
    pub async fn start(
        mut args: Args,
        secret: Secret,
        logs: &Logs,
        mut inherited: Vec<OwnedFd>,
    ) -> Result<Option<(Self, Server)>, Box<dyn Error>> {
        let clients = args.tls.clients()?;
        let source = std::mem::replace(&mut args.source, Source::Nodes(Vec::new()));
        let members = Members::find(source, &args).await?;
        let mode = args.sessions.get_or_insert(SessionMode::MEMORY).clone();
        let sessions = mode.sessions(&secret, args.store_deadline)?;
        let proxy = proxy(&members.cluster, &mode, &secret, sessions.as_ref(), &args, &logs.observers)?;
        if args.check {
            members.wait(CHECK_TIMEOUT).await;
            say(format_args!("{}{}", summary(&args), table(&members.cluster)));
            // A configuration that is understood must also be able to serve.
            return match members.missing() {
                Some(why) => Err(format!("there are no nodes: {why}").into()),
                None if members.is_own_name => Err(OWN_NAME.into()),
                None => Ok(None),
            };
        }
        let health = Health::new(args.health_path.clone());
        health.set_clusters(vec![members.cluster.clone()]);
        let monitored = Monitored::new(logs.admin.clone(), args.buffers.clone(), logs.exporter.clone());
        monitored.set(vec![("kylin".into(), members.cluster.clone())], sessions.clone());
        let operators = crate::operators(&args, &monitored, &mut inherited)?;
        let mut listed = Listed {
            listens: listens(&args, &inherited)?,
            logs: logs.clone(),
            clients,
            https_port: Arc::new(AtomicU16::new(443)),
            mode,
            secret,
            health,
            monitored,
            _operators: operators,
            _checker: args.probe.unwrap_or(ProbeMode::Auto).start(&members.cluster)?,
            _watches: logs.watches(|watch| members.watch_state(watch)),
            store_watches: logs.store_watches(sessions.as_ref()),
            members,
            sessions,
            args,
        };
        listed.monitored.set_proxy(proxy.clone());
        // Before it accepts connections. Connections to an inherited socket wait in the kernel, and
        // another process may still serve them.
        listed.members.wait(START_TIMEOUT).await;
        if let Some(error) = listed.members.empty_list() {
            tracing::warn!(error, "no node is listed yet: clients are refused until one is");
        }
        let server = inherited.into_iter().fold(listed.server(proxy), ServerBuilder::inherit).start()?;
        listed.monitored.set_connections(server.connection_count());
        listed.monitored.set_logs(listed.log_files());
        // The addresses of `listens` come first. With a unix socket, https uses its usual port.
        let is_tcp = listed.listens.iter().any(|listen| !matches!(listen, Listen::Unix(_)));
        if let (Some(address), true) = (server.addresses().first(), is_tcp) {
            listed.https_port.store(address.port(), Ordering::Relaxed);
        }
        let is_tls = listed.clients.is_some();
        greet(&server, &listed.listens.iter().map(|listen| (listen.clone(), is_tls)).collect::<Vec<_>>());
        listed.monitored.set_discovery(listed.members.discovery.take());
        say(format_args!("{}{}", summary(&listed.args), table(&listed.members.cluster)));
        if let (Some(_), Some(address)) = (&listed.members.demo, server.addresses().first()) {
            say(format_args!("{}", demo::commands(*address)));
        }
        Ok(Some((listed, server)))
    }

    pub fn health(&self) -> &Arc<Health> {
        &self.health
    }

    /// Returns the maximum time that a query may take.
    pub fn longest_query(&self) -> Duration {
        self.args.settings.read_timeout.unwrap_or(kylin_lb::backend::Timeouts::default().head)
    }

    fn server(&self, proxy: Proxy) -> ServerBuilder<Front<Proxy>> {
        let builder = Server::builder()
            .threads(self.args.threads)
            .buffers(self.args.buffers.clone())
            .max_connections_per_client(self.args.client_connections)
            .half_close(self.args.half_close);
        let front = |redirect| Front { health: Arc::clone(&self.health), inner: proxy.clone(), redirect };
        let listens = self.listens.iter().map(|listen| (listen, self.clients.as_ref(), None));
        let redirect = self.args.tls.redirect.iter().map(|listen| (listen, None, Some(Arc::clone(&self.https_port))));
        listens.chain(redirect).fold(builder, |builder, (listen, clients, redirect)| {
            builder.listen_with(listen.clone(), self.args.listen_options(clients), front(redirect))
        })
    }
}

impl Reload for Listed {
    type New = Secret;

    fn reader(&self) -> impl FnOnce() -> Result<Secret, Box<dyn Error>> + Send + 'static {
        let (file, before) = (self.args.secret_file.clone(), self.secret.clone());
        move || sessions::reread(file.as_deref(), &before)
    }

    /// Reads the certificates. The source of the nodes is followed continuously.
    fn reload(&mut self, secret: Secret, server: &mut Server) -> Result<String, Box<dyn Error>> {
        let token = crate::status::token(self.args.admin_token_file.as_deref())?;
        self.members.check()?;
        let clients = self.args.tls.clients()?;
        let mut what = Vec::new();
        if secret != self.secret {
            let sessions = self.sessions.as_ref().map(|sessions| sessions.with_secret(&secret));
            let proxy =
                proxy(&self.members.cluster, &self.mode, &secret, sessions.as_ref(), &self.args, &self.logs.observers)?;
            server.replace(self.server(proxy.clone()))?;
            self.monitored.set_proxy(proxy);
            (self.secret, self.sessions) = (secret, sessions);
            self.monitored.set(vec![("kylin".into(), self.members.cluster.clone())], self.sessions.clone());
            self.store_watches = self.logs.store_watches(self.sessions.as_ref());
            what.push("another secret");
        }
        self.monitored.admin.set_token(token);
        if let (Some(old), Some(new)) = (&self.clients, &clients) {
            old.replace(new);
            what.push("certificates read again");
        }
        if what.is_empty() {
            what.push("no change of the secret; the source of nodes is followed as it changes");
        }
        Ok(what.join("; "))
    }

    fn monitored(&self) -> &Monitored {
        &self.monitored
    }

    fn log_files(&self) -> Vec<LogFile> {
        self.logs.files.clone()
    }
}

pub fn proxy(
    cluster: &Cluster,
    mode: &SessionMode,
    secret: &Secret,
    sessions: Option<&Sessions>,
    args: &Args,
    observers: &[Arc<dyn kylin_lb::observe::Observer>],
) -> Result<Proxy, Box<dyn Error>> {
    let (affinity, cluster) = (mode.affinity(secret, sessions), cluster.clone());
    Ok(match args.kylin {
        true => {
            let groups = args.resource_groups.as_ref().map(|file| file.groups.clone());
            let rules = KylinRules::default().reload(args.reload).resource_groups(groups);
            let proxy = Proxy::builder(cluster).rules(rules);
            let proxy = proxy.queue(args.queue_rules()).single_flight(args.single_flight);
            #[cfg(feature = "cache")]
            let proxy = proxy.cache(args.cache.clone());
            configure(proxy, args, observers).affinity(affinity).build()?
        }
        false => configure(Proxy::plain(cluster), args, observers).affinity(affinity).build()?,
    })
}

/// Applies the options about clients, and adds the observers that log requests.
fn configure<K>(
    builder: ProxyBuilder<HttpBackend, K>,
    args: &Args,
    observers: &[Arc<dyn kylin_lb::observe::Observer>],
) -> ProxyBuilder<HttpBackend, K> {
    let builder = builder
        .trusted_proxies(args.trusted.clone())
        .buffers(args.buffers.clone())
        .response_buffer(args.response_buffer)
        .served_by(false)
        .max_requests_per_client(args.client_requests);
    observers.iter().fold(builder, |builder, observer| builder.observer(Arc::clone(observer)))
}

/// Returns where to listen: at the addresses of the option, else at the sockets that were passed to
/// the process, else at the default.
fn listens(args: &Args, inherited: &[OwnedFd]) -> Result<Vec<Listen>, Box<dyn Error>> {
    Ok(match &args.listen {
        Some(listen) => vec![listen.clone()],
        None if inherited.is_empty() => vec!["127.0.0.1:8080".parse()?],
        None => {
            let mut listens = inherited.iter().map(Listen::of_socket).collect::<Result<Vec<_>, _>>()?;
            listens.dedup();
            // The address of `--redirect` may be among them. A socket of `[::]` may accept IPv4
            // too, which the option does not show.
            let redirect = args.tls.redirect.as_ref().map(Listen::to_string);
            listens.retain(|listen| redirect != Some(listen.to_string()));
            listens
        }
    })
}
