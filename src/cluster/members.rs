use std::sync::{Arc, Weak};

use ahash::{AHashMap, AHashSet};

use super::ClusterError;
use super::outliers::Outliers;
use crate::balance::{Balancer, Candidates, Tried};
use crate::clock::Clock;
use crate::endpoint::{Endpoint, EndpointId, Intent, Live, Member};
use crate::health::state::Peers;
use crate::view::{Group, Layout, Turns, View};

/// The membership as changes see it: what the next view is made from.
pub(super) struct Members<B> {
    entries: Vec<Entry<B>>,
    /// Live state by id, also of endpoints that were removed while requests are in flight on them.
    live: AHashMap<EndpointId, Weak<Live>>,
    primary_turns: Arc<Turns>,
    backup_turns: Arc<Turns>,
    clock: Arc<dyn Clock>,
    outliers: Option<Arc<Outliers>>,
    /// Do endpoints that come now meet a cluster that runs?
    running: bool,
}

struct Entry<B> {
    endpoint: Endpoint<B>,
    live: Arc<Live>,
}

impl<B> Members<B> {
    pub(super) fn new(clock: Arc<dyn Clock>, outliers: Option<Arc<Outliers>>) -> Self {
        Members {
            entries: Vec::new(),
            live: AHashMap::new(),
            primary_turns: Arc::default(),
            backup_turns: Arc::default(),
            clock,
            outliers,
            running: false,
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
        let live = self.live_of(endpoint.id());
        self.entries.push(Entry { endpoint, live });
        Ok(())
    }

    pub(super) fn remove(&mut self, id: &EndpointId) -> Result<(), ClusterError> {
        let index = self.position(id)?;
        self.entries.remove(index);
        self.live.retain(|_, live| live.strong_count() > 0);
        Ok(())
    }

    pub(super) fn replace(&mut self, endpoints: Vec<Endpoint<B>>) -> Result<(), ClusterError> {
        let mut ids = AHashSet::new();
        if let Some(twice) = endpoints.iter().find(|endpoint| !ids.insert(endpoint.id())) {
            return Err(ClusterError::Duplicate(twice.id().clone()));
        }
        // The old entries go only after the new ones have taken over their live state.
        let entries =
            endpoints.into_iter().map(|endpoint| Entry { live: self.live_of(endpoint.id()), endpoint }).collect();
        self.entries = entries;
        self.live.retain(|_, live| live.strong_count() > 0);
        Ok(())
    }

    pub(super) fn edit(
        &mut self,
        id: &EndpointId,
        edit: impl FnOnce(Endpoint<B>) -> Endpoint<B>,
    ) -> Result<(), ClusterError> {
        let index = self.position(id)?;
        let Entry { endpoint: Endpoint { settings, backend }, live } = &self.entries[index];
        let edited = edit(Endpoint { settings: settings.clone(), backend: Arc::clone(backend) });
        if settings.intent == Intent::Maintain && edited.settings.intent != Intent::Maintain {
            // It was maintained, so it was most likely restarted.
            live.health.readmit(live.now_ms());
        }
        self.entries[index].endpoint = edited;
        Ok(())
    }

    pub(super) fn view(&self, balancer: &dyn Balancer) -> View<B> {
        let (primary, backup) = (self.group(false, balancer), self.group(true, balancer));
        if let Some(outliers) = &self.outliers {
            outliers.watch(primary.layout.members.iter().chain(&backup.layout.members));
        }
        View::new(primary, backup)
    }

    fn group(&self, backup: bool, balancer: &dyn Balancer) -> Group<B> {
        let entries = || self.entries.iter().filter(|entry| entry.endpoint.settings.backup == backup);
        let members = entries()
            .map(|Entry { endpoint, live }| {
                Arc::new(Member { settings: endpoint.settings.clone(), live: Arc::clone(live) })
            })
            .collect();
        let turns = if backup { &self.backup_turns } else { &self.primary_turns };
        let mut layout = Layout::new(members, Arc::clone(turns), self.entries.len() == 1);
        layout.table = balancer.prepare(&Candidates::new(&layout, &Tried::none(), None)).into_inner();
        Group { layout, backends: entries().map(|entry| Arc::clone(&entry.endpoint.backend)).collect() }
    }

    fn live_of(&mut self, id: &EndpointId) -> Arc<Live> {
        if let Some(live) = self.live.get(id).and_then(Weak::upgrade) {
            return live;
        }
        let peers = self.outliers.as_ref().map(|outliers| Arc::clone(outliers) as Arc<dyn Peers>);
        let live = Arc::new(Live::new(Arc::clone(&self.clock), peers));
        if self.running {
            live.health.readmit(live.now_ms());
        }
        self.live.insert(id.clone(), Arc::downgrade(&live));
        live
    }

    fn position(&self, id: &EndpointId) -> Result<usize, ClusterError> {
        let position = self.entries.iter().position(|entry| entry.endpoint.id() == id);
        position.ok_or_else(|| ClusterError::Unknown(id.clone()))
    }
}
