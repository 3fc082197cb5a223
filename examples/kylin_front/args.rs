use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::thread::available_parallelism;
use std::time::Duration;

use kylin_lb::discovery::ZooKeeper;
use kylin_lb::server::Listen;
use kylin_lb::testing::kylin::KylinVersion;

use crate::nodes::{self, Node, Policy, Probing};
use crate::sessions::Keep;

pub const HELP: &str = "\
A load-balancing front end for Apache Kylin.

Usage: kylin_front [OPTIONS]          every option also as --name=value

Where the nodes are; one of:
  --demo N            N demo Kylin nodes in this process (the default, with N = 3)
  --version v4|v5     of the demo nodes: Kylin 2 to 4 (default), or Kylin 5
  --nodes NODE,...    a node is [NAME@]HOST:PORT[=ROLE], with the role all (default), query or job; the name is the
                      endpoint's id, and its jvmRoute for --sessions route
  --zookeeper PLACE   where Kylin registers its nodes: HOST:PORT[,HOST:PORT...][/BASE/CLUSTER]
  --properties FILE   a kylin.properties, and FILE.override where there is one: the nodes that it names, or those of its
                      ZooKeeper, followed as they change; nodes of another metastore are kept out
  --config FILE       an nginx configuration: upstreams, servers, locations; it decides about nodes, policy and rules itself

How requests are balanced:
  --policy NAME       round-robin, least-conn (default), ip-hash, random-two or query-affinity
  --kylin on|off      go by what is known of Kylin: roles, retries, closed calls (default: on)
  --sessions HOW      how a login finds its node again:
                        memory            learned from the nodes' cookies, in memory (default)
                        STORE             the same in a store that front ends share: redis://, redis+sentinel://,
                                          redis+cluster://, mysql:// or memcached://
                        cookie            a signed cookie of the front end's own
                        route             the jvmRoute in session ids
                        shared[:STORE]    the front end logs in at every node that it needs; in memory, or in a store
                        user              the user of clients without cookies
                        none              not at all
                      With --config: a STORE for its sticky learn.
  --store-deadline MS milliseconds that a store may take for one operation, after which the front end goes on without it
                      (default: 50)
  --secret-file FILE  the secret that front ends share: 64 hexadecimal digits, base64 of 32 bytes, or 32 bytes; further
                      lines are earlier secrets (default: random, which will do for one front end)
  --probe WHAT        version (default), health (Kylin 5), tcp or none (the default with --config)
  --outlier on|off    eject nodes that fail more than the others, in place of nginx's max_fails (default: off)

This program:
  --listen ADDR       where to listen (default 127.0.0.1:8080): HOST:PORT, [V6]:PORT, unix:/path; in place of all
                      addresses of a configuration, with the servers of its first
  --status ADDR       answer GET /front/status there, for operators; whoever reaches it may read it (default: off)
  --threads N         accept loops, each on a thread of its own (default: one per core)
  --check             say what was understood, and exit
  --help              print this
";

pub struct Args {
    pub source: Source,
    pub policy: Policy,
    pub kylin: bool,
    pub sessions: Keep,
    pub store_deadline: Duration,
    pub secret_file: Option<PathBuf>,
    pub probe: Probing,
    pub outlier: bool,
    pub listen: Option<Listen>,
    pub status: Option<Listen>,
    pub threads: usize,
    pub check: bool,
}

/// Where the nodes come from.
pub enum Source {
    Demo(usize, KylinVersion),
    Nodes(Vec<Node>),
    ZooKeeper(Box<ZooKeeper>),
    Properties(PathBuf),
    Config(PathBuf),
}

/// What a configuration decides by itself.
const DECIDED: [&str; 4] = ["--version", "--policy", "--kylin", "--outlier"];

