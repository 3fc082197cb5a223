//! `kylin_front doctor`: checks a cluster against the requirements that the manuals of Kylin and
//! KAP state for clusters behind a load balancer.

mod addresses;
mod checks;
mod node;
mod report;
mod sessions;
mod source;

use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;
use tokio::task::JoinSet;
use tracing_subscriber::filter::LevelFilter;

use self::addresses::Addresses;
use self::checks::Seen;
use self::node::{Facts, Login, Node};
use self::report::{Check, Report};
use self::source::Checked;
use crate::args::{Args, Command, SOURCES};
use crate::sessions::secret;
use crate::{logging, nodes, say};

const HELP: &str = "\
Checks nodes and front end against the requirements in the manuals of Kylin and KAP.

Usage: kylin_front doctor [OPTIONS]

Takes the options with which the front end is started, of which one names the nodes: --nodes, --nodes-file, --zookeeper,
--properties, --config, --httpd or --demo. It does not listen, and changes nothing at the nodes: it sends requests to each, and some through
the front end that the options describe, in its own process.

  --login-file FILE  USER:PASSWORD in the first line: with any user's it tries whether logins are kept, with an administrator's it
                     compares properties too; a login that a node refuses is not sent to another
  --timeout TIME     how long a response of a node may take (default: 10s)
  --json             prints JSON

Exit status: 0 if there are no findings, 1 if there are, 2 if the options are wrong.

