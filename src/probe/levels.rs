//! The probe that finds the best request for each node: [`Probe::kylin`](super::Probe::kylin).

use std::time::Duration;

use tokio::time::Instant;

use super::request::{LastResponse, ProbeResult, RequestProbe};
use crate::backend::node_client::NodeClient;
use crate::clock::timer_in;
use crate::cookie::CookieJar;
use crate::health::{ProbeFailure, ProbeLevel};

/// The time until a node without the version request is asked for it again, because it may have
/// been upgraded.
const RECHECK_INTERVAL: Duration = Duration::from_secs(60);

/// The state of a node that is kept from probe to probe.
#[derive(Default)]
pub(super) struct NodeMemory {
    pub(super) cookies: CookieJar,
    pub(super) level: NodeLevel,
    pub(super) last: LastResponse,
}

/// The level at which a node is known to be healthy.
///
/// A level is never replaced by a lower one while the same process listens, because a stopping
/// Tomcat sends 404 for every path. After the node was unreachable, another process may listen
/// there, such as an older Kylin. Then [`ProbeLevel::Authentication`] may replace
/// [`ProbeLevel::Version`], because it proves a Kylin as well. [`ProbeLevel::Tcp`] replaces no
/// other level.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct NodeLevel {
    settled: Option<ProbeLevel>,
    may_be_another_process: bool,
    /// The time at which a node that settled on the authentication is asked for the version again;
    /// `None` means at once.
    recheck: Option<Instant>,
}

impl NodeLevel {
    /// Returns the level of a node that settled earlier, and may have been restarted since.
    pub(super) fn earlier(settled: Option<ProbeLevel>) -> Self {
        NodeLevel { settled, may_be_another_process: true, recheck: None }
    }

    pub(super) fn settled(&self) -> Option<ProbeLevel> {
        self.settled
    }

    /// Returns the levels that the next probe tries in turn, until one succeeds.
    fn levels_to_try(&self, now: Instant) -> &'static [ProbeLevel] {
        use ProbeLevel::{Authentication, Tcp, Version};
        let is_due = self.may_be_another_process || self.recheck.is_none_or(|recheck| recheck <= now);
        match self.settled {
            None | Some(Tcp) => &[Version, Authentication, Tcp],
            Some(Authentication) if !is_due => &[Authentication],
            Some(Version) if !self.may_be_another_process => &[Version],
            Some(Authentication | Version) => &[Version, Authentication],
        }
    }

    fn succeed(&mut self, level: ProbeLevel, tried: &[ProbeLevel]) {
        let recheck = match tried.len() {
            1 => self.recheck,
            // Kylin may have been deployed between two requests of this probe, so the next probe
            // tries all levels again.
            _ if self.settled != Some(level) => None,
            _ => Some(timer_in(RECHECK_INTERVAL)),
        };
        *self = NodeLevel { settled: Some(level), may_be_another_process: false, recheck };
    }

    fn fail(&mut self, failure: ProbeFailure) {
        self.recheck = None;
        self.may_be_another_process |= failure == ProbeFailure::Unreachable;
    }
}

/// Tries the levels that `memory` requires for the node.
///
/// Only a response leads to the next level, because a node that does not respond is unhealthy at
/// each level. A 5xx leads to the authentication, which proves a Kylin, but not to
/// [`ProbeLevel::Tcp`].
pub(super) async fn send(
    [version, authentication]: &[RequestProbe; 2],
    client: &NodeClient,
    memory: &mut NodeMemory,
) -> ProbeResult {
    let NodeMemory { cookies, level, last } = memory;
    let levels = level.levels_to_try(timer_in(Duration::ZERO));
    let mut failures = Vec::new();
    for tried in levels {
        let result = match tried {
            ProbeLevel::Version => version.send(client, cookies, last).await,
            ProbeLevel::Authentication => authentication.send(client, cookies, last).await,
            // The other levels got a response, so the node accepts connections.
            ProbeLevel::Tcp if failures.iter().any(is_server_error) => break,
            ProbeLevel::Tcp => ProbeResult::Healthy,
        };
        match result {
            ProbeResult::Healthy => level.succeed(*tried, levels),
            ProbeResult::Inconclusive(_) => {}
            ProbeResult::Unhealthy(failure) => {
                failures.push(failure);
                if is_response(failure) {
                    continue;
                }
                level.fail(failure);
            }
        }
        return result;
    }
    let failure = failures.iter().find(|failure| is_server_error(failure)).or(failures.last());
    // A list of levels is never empty.
    let failure = *failure.unwrap_or(&ProbeFailure::Broken);
    level.fail(failure);
    ProbeResult::Unhealthy(failure)
}

/// Returns whether the failure is a complete response, other than the expected one.
fn is_response(failure: ProbeFailure) -> bool {
    match failure {
        ProbeFailure::Status(_) | ProbeFailure::Body => true,
        ProbeFailure::Unreachable | ProbeFailure::Broken | ProbeFailure::Timeout => false,
    }
}

fn is_server_error(failure: &ProbeFailure) -> bool {
    matches!(failure, ProbeFailure::Status(status) if status.is_server_error())
}
