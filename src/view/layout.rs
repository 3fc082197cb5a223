use std::any::Any;
use std::sync::Arc;

use super::rotation::{Rotation, RotationCounters};
use super::weights::Weights;
use crate::endpoint::{AdminState, EligibilityFlags, EndpointSlot, Member};
use crate::health::impaired::ImpairedCount;

/// The facts about a group that a policy needs.
pub(crate) struct Layout {
    /// In configuration order.
    pub(crate) slots: Vec<EndpointSlot>,
    /// The flags of each slot, contiguous, because most picks read nothing else about an endpoint.
    pub(crate) flags: Vec<EligibilityFlags>,
    /// Counts the impairments of all endpoints of the cluster.
    pub(crate) impaired: ImpairedCount,
    pub(crate) weights: Weights,
    /// The hash of each member's id, and its weight, contiguous, because rendezvous hashing reads
    /// all of them.
    pub(crate) rendezvous: Vec<(u64, u32)>,
    pub(crate) rotation: Rotation,
    /// Whether the endpoint is the only one of the cluster, and therefore never ejected.
    pub(crate) alone: bool,
    /// The values that the policy derived from this view.
    pub(crate) table: Option<Box<dyn Any + Send + Sync>>,
}

impl Layout {
    pub(crate) fn new(
        members: impl Iterator<Item = Member>,
        counters: Arc<RotationCounters>,
        impaired: ImpairedCount,
        alone: bool,
    ) -> Self {
        let slots: Vec<EndpointSlot> = members.map(EndpointSlot::new).collect();
        let settings = || slots.iter().map(|slot| &slot.member.settings);
        let weights = Weights::new(settings().map(|settings| settings.weight.get()));
        let ready: Vec<(u32, u32)> = (0_u32..)
            .zip(settings())
            .filter(|(_, settings)| settings.admin_state == AdminState::Ready)
            .map(|(index, settings)| (index, settings.weight.get()))
            .collect();
        let rendezvous = settings().map(|settings| (settings.id.hash64(), settings.weight.get())).collect();
        let flags = slots.iter().map(EndpointSlot::flags).collect();
        let rotation = Rotation::new(&ready, counters);
        Layout { slots, flags, impaired, weights, rendezvous, rotation, alone, table: None }
    }
}
