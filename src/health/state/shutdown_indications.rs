//! Shutdown indications: signs in a node's responses that it is stopping.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

/// What a response shows about whether the node is stopping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ShutdownIndication {
    /// The connection stays open.
    KeepsAlive,
    /// A successful response closes its connection, which has carried `uses` requests; 0 means
    /// unknown. `client` tells clients apart.
    Closes { client: u32, uses: u32 },
    /// The node responds with 503 and says when to try again (RFC 9110, section 15.6.4).
    RetryAfter { client: u32 },
}

/// The indications of one endpoint. While its connections stay open, a response writes nothing
/// here.
///
/// A node also closes a connection that has carried its maximum number of requests (Tomcat's
/// `maxKeepAliveRequests`), and connections that were opened together reach that number together.
/// So the number at which a node closed connections and stayed is no indication. If a node always
/// closes connections, or has done so since it was drained for it, closing one shows nothing.
#[derive(Debug, Default)]
pub(super) struct ShutdownIndications {
    /// Whether the node has kept a connection open, so that closing one is a change.
    keeps_alive: AtomicBool,
    /// How many times in a row indications were wrong.
    mistakes: AtomicU8,
    /// The lower half is the weight of the indications in a row, each in a response to another
    /// client than the one before. The upper half is the last client.
    row: AtomicU64,
    /// The requests that the last connection of the row carried.
    last_uses: AtomicU32,
    /// The number of requests after which the node closes a connection although it stays; 0 while
    /// none is known.
    usual_uses: AtomicU32,
}

/// The weight at which indications in a row show that the node is stopping: three clients whose
/// connections close, or two that get 503 with `Retry-After`. It doubles with each mistake.
const ENOUGH: u64 = 3;
const CLOSE: u64 = 1;
const RETRY_AFTER: u64 = 2;
const MAX_MISTAKES: u8 = 6;

impl ShutdownIndications {
    /// Records the indication of a response. Returns whether the node is most likely stopping.
    #[inline]
    pub(super) fn show(&self, indication: ShutdownIndication) -> bool {
        match indication {
            ShutdownIndication::KeepsAlive => {
                if !self.keeps_alive.load(Ordering::Relaxed) {
                    self.keeps_alive.store(true, Ordering::Relaxed);
                }
                if self.row.load(Ordering::Relaxed) != 0 {
                    self.end_row();
                }
                false
            }
            ShutdownIndication::Closes { client, uses } => {
                let is_usual = uses > 0 && uses == self.usual_uses.load(Ordering::Relaxed);
                self.keeps_alive.load(Ordering::Relaxed) && !is_usual && self.close(client, uses)
            }
            ShutdownIndication::RetryAfter { client } => self.count(client, RETRY_AFTER),
        }
    }

    fn close(&self, client: u32, uses: u32) -> bool {
        self.last_uses.store(uses, Ordering::Relaxed);
        self.count(client, CLOSE)
    }

    /// Adds an indication to the row, unless the last one was in a response to the same client. A
    /// request of that client may be the cause.
    fn count(&self, client: u32, weight: u64) -> bool {
        let row = self.row.load(Ordering::Relaxed);
        if row != 0 && row >> 32 == u64::from(client) {
            return false;
        }
        let count = (row & u64::from(u32::MAX)) + weight;
        // If two indications come at the same time, one may be lost.
        self.row.store((u64::from(client) << 32) | count.min(u64::from(u32::MAX)), Ordering::Relaxed);
        count >= ENOUGH << self.mistakes.load(Ordering::Relaxed)
    }

    /// Ends the row, because the node has stayed.
    #[cold]
    fn end_row(&self) {
        self.row.store(0, Ordering::Relaxed);
        let uses = self.last_uses.swap(0, Ordering::Relaxed);
        if uses > 1 {
            self.usual_uses.store(uses, Ordering::Relaxed);
        }
    }

    /// Starts over after a drain. The indications `were_right` if the node accepted no connection
    /// meanwhile.
    pub(super) fn end_drain(&self, were_right: bool) {
        if were_right {
            self.row.store(0, Ordering::Relaxed);
            self.usual_uses.store(0, Ordering::Relaxed);
        } else {
            self.end_row();
        }
        self.keeps_alive.store(false, Ordering::Relaxed);
        let mistakes = self.mistakes.load(Ordering::Relaxed);
        self.mistakes.store(if were_right { 0 } else { (mistakes + 1).min(MAX_MISTAKES) }, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closes(indications: &ShutdownIndications, clients: impl IntoIterator<Item = u32>) -> Vec<bool> {
        clients.into_iter().map(|client| indications.show(ShutdownIndication::Closes { client, uses: 1 })).collect()
    }

    #[test]
    fn three_different_clients_in_a_row_that_lose_their_connections_are_an_indication_after_one_that_was_kept() {
        let indications = ShutdownIndications::default();
        assert_eq!(closes(&indications, 0..9), [false; 9], "the node has always closed");
        assert!(!indications.show(ShutdownIndication::KeepsAlive));
        assert_eq!(closes(&indications, [1, 1, 1, 2, 2, 1]), [false, false, false, false, false, true]);
        indications.end_drain(true);
        assert_eq!(closes(&indications, 0..9), [false; 9], "the node that is there now may always close");
        assert!(!indications.show(ShutdownIndication::KeepsAlive));
        assert_eq!(closes(&indications, [1, 2, 3]), [false, false, true]);
        indications.end_drain(false);
        assert!(!indications.show(ShutdownIndication::KeepsAlive));
        assert_eq!(
            closes(&indications, 0..6),
            [false, false, false, false, false, true],
            "after a mistake twice as many"
        );
    }

    #[test]
    fn a_node_that_closes_every_connection_since_it_was_drained_is_not_drained_again() {
        let indications = ShutdownIndications::default();
        indications.show(ShutdownIndication::KeepsAlive);
        assert!(closes(&indications, [1, 2, 3])[2]);
        indications.end_drain(false);
        assert!(closes(&indications, 0..1_000).iter().all(|stops| !stops));
    }

    #[test]
    fn connections_that_have_carried_their_number_of_requests_are_no_indication() {
        let indications = ShutdownIndications::default();
        indications.show(ShutdownIndication::KeepsAlive);
        assert!(!indications.show(ShutdownIndication::Closes { client: 1, uses: 100 }));
        indications.show(ShutdownIndication::KeepsAlive);
        for client in 0..64 {
            assert!(!indications.show(ShutdownIndication::Closes { client, uses: 100 }));
        }
        assert_eq!(
            [1, 2, 3].map(|client| indications.show(ShutdownIndication::Closes { client, uses: 10 + client })),
            [false, false, true]
        );
    }

    #[test]
    fn two_clients_in_a_row_that_get_503_with_retry_after_are_an_indication_and_more_are_needed_after_a_mistake() {
        let indications = ShutdownIndications::default();
        let asks = |clients: &[u32]| -> Vec<bool> {
            clients.iter().map(|client| indications.show(ShutdownIndication::RetryAfter { client: *client })).collect()
        };
        assert_eq!(asks(&[1; 9]), [false; 9], "one client may cause it");
        assert!(!indications.show(ShutdownIndication::KeepsAlive));
        assert_eq!(asks(&[2]), [false], "the node stayed in between");
        assert_eq!(asks(&[2, 1]), [false, true]);
        indications.end_drain(false);
        assert_eq!(asks(&[1, 2]), [false; 2]);
        assert!(!indications.show(ShutdownIndication::KeepsAlive));
        assert_eq!(asks(&[1, 2, 3]), [false, false, true]);
    }
}
