//! The running metastore check. Each round checks all nodes and applies a decision to each.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::MetastoreCheck;
use super::decision::{Limitation, NodeDecision, NodeRecord, decide};
use super::identify::{Login, NodeSession, identify};
use crate::backend::Backend;
use crate::backend::node_client::NodeClient;
use crate::clock::timer_in;
use crate::cluster::{Cluster, MembersWatch};
use crate::endpoint::{AdminState, Live, Member};
use crate::health::{CheckerId, Membership, Mismatch};
use crate::kylin::node::identity::{Difference, Evidence};
use crate::probe::jittered;

/// The maximum interval after a round in which a node did not respond or was suspected.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// The random part of an interval, so that front ends do not check in step.
const JITTER: f64 = 0.1;
/// The number of nodes that are checked at once.
const CONCURRENCY: usize = 4;
/// The maximum length of a node's text in the log.
const MAX_LOGGED: usize = 500;

pub(super) struct Verifier<B> {
    id: CheckerId,
    check: MetastoreCheck,
    login: Option<Arc<Login>>,
    cluster: Cluster<B>,
    members: MembersWatch<B>,
    /// The known nodes, by the uid of the endpoint and the generation of its membership: another
    /// generation may be another node.
    memory: HashMap<(u64, u64), Memory>,
    limitation: Option<Limitation>,
}

/// The state of a node that is kept from round to round.
#[derive(Default)]
struct Memory {
    evidence: Evidence,
    session: NodeSession,
    checked: bool,
    suspected: bool,
    /// The time of the next check; `None` means at once.
    due: Option<Instant>,
}

/// An endpoint in the current round.
struct Target {
    live: Arc<Live>,
    generation: u64,
    session: NodeSession,
    due: Option<Instant>,
}

impl<B: Backend> Verifier<B> {
    /// Withholds requests from all endpoints of `cluster` until they are verified.
    pub(super) fn new(check: MetastoreCheck, cluster: Cluster<B>) -> Self {
        let id = CheckerId::next();
        cluster.set_verifier(id);
        let login = check.authorization.clone().map(|authorization| Arc::new(Login::new(authorization)));
        Verifier {
            id,
            check,
            login,
            members: cluster.watch_members(),
            cluster,
            memory: HashMap::new(),
            limitation: None,
        }
    }

    pub(super) async fn run(mut self) {
        let mut all = true;
        loop {
            let next = self.round(all).await;
            all = timeout_at(next, self.members.changed()).await.is_ok();
        }
    }

    /// Checks the nodes that are due, or all of them, and decides. Returns when the next node is
    /// due.
    async fn round(&mut self, all: bool) -> Instant {
        let (mut targets, mut records, mut checks) = (Vec::new(), Vec::new(), JoinSet::new());
        let permits = Arc::new(Semaphore::new(CONCURRENCY));
        let now = timer_in(Duration::ZERO);
        let mut memory = std::mem::take(&mut self.memory);
        for (member, backend) in self.members.members() {
            let Member { settings, live, .. } = &*member;
            if settings.admin_state == AdminState::Maintenance {
                continue;
            }
            let (membership, generation) = live.health.membership();
            let Memory { evidence, mut session, checked, suspected, due } =
                memory.remove(&(live.uid, generation)).unwrap_or_default();
            if all || due.is_none_or(|due| due <= now) {
                let client = NodeClient::new(backend, &settings.placement, self.check.timeout);
                let (index, login, permits) = (targets.len(), self.login.clone(), Arc::clone(&permits));
                let mut session = std::mem::take(&mut session);
                checks.spawn(async move {
                    // The semaphore is never closed.
                    let _permit = permits.acquire().await;
                    let result = identify(&client, login.as_deref(), &mut session).await;
                    (index, result, session)
                });
            }
            let admitted = membership == Membership::Assumed;
            records.push(NodeRecord { id: settings.id.clone(), evidence, checked, admitted, suspected });
            // Stays false if the backend panics.
            let due = if all { None } else { due.filter(|due| *due > now) };
            targets.push(Target { live: Arc::clone(live), generation, session, due });
        }
        let interval = timer_in(jittered(self.check.interval, JITTER));
        while let Some(result) = checks.join_next().await {
            let Ok((index, result, session)) = result else { continue };
            let (target, record): (&mut Target, &mut NodeRecord) = (&mut targets[index], &mut records[index]);
            target.session = session;
            target.due = result.responded.then_some(interval);
            if result.login_rejected {
                tracing::warn!(endpoint = %record.id, "node rejected the credentials of the metastore check, so it cannot be compared");
            }
            record.evidence.merge(result.evidence);
            record.checked = true;
            self.apply_decisions(&targets, &mut records, false);
        }
        records.iter_mut().for_each(|record| record.checked = true);
        self.apply_decisions(&targets, &mut records, true);

        let retry = timer_in(jittered(self.check.interval.min(RETRY_INTERVAL), JITTER));
        let any_suspected = records.iter().any(|record| record.suspected);
        let mut next = interval;
        for (Target { live, generation, session, due }, record) in targets.into_iter().zip(records) {
            let NodeRecord { evidence, checked, suspected, .. } = record;
            let due = due.filter(|_| !any_suspected).unwrap_or(retry);
            next = next.min(due);
            let memory = Memory { evidence, session, checked, suspected, due: Some(due) };
            self.memory.insert((live.uid, generation), memory);
        }
        next
    }

    /// Decides on all nodes with the current evidence.
    fn apply_decisions(&mut self, targets: &[Target], records: &mut [NodeRecord], complete: bool) {
        let (decisions, limitation) = decide(&self.check.reference, records, complete);
        for ((target, record), decision) in targets.iter().zip(records).zip(decisions) {
            let membership = match &decision {
                NodeDecision::Undecided => continue,
                NodeDecision::Admit => Membership::Assumed,
                NodeDecision::Quarantine(difference) => Membership::Foreign(mismatch(difference)),
            };
            record.admitted = membership == Membership::Assumed;
            let Target { live, generation, .. } = target;
            if !live.health.set_membership(self.id, *generation, membership, live.now_ms()) {
                continue;
            }
            match decision {
                NodeDecision::Quarantine(difference) => {
                    tracing::warn!(target: "kylin_lb::state", endpoint = %record.id, reason = printable(&difference), "endpoint quarantined: another metastore");
                }
                NodeDecision::Undecided | NodeDecision::Admit => {
                    tracing::info!(target: "kylin_lb::state", endpoint = %record.id, "endpoint verified: nothing shows another metastore");
                }
            }
        }
        if complete && self.limitation != limitation {
            self.limitation = limitation;
            if let Some(limitation) = limitation {
                tracing::warn!(%limitation, "the metastore check is limited");
            }
        }
    }
}

impl<B> Drop for Verifier<B> {
    fn drop(&mut self) {
        self.cluster.clear_verifier(self.id);
    }
}

fn mismatch(difference: &Difference) -> Mismatch {
    match difference {
        Difference::Url { .. } => Mismatch::MetadataUrl,
        Difference::Cookie => Mismatch::SessionCookie,
        Difference::Project(_) => Mismatch::Project,
    }
}

/// Bounds the length of a difference for the log. Names in it come from another machine and may
/// have any length.
fn printable(difference: &Difference) -> String {
    let visible = |c: char| if c.is_control() { ' ' } else { c };
    difference.to_string().chars().take(MAX_LOGGED).map(visible).collect()
}
