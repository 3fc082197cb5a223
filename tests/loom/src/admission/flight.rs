#[path = "../../../../src/admission/flight/epochs.rs"]
mod epochs;
#[path = "../../../../src/admission/flight/table/mod.rs"]
mod table;

pub(crate) use self::epochs::{Epochs, ProjectSlot};
pub(crate) use self::table::{FlightRole, FlightTable, Follower, FollowerOutcome, Leader};

/// Equal if its hash is equal.
pub(crate) struct FlightKey {
    pub(crate) hash: u64,
    pub(crate) ids: QueryIds,
}

impl FlightKey {
    fn number(&self) -> u64 {
        self.hash
    }

    fn is_equal(&self, newcomer: &Self) -> bool {
        self.hash == newcomer.hash
    }
}

#[derive(Clone, Copy, Default)]
pub(crate) struct QueryIds(pub(crate) [u64; 2]);

impl QueryIds {
    fn is_empty(self) -> bool {
        self.0 == [0; 2]
    }

    fn has(self, id: u64) -> bool {
        id != 0 && self.0.contains(&id)
    }
}

mod unshareable {
    use std::sync::Arc;

    use crate::clock::Clock;

    /// Remembers nothing, so that each model reaches the table.
    pub(super) struct Unshareable;

    impl Unshareable {
        pub(super) fn new(_: Arc<dyn Clock>) -> Self {
            Unshareable
        }

        pub(super) fn has(&self, _: u64) -> bool {
            false
        }

        pub(super) fn add(&self, _: u64) {}
    }
}
