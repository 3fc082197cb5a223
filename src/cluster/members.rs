use std::sync::{Arc, Weak};

use ahash::{AHashMap, AHashSet};

use super::outliers::Outliers;
use super::{ClusterError, Published};
use crate::balance::{Attempted, Balancer, Candidates};
use crate::clock::Clock;
use crate::endpoint::{AdminState, Endpoint, EndpointId, Live, Loads, Member, SlotOwner};
use crate::health::CheckerId;
use crate::health::impaired::ImpairedCount;
use crate::health::state::OutcomeListener;
use crate::view::{Group, Layout, PerCoreRefs, RotationCounters, View};

/// The membership of a cluster, from which each new view is made.
pub(super) struct Members<B> {
    pub(super) balancer: Arc<dyn Balancer>,
    pub(super) may_panic: bool,
    entries: Vec<Entry<B>>,
    /// Live state by id. Includes removed endpoints that still have requests in flight.
    live: AHashMap<EndpointId, Weak<Live>>,
    loads: Loads,
    /// The administrative states that the operator set and did not set back to ready. They include
    /// endpoints that a source no longer names: a node that restarts during maintenance registers
    /// anew, which must not return it to service.
    admin_states: AHashMap<EndpointId, AdminState>,
    primary_rotation: Arc<RotationCounters>,
    backup_rotation: Arc<RotationCounters>,
    clock: Arc<dyn Clock>,
    outliers: Option<Arc<Outliers>>,
    impaired: ImpairedCount,
    /// Whether the cluster is running, so that endpoints that join have a slow start.
    running: bool,
    /// The verifier that must admit an endpoint before it may serve.
    verifier: Option<CheckerId>,
    /// The owner of the slots of endpoints with a limit, once a proxy with queues exists.
    slots: Option<Arc<dyn SlotOwner>>,
}

struct Entry<B> {
    endpoint: Endpoint<B>,
    live: Arc<Live>,
}

/// An endpoint that a source of membership names.
pub(crate) struct DesiredEndpoint<B> {
    pub(crate) endpoint: Endpoint<B>,
    /// Whether the source has changed the settings. If not, an existing entry stays as it is,
    /// including the operator's changes.
    pub(crate) changed: bool,
}

/// The maximum number of administrative states that are kept for absent endpoints.
const MAX_ABSENT_STATES: usize = 1000;

impl<B> Members<B> {
    pub(super) fn new(
        clock: Arc<dyn Clock>,
        outliers: Option<Arc<Outliers>>,
        impaired: ImpairedCount,
        balancer: Arc<dyn Balancer>,
        may_panic: bool,
    ) -> Self {
        Members {
            balancer,
            may_panic,
            entries: Vec::new(),
            live: AHashMap::new(),
            loads: Loads::new(),
            admin_states: AHashMap::new(),
            primary_rotation: Arc::default(),
            backup_rotation: Arc::default(),
            clock,
            outliers,
            impaired,
            running: false,
            verifier: None,
            slots: None,
        }
    }

    /// Gives a slow start to endpoints that join from now on.
    pub(super) fn run(&mut self) {
        self.running = true;
    }

    pub(super) fn add(&mut self, endpoint: Endpoint<B>) -> Result<(), ClusterError> {
        if self.entry_of(endpoint.id()).is_some() {
            return Err(ClusterError::Duplicate(endpoint.id().clone()));
        }
        let entry = self.new_entry(endpoint, self.entries.len());
        self.entries.push(entry);
        Ok(())
    }

    pub(super) fn remove(&mut self, id: &EndpointId) -> Result<(), ClusterError> {
        let index = self.position(id)?;
        self.entries.remove(index);
        self.admin_states.remove(id);
        self.drop_dead_state();
        Ok(())
    }

    pub(super) fn replace(&mut self, endpoints: Vec<Endpoint<B>>) -> Result<(), ClusterError> {
        let mut ids = AHashSet::new();
        if let Some(twice) = endpoints.iter().find(|endpoint| !ids.insert(endpoint.id())) {
            return Err(ClusterError::Duplicate(twice.id().clone()));
        }
        // The old entries are dropped only after the new ones have taken over their live state.
        let entries: Vec<_> = (0..).zip(endpoints).map(|(others, endpoint)| self.new_entry(endpoint, others)).collect();
        for (entry, old) in entries.iter().filter_map(|new| Some((new, self.entry_of(new.endpoint.id())?))) {
            entry.replace(old);
        }
        self.admin_states.retain(|id, _| entries.iter().any(|entry| entry.endpoint.id() == id));
        self.entries = entries;
        self.drop_dead_state();
        Ok(())
    }