impl Args {
    /// None when help was asked for. A store is opened, though not connected, so this wants a tokio runtime around it.
    pub fn parse(mut words: impl Iterator<Item = String>) -> Result<Option<Self>, String> {
        let mut args = Args {
            source: Source::Demo(3, KylinVersion::V4),
            policy: Policy::LeastConn,
            kylin: true,
            sessions: Keep::Memory,
            store_deadline: Duration::from_millis(50),
            secret_file: None,
            probe: Probing::Version,
            outlier: false,
            listen: None,
            status: None,
            threads: available_parallelism().map_or(1, NonZeroUsize::get),
            check: false,
        };
        let mut given: Vec<String> = Vec::new();
        let mut version = KylinVersion::V4;
        while let Some(word) = words.next() {
            let (name, mut value) = match word.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (word, None),
            };
            if given.contains(&name) {
                return Err(format!("{name} is given twice"));
            }
            given.push(name.clone());
            if matches!(name.as_str(), "--check" | "--help" | "-h") && value.is_some() {
                return Err(format!("{name} takes no value"));
            }
            let mut value = || value.take().or_else(|| words.next()).ok_or(format!("{name} wants a value"));
            match name.as_str() {
                "--demo" => args.source = Source::Demo(count(&name, &value()?, 1024)?, KylinVersion::V4),
                "--version" => {
                    version = one_of(&name, &value()?, &[("v4", KylinVersion::V4), ("v5", KylinVersion::V5)])?
                }
                "--nodes" => {
                    args.source = Source::Nodes(nodes::parse(&value()?).map_err(|error| format!("--nodes: {error}"))?)
                }
                "--zookeeper" => {
                    let source = ZooKeeper::parse(&value()?).map_err(|error| format!("--zookeeper: {error}"))?;
                    args.source = Source::ZooKeeper(Box::new(source));
                }
                "--properties" => args.source = Source::Properties(value()?.into()),
                "--config" => args.source = Source::Config(value()?.into()),
                "--policy" => args.policy = one_of(&name, &value()?, &Policy::NAMES)?,
                "--kylin" => args.kylin = switch(&name, &value()?)?,
                "--sessions" => {
                    args.sessions = Keep::parse(&value()?).map_err(|error| format!("--sessions: {error}"))?
                }
                "--store-deadline" => {
                    args.store_deadline = Duration::from_millis(count(&name, &value()?, 60_000)? as u64)
                }
                "--secret-file" => args.secret_file = Some(value()?.into()),
                "--probe" => args.probe = one_of(&name, &value()?, &Probing::NAMES)?,
                "--outlier" => args.outlier = switch(&name, &value()?)?,
                "--listen" => args.listen = Some(value()?.parse().map_err(|error| format!("--listen: {error}"))?),
                "--status" => args.status = Some(value()?.parse().map_err(|error| format!("--status: {error}"))?),
                "--threads" => args.threads = count(&name, &value()?, 1024)?,
                "--check" => args.check = true,
                "--help" | "-h" => return Ok(None),
                _ => return Err(format!("unknown option {name}")),
            }
        }
        args.agree(&given, version)?;
        Ok(Some(args))
    }

    /// Whether the options go together.
    fn agree(&mut self, given: &[String], chosen: KylinVersion) -> Result<(), String> {
        let has = |name: &str| given.iter().any(|given| given == name);
        let sources = ["--demo", "--nodes", "--zookeeper", "--properties", "--config"];
        let mut sources = sources.into_iter().filter(|name| has(name));
        if let (Some(one), Some(other)) = (sources.next(), sources.next()) {
            return Err(format!("{one} and {other} exclude each other: each says where the nodes are"));
        }
        match &mut self.source {
            Source::Demo(_, version) => *version = chosen,
            Source::Config(_) => {
                if let Some(name) = DECIDED.into_iter().find(|name| has(name)) {
                    return Err(format!("--config and {name} exclude each other: a configuration decides that itself"));
                }
                if has("--sessions") && !matches!(self.sessions, Keep::Learn(_)) {
                    return Err(
                        "with --config, --sessions names the store of its \"sticky learn\": redis://, mysql:// or \
                                memcached://"
                            .into(),
                    );
                }
                if !has("--probe") {
                    self.probe = Probing::None;
                }
            }
            _ if has("--version") => return Err("--version is about demo nodes: it goes with --demo".into()),
            _ => {}
        }
        Ok(())
    }
}

fn count(name: &str, text: &str, most: usize) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|count| (1..=most).contains(count))
        .ok_or_else(|| format!("{name} {text}: expected a number from 1 to {most}"))
}

fn switch(name: &str, text: &str) -> Result<bool, String> {
    one_of(name, text, &[("on", true), ("off", false)])
}

fn one_of<T: Copy>(name: &str, text: &str, known: &[(&str, T)]) -> Result<T, String> {
    known.iter().find(|(known, _)| *known == text).map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<_> = known.iter().map(|(name, _)| *name).collect();
        format!("{name} {text}: expected {}", names.join(", "))
    })
}
