use std::sync::{Arc, Weak};

use ahash::{AHashMap, AHashSet};

use super::ClusterError;
use super::outliers::Outliers;
use crate::balance::{Attempted, Balancer, Candidates};
use crate::clock::Clock;
use crate::endpoint::{AdminState, Endpoint, EndpointId, Live, Loads, Member};
use crate::health::impaired::ImpairedCount;
use crate::health::state::Peers;
use crate::view::{Group, Layout, PerCoreRefs, Turns, View};

/// The membership as changes see it: what the next view is made from.
pub(super) struct Members<B> {
    entries: Vec<Entry<B>>,
    /// Live state by id, also of endpoints that were removed while requests are in flight on them.
    live: AHashMap<EndpointId, Weak<Live>>,
    loads: Loads,
    /// What the operator said with `drain` or `maintain` and did not take back, also of endpoints that a source no longer
    /// names: a node under maintenance is restarted, and must not come back in service because it registers anew.
    intents: AHashMap<EndpointId, AdminState>,
    primary_turns: Arc<Turns>,
    backup_turns: Arc<Turns>,
    clock: Arc<dyn Clock>,
    outliers: Option<Arc<Outliers>>,
    impaired: ImpairedCount,
    /// Do endpoints that come now meet a cluster that runs?
    running: bool,
    /// The verifier that has to admit an endpoint before it may serve; 0 is none.
    verifier: u64,
}

struct Entry<B> {
    endpoint: Endpoint<B>,
    live: Arc<Live>,
}

impl<B> Entry<B> {
    /// Takes the place of `old`, which has the same id. At another address it is another node, of which nothing is known.
    fn replaces(&self, old: &Self) {
        if self.endpoint.settings.placement != old.endpoint.settings.placement {
            self.live.health.doubt_belonging(self.live.now_ms());
        }
    }
}

/// An endpoint that a source of membership names.
pub(crate) struct Wanted<B> {
    pub(crate) endpoint: Endpoint<B>,
    /// Its settings are news. Otherwise an entry that is there stays as it is, with what the operator has set since.
    pub(crate) changed: bool,
}

/// How many intents of endpoints that are not there are remembered.
const MOST_ABSENT_INTENTS: usize = 1000;

impl<B> Members<B> {
    pub(super) fn new(clock: Arc<dyn Clock>, outliers: Option<Arc<Outliers>>) -> Self {
        Members {
            entries: Vec::new(),
            live: AHashMap::new(),
            loads: Loads::new(),
            intents: AHashMap::new(),
            primary_turns: Arc::default(),
            backup_turns: Arc::default(),
            clock,
            outliers,
            impaired: ImpairedCount::default(),
            running: false,
            verifier: 0,
        }
    }

    /// From now on endpoints that come are newer than others, and ramp up.
    pub(super) fn run(&mut self) {
        self.running = true;
    }

    pub(super) fn add(&mut self, endpoint: Endpoint<B>) -> Result<(), ClusterError> {
        if self.entries.iter().any(|entry| entry.endpoint.id() == endpoint.id()) {
            return Err(ClusterError::Duplicate(endpoint.id().clone()));
        }
        let entry = self.entry(endpoint, self.entries.len());
        self.entries.push(entry);
        Ok(())
    }

    pub(super) fn remove(&mut self, id: &EndpointId) -> Result<(), ClusterError> {
        let index = self.position(id)?;
        self.entries.remove(index);
        self.intents.remove(id);
        self.live.retain(|_, live| live.strong_count() > 0);
        Ok(())
    }

    pub(super) fn replace(&mut self, endpoints: Vec<Endpoint<B>>) -> Result<(), ClusterError> {
        let mut ids = AHashSet::new();
        if let Some(twice) = endpoints.iter().find(|endpoint| !ids.insert(endpoint.id())) {
            return Err(ClusterError::Duplicate(twice.id().clone()));
        }
        // The old entries go only after the new ones have taken over their live state.
        let entries: Vec<_> = (0..).zip(endpoints).map(|(others, endpoint)| self.entry(endpoint, others)).collect();
        for (entry, old) in entries.iter().filter_map(|new| Some((new, self.entry_of(new.endpoint.id())?))) {
            entry.replaces(old);
        }
        self.intents.retain(|id, _| entries.iter().any(|entry| entry.endpoint.id() == id));
        self.entries = entries;
        self.live.retain(|_, live| live.strong_count() > 0);
        Ok(())
    }

    /// Makes the endpoints that are `owned` by a source of membership those that it wants now, after all others and in its
    /// order. Others stay as they are, and one that has the id or the address of a wanted one goes before it: the wanted one is
    /// left out, and its index returned.
    pub(super) fn reconcile(&mut self, owned: &AHashSet<EndpointId>, wanted: Vec<Wanted<B>>) -> Vec<usize> {
        let (own, mut entries): (Vec<_>, Vec<_>) =
            self.entries.drain(..).partition(|entry| owned.contains(entry.endpoint.id()));
        let mut own: AHashMap<_, _> = own.into_iter().map(|entry| (entry.endpoint.id().clone(), entry)).collect();
        let mut ids: AHashSet<EndpointId> = entries.iter().map(|entry| entry.endpoint.id().clone()).collect();
        // As the operator wrote them; sources write host names in lower case.
        let address = |endpoint: &Endpoint<B>| endpoint.settings.placement.to_ascii_lowercase();
        let addresses: AHashSet<String> = entries.iter().map(|entry| address(&entry.endpoint)).collect();
        let mut refused = Vec::new();
        for (index, Wanted { endpoint, changed }) in wanted.into_iter().enumerate() {
            let id = endpoint.id().clone();
            if addresses.contains(&address(&endpoint)) || !ids.insert(id.clone()) {
                refused.push(index);
                continue;
            }
            let entry = match (own.remove(&id), changed) {
                (Some(entry), false) => entry,
                (Some(old), true) => {
                    let new = Entry { live: Arc::clone(&old.live), endpoint: self.intended(endpoint) };
                    new.replaces(&old);
                    new
                }
                (None, _) => self.entry(endpoint, entries.len()),
            };
            entries.push(entry);
        }
        self.entries = entries;
        drop(own);
        self.live.retain(|_, live| live.strong_count() > 0);
        refused
    }

