use bytes::Bytes;

use super::Reservation;

/// The first allocation, in bytes.
const MIN_CAPACITY: usize = 1024;

/// A buffer that reserves its capacity before it grows. It grows as data arrives, by doubling.
pub(crate) struct GrowingBuffer {
    data: Vec<u8>,
    reservation: Reservation,
    /// The maximum length of the buffer, so its capacity need not be larger.
    max: usize,
}

impl GrowingBuffer {
    /// Returns an empty buffer, which allocates nothing.
    pub(crate) fn new(reservation: Reservation, max: usize) -> Self {
        GrowingBuffer { data: Vec::new(), reservation, max }
    }

    pub(crate) fn len(&self) -> usize {
        self.data.len()
    }

    /// Appends data if the budget has bytes for it, or gets them within a moment. Returns whether
    /// it did.
    pub(crate) async fn push(&mut self, data: &[u8]) -> bool {
        let more = self.missing(data.len());
        let is_reserved = more == 0 || self.reservation.grow_or_wait(more).await;
        if is_reserved {
            self.append(data, more);
        }
        is_reserved
    }

    /// Appends data if the budget has bytes for it now. Returns whether it did.
    pub(crate) fn try_push(&mut self, data: &[u8]) -> bool {
        let more = self.missing(data.len());
        let is_reserved = more == 0 || self.reservation.grow(more);
        if is_reserved {
            self.append(data, more);
        }
        is_reserved
    }

    /// Appends the last data, even beyond the limits.
    pub(crate) fn push_anyway(&mut self, data: &[u8]) {
        let more = (self.data.len() + data.len()).saturating_sub(self.data.capacity());
        self.reservation.grow_anyway(more);
        self.append(data, more);
    }

    /// Returns the data, which stays reserved until the last slice of it is dropped.
    pub(crate) fn into_bytes(mut self) -> Bytes {
        if self.data.capacity() - self.data.len() > self.data.len() / 4 {
            self.data.shrink_to_fit();
            self.reservation.shrink_to(self.data.capacity());
        }
        if self.data.is_empty() { Bytes::new() } else { self.reservation.hold(self.data) }
    }

    /// Returns by how much the capacity must grow for `length` more bytes.
    fn missing(&self, length: usize) -> usize {
        let (needed, capacity) = (self.data.len() + length, self.data.capacity());
        if needed <= capacity {
            return 0;
        }
        let doubled = (capacity * 2).max(MIN_CAPACITY).min(self.max);
        needed.max(doubled) - capacity
    }

    fn append(&mut self, data: &[u8], more: usize) {
        let capacity = self.data.capacity() + more;
        self.data.reserve_exact(capacity - self.data.len());
        self.data.extend_from_slice(data);
        // The allocator may provide a few bytes more.
        self.reservation.grow_anyway(self.data.capacity().saturating_sub(self.reservation.bytes()));
    }
}
