//! Follows the membership, has each node looked at in its turn, and carries out what the judge rules.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::MetastoreCheck;
use super::judge::{Judge, Node, Remark, Ruling};
use super::round::{Logins, Round, Visitor, look};
use crate::backend::Backend;
use crate::clock::timer_in;
use crate::cluster::{Cluster, MembersWatch};
use crate::endpoint::{AdminState, EndpointId, Live, Member};
use crate::health::Mismatch;
use crate::health::state::Belonging;
use crate::kylin::identity::Difference;

/// The longest text that is logged of what nodes say.
const MOST_SHOWN: usize = 500;

pub(super) struct Watch<B> {
    /// Tells the words of this watch from those of others.
    id: u64,
    settings: MetastoreCheck,
    logins: Arc<Logins>,
    judge: Judge,
    cluster: Cluster<B>,
    members: MembersWatch<B>,
    /// By the endpoint's uid.
    known: HashMap<u64, Known<B>>,
    looks: JoinSet<(u64, Round)>,
    remarked: Option<Remark>,
    /// How many looks are over.
    looked: u64,
}

struct Known<B> {
    id: EndpointId,
    host: Arc<str>,
    live: Arc<Live>,
    backend: Arc<B>,
    node: Node,
    visitor: Visitor,
    due: Instant,
    /// The look that is under way.
    look: Option<Id>,
}

impl<B: Backend> Watch<B> {
    pub(super) fn new(id: u64, settings: MetastoreCheck, judge: Judge, cluster: Cluster<B>) -> Self {
        let logins = Arc::new(Logins::new(settings.login.clone()));
        let (known, looks) = (HashMap::new(), JoinSet::new());
        Watch {
            id,
            settings,
            logins,
            judge,
            members: cluster.watch_members(),
            cluster,
            known,
            looks,
            remarked: None,
            looked: 0,
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            let order = self.follow();
            self.rule(&order);
            self.send_out(&order);
            let due = self.next_due();
            tokio::select! {
                () = self.members.changed() => {}
                Some(came) = self.looks.join_next_with_id() => self.hear(came),
                () = sleep_until(due) => {}
            }
        }
    }

    /// Gets to know endpoints that are new, forgets those that are gone; returns those to be looked at, in the order of
    /// configuration.
    fn follow(&mut self) -> Vec<u64> {
        let mut members = self.members.members();
        members.retain(|(member, _)| member.settings.admin_state != AdminState::Maintenance);
        let order: Vec<u64> = members.iter().map(|(member, _)| member.live.uid).collect();
        let judge = self.id;
        self.known.retain(|uid, known| {
            let stays = order.contains(uid);
            if !stays {
                // Whoever comes back from maintenance, or under an id that was there before, may be another by then.
                known.live.health.belong(judge, Belonging::Unchecked, known.live.now_ms());
            }
            stays
        });
        for (member, backend) in members {
            let Member { settings, live, .. } = &*member;
            match self.known.get_mut(&live.uid) {
                Some(known) if known.host == settings.placement => {
                    if !Arc::ptr_eq(&known.backend, &backend) {
                        (known.backend, known.due) = (backend, timer_in(Duration::ZERO));
                    }
                }
                _ => {
                    let known = Known {
                        id: settings.id.clone(),
                        host: Arc::clone(&settings.placement),
                        live: Arc::clone(live),
                        backend,
                        node: Node::default(),
                        visitor: Visitor::default(),
                        due: timer_in(Duration::ZERO),
                        look: None,
                    };
                    self.known.insert(live.uid, known);
                }
            }
        }
        order
    }

    /// Begins to look at those whose time has come, as far as there is room.
    fn send_out(&mut self, order: &[u64]) {
        let now = timer_in(Duration::ZERO);
        for uid in order {
            if self.looks.len() >= self.settings.concurrency {
                return;
            }
            let Some(known) = self.known.get_mut(uid).filter(|known| known.look.is_none() && known.due <= now) else {
                continue;
            };
            let (backend, host) = (Arc::clone(&known.backend), Arc::clone(&known.host));
            let visitor = std::mem::take(&mut known.visitor);
            let round = look(backend, host, visitor, Arc::clone(&self.logins), self.settings.timeout);
            let uid = *uid;
            known.look = Some(self.looks.spawn(async move { (uid, round.await) }).id());
        }
    }