    /// Sets what the operator wants of an endpoint.
    pub(super) fn set_admin_state(&mut self, id: &EndpointId, admin_state: AdminState) -> Result<(), ClusterError> {
        self.edit(id, |endpoint| endpoint.admin_state(admin_state))?;
        if admin_state == AdminState::Ready {
            self.intents.remove(id);
            return Ok(());
        }
        self.intents.insert(id.clone(), admin_state);
        if self.intents.len() > self.entries.len() + MOST_ABSENT_INTENTS {
            self.intents.retain(|id, _| self.entries.iter().any(|entry| entry.endpoint.id() == id));
        }
        Ok(())
    }

    pub(super) fn edit(
        &mut self,
        id: &EndpointId,
        edit: impl FnOnce(Endpoint<B>) -> Endpoint<B>,
    ) -> Result<(), ClusterError> {
        let index = self.position(id)?;
        let Entry { endpoint, live } = &self.entries[index];
        let admin_state = endpoint.settings.admin_state;
        let edited = edit(endpoint.share());
        if admin_state == AdminState::Maintenance && edited.settings.admin_state != AdminState::Maintenance {
            // It was maintained, so it was most likely restarted.
            live.health.readmit(live.now_ms());
        }
        self.entries[index].endpoint = edited;
        Ok(())
    }

    pub(super) fn view(&self, balancer: &dyn Balancer) -> View<B> {
        let (primary, backup) = (self.group(false, balancer), self.group(true, balancer));
        if let Some(outliers) = &self.outliers {
            let listed = primary.layout.members.iter().chain(&backup.layout.members);
            outliers.watch(listed.map(|listed| &listed.member));
        }
        View::new(primary, backup)
    }

    fn group(&self, backup: bool, balancer: &dyn Balancer) -> Group<B> {
        let entries = || self.entries.iter().filter(|entry| entry.endpoint.settings.backup == backup);
        let member =
            |Entry { endpoint, live }: &Entry<B>| Member::new(Arc::new(endpoint.settings.clone()), Arc::clone(live));
        let members: Vec<Member> = entries().map(member).collect();
        let backends = entries().map(|entry| Arc::clone(&entry.endpoint.backend));
        let refs = PerCoreRefs::new(&members.iter().cloned().zip(backends).collect::<Vec<_>>());
        let turns = if backup { &self.backup_turns } else { &self.primary_turns };
        let alone = self.entries.len() == 1;
        let mut layout = Layout::new(members.into_iter(), Arc::clone(turns), self.impaired.clone(), alone);
        layout.table = balancer.prepare(&Candidates::new(&layout, &Attempted::none(), None)).into_inner();
        Group { layout, refs }
    }

    /// The entry for an endpoint that comes to so many others.
    fn entry(&mut self, endpoint: Endpoint<B>, others: usize) -> Entry<B> {
        Entry { live: self.live_of(endpoint.id(), others), endpoint: self.intended(endpoint) }
    }

    /// The endpoint with the stricter of its own admin_state and the operator's.
    fn intended(&self, endpoint: Endpoint<B>) -> Endpoint<B> {
        let strictness = |admin_state: AdminState| match admin_state {
            AdminState::Ready => 0,
            AdminState::Drain => 1,
            AdminState::Maintenance => 2,
        };
        match self.intents.get(endpoint.id()) {
            Some(admin_state) if strictness(*admin_state) > strictness(endpoint.settings.admin_state) => {
                endpoint.admin_state(*admin_state)
            }
            _ => endpoint,
        }
    }

    fn live_of(&mut self, id: &EndpointId, others: usize) -> Arc<Live> {
        if let Some(live) = self.live.get(id).and_then(Weak::upgrade) {
            live.health.join(self.verifier, live.now_ms());
            return live;
        }
        let peers = self.outliers.as_ref().map(|outliers| Arc::clone(outliers) as Arc<dyn Peers>);
        let load = self.loads.next(others);
        let live = Arc::new(Live::new(load, Arc::clone(&self.clock), peers, self.impaired.clone()));
        if self.running {
            live.health.readmit(live.now_ms());
        }
        live.health.join(self.verifier, live.now_ms());
        self.live.insert(id.clone(), Arc::downgrade(&live));
        live
    }

    /// Sets the verifier that has to admit endpoints, present or to come, before they may serve; 0 is none.
    pub(super) fn set_verifier(&mut self, verifier: u64) {
        self.verifier = verifier;
        for live in self.entries.iter().map(|entry| &entry.live) {
            live.health.join(verifier, live.now_ms());
        }
    }

    pub(super) fn verifier(&self) -> u64 {
        self.verifier
    }

    fn entry_of(&self, id: &EndpointId) -> Option<&Entry<B>> {
        self.entries.iter().find(|entry| entry.endpoint.id() == id)
    }

    fn position(&self, id: &EndpointId) -> Result<usize, ClusterError> {
        let position = self.entries.iter().position(|entry| entry.endpoint.id() == id);
        position.ok_or_else(|| ClusterError::Unknown(id.clone()))
    }
}
