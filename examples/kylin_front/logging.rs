//! The log for the operator on standard error: one line for each change of state.

use std::io;
use std::time::{Instant, SystemTime};

use kylin_lb::cluster::ClusterStatus;
use kylin_lb::discovery::SourceState;
use kylin_lb::endpoint::AdminState;
use kylin_lb::health::Reason;
use kylin_lb::observe::{
    ClusterChange, ClusterChanged, DiscoveryChanged, EndpointChange, EndpointChanged, Observer, StoreChanged, Timestamp,
};
use tracing::{info, warn};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::{MakeWriter, layer};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer, Registry, reload};

use crate::front;
use crate::log_file::LogFile;

/// The target with which the library logs changes of state. [`StateLog`] logs them instead.
const LIBRARY_STATE: &str = "kylin_lb::state";

#[derive(Clone, Copy, Default)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// Logs to standard error at `level`. If it is `None`, `RUST_LOG` sets the levels, such as
/// `kylin_lb=debug`; the default is info.
///
/// Also returns the log, to flush it. A standard error that is not read delays nothing; lines are
/// then lost.
pub fn start(level: Option<LevelFilter>, format: LogFormat) -> io::Result<(Levels, LogFile)> {
    let levels = match level {
        Some(level) => at(level),
        None => std::env::var("RUST_LOG")
            .ok()
            .and_then(|levels| levels.parse().ok())
            .map_or_else(|| at(LevelFilter::INFO), without_library_state),
    };
    let (levels, handle) = reload::Layer::new(levels);
    let log = LogFile::stderr()?;
    // The messages about a closed standard error are turned off, because printing them panics.
    let output = layer().with_writer(Lines(log.clone())).log_internal_errors(false);
    let output = match format {
        LogFormat::Text => output.with_ansi(false).boxed(),
        LogFormat::Json => output.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry().with(output.with_filter(levels)).init();
    Ok((Levels(handle), log))
}

/// Makes writers of events.
struct Lines(LogFile);

impl<'w> MakeWriter<'w> for Lines {
    type Writer = &'w LogFile;

    fn make_writer(&'w self) -> Self::Writer {
        &self.0
    }
}

fn at(level: LevelFilter) -> Targets {
    without_library_state(Targets::new().with_default(level))
}

fn without_library_state(levels: Targets) -> Targets {
    levels.with_target(LIBRARY_STATE, LevelFilter::OFF)
}

/// Changes the levels of a running log.
pub struct Levels(reload::Handle<Targets, Registry>);

impl Levels {
    /// Logs at the level with this name from now on.
    pub fn set(&self, name: &str) -> Result<(), String> {
        self.0.reload(at(level(name)?)).map_err(|error| error.to_string())
    }
}

/// Parses the name of a level.
pub fn level(text: &str) -> Result<LevelFilter, String> {
    // The parser also accepts numbers and the empty text.
    match text {
        "off" | "error" | "warn" | "info" | "debug" | "trace" => text.parse().map_err(|_| String::new()),
        _ => Err(format!("{text}: expected error, warn, info, debug, trace or off")),
    }
}

/// Parses the value of `--log-format`.
pub fn format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(format!("--log-format {text}: expected text or json")),
    }
}

/// Logs changes of state.
pub struct StateLog;

impl Observer for StateLog {
    fn endpoint_changed(&self, event: &EndpointChanged<'_>) {
        let EndpointChanged { cluster, change, endpoint, lasted, .. } = event;
        let (id, found_by) = (endpoint.id.as_str(), event.found_by.as_str());
        let phase = event.phase().map(|phase| phase.as_str());
        let reason = event.reason.map(tracing::field::display);
        let after = lasted.map(tracing::field::debug);
        let error = endpoint.error.as_deref();
        match change {
            EndpointChange::Ejected | EndpointChange::Unhealthy => {
                warn!(endpoint = id, cluster, phase, reason, error, found_by, "node is {change}");
            }
            EndpointChange::Suspect if event.reason == Some(Reason::Failing) => {
                warn!(endpoint = id, cluster, reason, error, found_by, "node is suspect");
            }
            EndpointChange::Readmitted | EndpointChange::Recovered => {
                info!(endpoint = id, cluster, phase, reason, found_by, after, "node has {change}");
            }
            change => info!(endpoint = id, cluster, phase, reason, error, found_by, "node is {change}"),
        }
    }

    fn cluster_changed(&self, event: &ClusterChanged<'_>) {
        let ClusterChanged { cluster, change, status, .. } = event;
        match change {
            ClusterChange::Unavailable if status.endpoints.is_empty() => {
                warn!(cluster, "no node is known: clients are refused");
            }
            ClusterChange::Unavailable => {
                let nodes = describe(status);
                let panic_mode = status.panicking;
                warn!(cluster, panic_mode, nodes, "no node is up: {}", consequence(status));
            }
            ClusterChange::Available => {
                let after = event.lasted.map(tracing::field::debug);
                warn!(cluster, after, "a node is up again");
            }
            _ => {}
        }
    }

    fn store_changed(&self, event: &StoreChanged<'_>) {
        let StoreChanged { store, address, error, pending_writes, .. } = event;
        let phase = event.phase.map(|phase| phase.as_str());
        match event.available {
            true => info!(store, address, pending_writes, "session store is available again"),
            false => {
                warn!(
                    store,
                    address, phase, error, "session store is unavailable: sessions are kept in memory meanwhile"
                );
            }
        }
    }

    fn discovery_changed(&self, event: &DiscoveryChanged<'_>) {
        let DiscoveryChanged { source, status, .. } = event;
        let (endpoints, rejected, error) = (status.endpoints, status.rejected, status.error.as_deref());
        match status.source {
            SourceState::Waiting => {
                warn!(source, "the source of nodes does not respond: clients are refused until it does")
            }
            SourceState::Current => info!(source, endpoints, rejected, "the source of nodes lists nodes"),
            SourceState::Empty => warn!(source, endpoints, "the source of nodes lists none; those it listed last stay"),
            _ => warn!(source, error, endpoints, "the source of nodes fails; those it listed last stay"),
        }
    }
}

/// Returns how a cluster without a node that is up handles requests.
fn consequence(status: &ClusterStatus) -> &'static str {
    if status.panicking {
        "panic mode tries those that failed"
    } else if status.endpoints.iter().any(front::serves) {
        "only requests of sessions that are bound are served"
    } else {
        "clients are refused"
    }
}

/// Returns the state of each node, with the reason for its health and since when it holds.
fn describe(status: &ClusterStatus) -> String {
    let nodes = status.endpoints.iter().map(|endpoint| {
        if endpoint.admin_state != AdminState::Ready {
            return format!("{} {}", endpoint.id, endpoint.admin_state.as_str());
        }
        let state = endpoint.health.as_str();
        let error = endpoint.error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
        let reason = endpoint.reason.map(|reason| format!(" ({reason}{error})")).unwrap_or_default();
        format!("{} {state}{reason} since {}", endpoint.id, time_of(endpoint.since))
    });
    nodes.collect::<Vec<_>>().join("; ")
}

/// Returns the time of day of a moment in the past.
fn time_of(moment: Instant) -> Timestamp {
    let ago = moment.elapsed();
    SystemTime::now().checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH).into()
}