    fn next_due(&self) -> Instant {
        let waiting = self.known.values().filter(|known| known.look.is_none()).map(|known| known.due);
        let next = waiting.min().filter(|_| self.looks.len() < self.settings.concurrency);
        next.unwrap_or_else(|| timer_in(self.settings.interval))
    }

    /// Takes into account what came of a look. One that panicked, in a host's backend, is like one that met silence.
    fn hear(&mut self, came: Result<(Id, (u64, Round)), JoinError>) {
        let (id, round) = match came {
            Ok((id, (_, round))) => (id, Some(round)),
            Err(error) => (error.id(), None),
        };
        // None: it has left meanwhile.
        let Some(known) = self.known.values_mut().find(|known| known.look == Some(id)) else { return };
        known.look = None;
        self.looked += 1;
        (known.node.checked, known.node.seen) = (true, self.looked);
        let silent = round.as_ref().is_none_or(|round| round.silent);
        if let Some(Round { evidence, refused, visitor, .. }) = round {
            if refused {
                tracing::warn!(endpoint = %known.id, "the login that is to show the metastore was refused, which says nothing of it");
            }
            known.node.evidence.renew(evidence);
            known.visitor = visitor;
        }
        let MetastoreCheck { interval, fast_interval, jitter, .. } = self.settings;
        let pause = if silent { fast_interval } else { interval };
        known.due = timer_in(pause.mul_f64(1.0 - jitter + 2.0 * jitter * fastrand::f64()));
    }

    fn rule(&mut self, order: &[u64]) {
        let place: HashMap<&u64, usize> = order.iter().zip(0..).collect();
        let mut known: Vec<(&u64, &mut Known<B>)> = self.known.iter_mut().collect();
        known.sort_by_key(|(uid, _)| place.get(uid).copied());
        let mut nodes: Vec<&mut Node> = known.iter_mut().map(|(_, known)| &mut known.node).collect();
        let rulings = self.judge.rule(&mut nodes);
        for ((_, known), ruling) in known.into_iter().zip(rulings) {
            Self::carry_out(self.id, known, ruling);
            if self.judge.in_doubt {
                known.due = timer_in(Duration::ZERO);
            }
        }
        self.remark();
    }

    fn carry_out(judge: u64, Known { id, live, .. }: &Known<B>, ruling: Ruling) {
        let belonging = match &ruling {
            // An endpoint that serves goes on until there is a word on it.
            Ruling::Open => return,
            Ruling::In => Belonging::Assumed,
            Ruling::Out(Difference::Url { .. }) => Belonging::No(Mismatch::MetadataUrl),
            Ruling::Out(Difference::Cookie) => Belonging::No(Mismatch::SessionCookie),
            Ruling::Out(Difference::Project(_)) => Belonging::No(Mismatch::Project),
        };
        if !live.health.belong(judge, belonging, live.now_ms()) {
            return;
        }
        match ruling {
            Ruling::Out(difference) => {
                tracing::warn!(endpoint = %id, reason = shown(&difference), "endpoint kept out: it belongs to another cluster");
            }
            _ => tracing::info!(endpoint = %id, "endpoint admitted: nothing shows that it belongs to another cluster"),
        }
    }

    fn remark(&mut self) {
        let remark = self.judge.remark;
        if remark == self.remarked {
            return;
        }
        self.remarked = remark;
        match remark {
            Some(Remark::Contradicted) => tracing::warn!(
                "no endpoint has the metastore that is configured: this is taken for a mistake, and the majority is the measure"
            ),
            Some(Remark::Blind) => tracing::info!(
                "no endpoint shows which metastore it has, so none is kept out; Kylin 2 to 4 show it to an administrator only"
            ),
            None => {}
        }
    }
}

impl<B> Drop for Watch<B> {
    fn drop(&mut self) {
        self.cluster.clear_verifier(self.id);
    }
}

/// A difference for the log: names in it come from another machine and may hold anything, of any length.
fn shown(difference: &Difference) -> String {
    let text = difference.to_string();
    let visible = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().take(MOST_SHOWN).map(visible).collect()
}