    /// Replaces the endpoints that a source of membership owns (`owned`) with `wanted`. They follow
    /// all other endpoints, in the order of the source. Other endpoints stay as they are. Returns
    /// the indexes of wanted endpoints that were left out because another endpoint has their id or
    /// address.
    pub(super) fn reconcile(&mut self, owned: &AHashSet<EndpointId>, wanted: Vec<DesiredEndpoint<B>>) -> Vec<usize> {
        let (own, mut entries): (Vec<_>, Vec<_>) =
            self.entries.drain(..).partition(|entry| owned.contains(entry.endpoint.id()));
        let mut own: AHashMap<_, _> = own.into_iter().map(|entry| (entry.endpoint.id().clone(), entry)).collect();
        let mut ids: AHashSet<EndpointId> = entries.iter().map(|entry| entry.endpoint.id().clone()).collect();
        // Operators write host names in any case, sources in lower case.
        let address = |endpoint: &Endpoint<B>| endpoint.settings.placement.to_ascii_lowercase();
        let addresses: AHashSet<String> = entries.iter().map(|entry| address(&entry.endpoint)).collect();
        let mut left_out = Vec::new();
        for (index, DesiredEndpoint { endpoint, changed }) in wanted.into_iter().enumerate() {
            let id = endpoint.id().clone();
            if addresses.contains(&address(&endpoint)) || !ids.insert(id.clone()) {
                left_out.push(index);
                continue;
            }
            let entry = match (own.remove(&id), changed) {
                (Some(entry), false) => entry,
                (Some(old), true) => {
                    let new = Entry { live: Arc::clone(&old.live), endpoint: self.with_admin_state(endpoint) };
                    new.replace(&old);
                    new
                }
                (None, _) => self.new_entry(endpoint, entries.len()),
            };
            entries.push(entry);
        }
        self.entries = entries;
        drop(own);
        self.drop_dead_state();
        left_out
    }

    pub(super) fn set_admin_state(&mut self, id: &EndpointId, admin_state: AdminState) -> Result<(), ClusterError> {
        self.edit(id, |endpoint| {
            let mut endpoint = endpoint.admin_state(admin_state);
            endpoint.settings.admin_state_is_set = true;
            endpoint
        })?;
        if admin_state == AdminState::Ready {
            self.admin_states.remove(id);
            return Ok(());
        }
        self.admin_states.insert(id.clone(), admin_state);
        if self.admin_states.len() > self.entries.len() + MAX_ABSENT_STATES {
            self.admin_states.retain(|id, _| self.entries.iter().any(|entry| entry.endpoint.id() == id));
        }
        Ok(())
    }

    pub(super) fn edit(
        &mut self,
        id: &EndpointId,
        edit: impl FnOnce(Endpoint<B>) -> Endpoint<B>,
    ) -> Result<(), ClusterError> {
        let index = self.position(id)?;
        let Entry { endpoint, live } = &mut self.entries[index];
        let edited = edit(endpoint.clone());
        let was_in_maintenance = endpoint.settings.admin_state == AdminState::Maintenance;
        if was_in_maintenance && edited.settings.admin_state != AdminState::Maintenance {
            // The node was probably restarted during maintenance, and may be another one.
            live.health.readmit(live.now_ms());
            live.health.require_verification(live.now_ms());
        }
        *endpoint = edited;
        Ok(())
    }

    /// Sets the verifier that must admit present and future endpoints before they may serve.
    pub(super) fn set_verifier(&mut self, verifier: Option<CheckerId>) {
        self.verifier = verifier;
        for live in self.entries.iter().map(|entry| &entry.live) {
            live.health.set_verifier(verifier, live.now_ms());
        }
    }

    /// Returns the owner of the slots. The first call makes it with `make`.
    pub(super) fn slots(&mut self, make: impl FnOnce() -> Arc<dyn SlotOwner>) -> Arc<dyn SlotOwner> {
        let slots = Arc::clone(self.slots.get_or_insert_with(make));
        self.share_limits();
        slots
    }

    /// Tells the owner of the slots how many slots there are.
    pub(super) fn share_limits(&self) {
        if let Some(slots) = &self.slots {
            let limit = |entry: &Entry<B>| (Arc::clone(&entry.live), entry.endpoint.settings.max_in_flight);
            slots.set_limits(&self.entries.iter().map(limit).collect::<Vec<_>>());
        }
    }