It checks that
  source           the nodes can be listed, or the configuration read; it says what --check says
  reachable        each node responds, and is healthy by its own report (Kylin 5)
  probe            there is a request that shows whether a node is healthy: version, authentication or health
  version          all nodes run one version
  clock            the clocks of the nodes agree
  metastore        kylin.metadata.url is one (administrator; without: Kylin 5's cookie name; with any login: ids of projects)
  storage          nodes of one role have one working directory, HBase and ZooKeeper (administrator)
  cluster-servers  kylin.server.cluster-servers of each node lists all (administrator)
  job-engine       as many nodes run jobs as the scheduler wants (administrator)
  discovery        the nodes know each other and no others, with the roles that the front end was told (login)
  users            kylin.security.profile is one (administrator)
  sessions         the session store responds; a login is kept: at one node, asked at another, and through the front end (login)
  timeouts         the front end waits longer than a query may take
";

/// The default timeout for a response.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// The checks that compare nodes of the same cluster.
const COMPARISONS: [Check; 7] = [
    Check::Version,
    Check::Clock,
    Check::Metastore,
    Check::Storage,
    Check::ClusterServers,
    Check::Discovery,
    Check::Users,
];

/// The parsed arguments.
struct Options {
    args: Args,
    login: Option<Login>,
    timeout: Duration,
    json: bool,
}

/// Runs the checks.
pub fn run(runtime: &tokio::runtime::Runtime, words: impl Iterator<Item = String>) -> ExitCode {
    let options = match Options::parse(words) {
        Ok(Some(options)) => options,
        Ok(None) => {
            say(format_args!("{HELP}"));
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("kylin_front doctor: {error}; try --help");
            return ExitCode::from(2);
        }
    };
    // The report describes the problem. The library would log it a second time, with other words.
    let _levels = logging::start(Some(options.args.log.unwrap_or(LevelFilter::OFF)), options.args.log_format);
    let json = options.json;
    let report = runtime.block_on(check(options));
    match json {
        true => say(format_args!("{:#}\n", report.to_json())),
        false => say(format_args!("{}", report.to_text())),
    }
    if report.is_sound() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

impl Options {
    /// Returns `None` for `--help`.
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Option<Self>, String> {
        let (mut login, mut timeout, mut json, mut others) = (None, None, false, Vec::new());
        while let Some(word) = words.next() {
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (&*word, None),
            };
            match name {
                "--json" if value.is_some() => return Err("--json takes no value".into()),
                "--json" => json = true,
                "--login-file" if login.is_some() => return Err("--login-file is given twice".into()),
                "--login-file" => {
                    let file = value.or_else(|| words.next()).ok_or("--login-file needs a value")?;
                    login = Some(Login::read(&file)?);
                }
                "--timeout" if timeout.is_some() => return Err("--timeout is given twice".into()),
                "--timeout" => {
                    let text = value.or_else(|| words.next()).ok_or("--timeout needs a value")?;
                    timeout = Some(nodes::time(&text).map_err(|error| format!("--timeout {text}: {error}"))?);
                }
                _ => others.push(word),
            }
        }
        let is_source = |word: &String| SOURCES.contains(&word.split('=').next().unwrap_or_default());
        let names_nodes = others.iter().any(is_source);
        match Args::parse(others.into_iter())? {
            Command::Run(_) if !names_nodes => Err(format!("the nodes are missing: one of {}", SOURCES.join(", "))),
            Command::Run(args) => {
                secret(args.secret_file.as_deref()).map_err(|error| error.to_string())?;
                let timeout = timeout.unwrap_or(DEFAULT_TIMEOUT);
                Ok(Some(Options { args: *args, login, timeout, json }))
            }
            Command::Help => Ok(None),
            Command::Version => Err("--version is not for doctor".into()),
        }
    }
}

async fn check(options: Options) -> Report {
    let Options { args, login, timeout, .. } = options;
    let mut report = Report::default();
    let probe = args.probe;
    let Some(Checked { nodes, front, head_timeout, follows_kylin, replicated, sessions, .. }) =
        &mut Checked::find(args, timeout, &mut report).await
    else {
        return report;
    };
    if let Some(sessions) = sessions {
        sessions::store(sessions, timeout, &mut report).await;
    }
    let mut nodes = ask(std::mem::take(nodes)).await;
    let mut is_refused = false;
    if let Some(login) = &login {
        is_refused = log_in(&mut nodes, login, &mut report).await;
    } else {
        report.unchecked(Check::Sessions, &[], "needs a login: --login-file");
    }
    checks::limit_discovered(&mut nodes, &mut report);
    checks::reachable(&nodes, &mut report);
    checks::probe(&nodes, probe, &mut report);
    checks::clock(&nodes, &mut report);
    checks::metastore(&nodes, &mut report);
    checks::timeouts(&nodes, *head_timeout, *follows_kylin, &mut report);
    // A node may list names that no name server knows, so the names of the nodes are looked up
    // first.
    let own = nodes.iter().map(|(node, _)| node.address.to_string());
    let addresses = Addresses::look_up(own.chain(nodes.iter().flat_map(|(_, facts)| checks::known(facts)))).await;
    let given: Vec<&Node> = nodes.iter().map(|(node, _)| node).collect();
    for cluster in checks::clusters(&nodes) {
        checks::version(&cluster, &mut report);
        checks::storage(&cluster, &mut report);
        checks::cluster_servers(&cluster, &addresses, &mut report);
        checks::job_engine(&cluster, &addresses, &mut report);
        checks::discovery(&cluster, &given, &addresses, &mut report);
        checks::users(&cluster, &mut report);
    }
    if let Some(login) = &login {
        sessions::between_nodes(&nodes, replicated, &mut report).await;
        if is_refused {
            let text = "a login through the front end was not tried: a node refuses the login";
            report.unchecked(Check::Sessions, &[], text);
        } else {
            sessions::through_front_end(front, &nodes, login, &mut report).await;
        }
        sessions::log_out(&nodes).await;
    }
    if nodes.len() > 1 {
        report.complete(&COMPARISONS, "no two nodes that respond are of one cluster, so nothing was compared");
    }
    report.nodes = nodes.iter().map(|seen| row(seen, &addresses)).collect();
    report
}

/// Queries all nodes at once.
async fn ask(nodes: Vec<Node>) -> Vec<Seen> {
    let mut tasks = JoinSet::new();
    for (at, node) in nodes.into_iter().enumerate() {
        tasks.spawn(async move {
            let facts = Facts::of(&node).await;
            (at, (node, facts))
        });
    }
    let mut seen = tasks.join_all().await;
    seen.sort_by_key(|(at, _)| *at);
    seen.into_iter().map(|(_, seen)| seen).collect()
}

/// Logs in at one node after another, until one refuses the login, because Kylin 5 locks a user
/// after three wrong passwords. Returns whether one refused it.
async fn log_in(nodes: &mut [Seen], login: &Login, report: &mut Report) -> bool {
    for (node, facts) in nodes.iter_mut().filter(|(_, facts)| facts.is_kylin()) {
        match facts.log_in(node, login).await {
            Ok(false) => facts.learn_more(node).await,
            Ok(true) => {
                report.fault(
                    Check::Users,
                    &[&node.id],
                    "refuses the login of --login-file, which was not sent to further nodes",
                );
                return true;
            }
            Err(error) => report.fault(Check::Users, &[&node.id], format!("cannot check a login: {error}")),
        }
    }
    false
}

/// Returns the report's row for a node.
fn row(seen: &Seen, addresses: &Addresses) -> serde_json::Value {
    let (node, facts) = seen;
    json!({
        "node": node.id,
        "cluster": node.cluster,
        "address": node.address.to_string(),
        "roles": checks::own_roles(seen, addresses).unwrap_or(node.given).to_string(),
        "version": facts.version.as_ref().map(|(version, _)| version),
        "probe": facts.level.map(|level| level.to_string()),
        "clock_ahead_s": facts.clock.map(|(at_least, _)| at_least),
        "logged_in": facts.session.is_some(),
        "is_administrator": facts.is_admin,
    })
}
