#[path = "../../../src/endpoint/load.rs"]
mod load;

pub(crate) use self::load::Load;

/// A load, with the other parts of an endpoint.
#[derive(Default)]
pub(crate) struct Endpoint {
    load: Load,
    wraps: load::WrapCount,
}

impl Endpoint {
    pub(crate) fn begin(&self, limit: u32) -> bool {
        self.load.begin(std::num::NonZeroU32::new(limit))
    }

    pub(crate) fn undo_begin(&self) {
        self.load.undo_begin();
    }

    pub(crate) fn end(&self) {
        self.load.end(&self.wraps);
    }

    /// Returns how many requests are in flight, and how many have ended.
    pub(crate) fn counts(&self) -> (u32, u64) {
        (self.load.in_flight(), self.load.ended(&self.wraps))
    }
}