    pub(super) fn impaired(&self) -> ImpairedCount {
        self.impaired.clone()
    }

    pub(super) fn verifier(&self) -> Option<CheckerId> {
        self.verifier
    }

    /// Returns the values that picks read.
    pub(super) fn publish(&self) -> Published<B> {
        let (primary, backup) = (self.group(false), self.group(true));
        if let Some(outliers) = &self.outliers {
            let slots = primary.layout.slots.iter().chain(&backup.layout.slots);
            outliers.set_members(slots.map(|slot| &slot.member));
        }
        let (balancer, may_panic) = (Arc::clone(&self.balancer), self.may_panic);
        Published { view: View::new(primary, backup), balancer, may_panic }
    }

    fn group(&self, backup: bool) -> Group<B> {
        let entries = self.entries.iter().filter(|entry| entry.endpoint.settings.backup == backup);
        let members: Vec<_> = entries.map(Entry::member).collect();
        let rotation = if backup { &self.backup_rotation } else { &self.primary_rotation };
        let alone = self.entries.len() == 1;
        let refs = PerCoreRefs::new(&members);
        let members = members.into_iter().map(|(member, _)| member);
        let mut layout = Layout::new(members, Arc::clone(rotation), self.impaired.clone(), alone);
        layout.table = self.balancer.prepare(&Candidates::new(&layout, &Attempted::none(), None)).into_inner();
        Group { layout, refs }
    }

    /// Returns the entry of an endpoint that joins `others`.
    fn new_entry(&mut self, endpoint: Endpoint<B>, others: usize) -> Entry<B> {
        Entry { live: self.live_state(endpoint.id(), others), endpoint: self.with_admin_state(endpoint) }
    }

    /// Returns the endpoint with the stricter of two administrative states: its own, and the one
    /// that the operator set.
    fn with_admin_state(&self, endpoint: Endpoint<B>) -> Endpoint<B> {
        let own = endpoint.settings.admin_state;
        let set = self.admin_states.get(endpoint.id()).copied();
        let mut endpoint = endpoint.admin_state(set.map_or(own, |set| own.max(set)));
        endpoint.settings.admin_state_is_set = set.is_some_and(|set| set >= own);
        endpoint
    }

    fn live_state(&mut self, id: &EndpointId, others: usize) -> Arc<Live> {
        let live = self.live.get(id).and_then(Weak::upgrade).unwrap_or_else(|| {
            let listener = self.outliers.as_ref().map(|outliers| Arc::clone(outliers) as Arc<dyn OutcomeListener>);
            let load = self.loads.next(others);
            let live = Arc::new(Live::new(load, Arc::clone(&self.clock), listener, self.impaired.clone()));
            if self.running {
                live.health.readmit(live.now_ms());
            }
            self.live.insert(id.clone(), Arc::downgrade(&live));
            live
        });
        live.health.set_verifier(self.verifier, live.now_ms());
        if self.entry_of(id).is_none() {
            // An endpoint that was removed and is added again may be another node.
            live.health.require_verification(live.now_ms());
        }
        live
    }

    fn drop_dead_state(&mut self) {
        self.live.retain(|_, live| live.strong_count() > 0);
    }

    fn entry_of(&self, id: &EndpointId) -> Option<&Entry<B>> {
        self.entries.iter().find(|entry| entry.endpoint.id() == id)
    }

    fn position(&self, id: &EndpointId) -> Result<usize, ClusterError> {
        let position = self.entries.iter().position(|entry| entry.endpoint.id() == id);
        position.ok_or_else(|| ClusterError::Unknown(id.clone()))
    }
}

impl<B> Entry<B> {
    fn member(&self) -> (Member, Arc<B>) {
        let settings = Arc::new(self.endpoint.settings.clone());
        (Member::new(settings, Arc::clone(&self.live)), Arc::clone(&self.endpoint.backend))
    }

    /// Replaces `old`, which has the same id. At another address, or after maintenance, the
    /// endpoint may be another node, which must be verified again.
    fn replace(&self, old: &Self) {
        let (new, old) = (&self.endpoint.settings, &old.endpoint.settings);
        let returns = old.admin_state == AdminState::Maintenance && new.admin_state != AdminState::Maintenance;
        if returns || new.placement != old.placement {
            self.live.health.require_verification(self.live.now_ms());
        }
    }
}
