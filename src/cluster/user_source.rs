//! Whether the nodes can check logins. Their user source (LDAP) is common to all of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::Cluster;
use crate::clock::{Clock, Epoch};

/// The time since which the user source has been unreachable.
pub(super) struct UserSource {
    /// In milliseconds from 1; 0 while it is reachable.
    down_since: AtomicU64,
    epoch: Epoch,
}

impl UserSource {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        UserSource { down_since: AtomicU64::new(0), epoch: Epoch::new(clock) }
    }

    pub(super) fn down_since(&self) -> Option<Instant> {
        let since = self.down_since.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.epoch.instant(since))
    }
}

impl<B> Cluster<B> {
    /// Records that a node could not reach the user source.
    pub(crate) fn note_user_source_down(&self) {
        let UserSource { down_since, epoch } = &self.shared.user_source;
        let now = epoch.millis().saturating_add(1);
        if down_since.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            tracing::warn!(
                "user source is unreachable: the nodes can check no login (KE-010021006); no node is to blame"
            );
        }
    }

    /// Records that a node has checked a login.
    pub(crate) fn note_user_source_up(&self) {
        if self.shared.user_source.down_since.swap(0, Ordering::Relaxed) != 0 {
            tracing::info!("user source is reachable again: a node has checked a login");
        }
    }

    pub(crate) fn is_user_source_down(&self) -> bool {
        self.shared.user_source.down_since.load(Ordering::Relaxed) != 0
    }
}
