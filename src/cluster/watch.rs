use std::sync::Arc;

use tokio::sync::watch;

use super::Cluster;
use crate::endpoint::Member;
use crate::health::impaired::ImpairedCount;
use crate::view::Group;

/// Follows the membership of a cluster: see [`Cluster::watch_members`].
pub(crate) struct MembersWatch<B> {
    cluster: Cluster<B>,
    changes: watch::Receiver<()>,
}

impl<B> MembersWatch<B> {
    /// Returns the members, and marks the membership as seen.
    pub(crate) fn members(&mut self) -> Vec<(Arc<Member>, Arc<B>)> {
        // Marked before the members are read. A change in between then completes `changed` once
        // more than needed, but none is missed.
        self.changes.mark_unchanged();
        self.cluster.members()
    }

    /// Marks the membership as seen.
    pub(crate) fn mark_seen(&mut self) {
        self.changes.mark_unchanged();
    }

    /// Completes when the membership has changed since [`members`](Self::members) was called.
    /// Cancel safe.
    pub(crate) async fn changed(&mut self) {
        // The cluster, which owns the sender, lives as long as this watch.
        let _ = self.changes.changed().await;
    }
}

impl<B> Cluster<B> {
    /// Follows the membership, beginning with the present members.
    pub(crate) fn watch_members(&self) -> MembersWatch<B> {
        MembersWatch { cluster: self.clone(), changes: self.shared.changes.subscribe() }
    }

    /// Returns the count that is notified when the health of an endpoint changes.
    pub(crate) fn health_changes(&self) -> ImpairedCount {
        self.shared.members.lock().impaired()
    }

    /// Returns every endpoint with its backend, primaries first.
    pub(crate) fn members(&self) -> Vec<(Arc<Member>, Arc<B>)> {
        let published = self.shared.published.load();
        let view = &published.view;
        let pairs = |group: &Group<B>| -> Vec<_> {
            let members = group.layout.slots.iter().map(|slot| Arc::clone(&slot.member));
            members.zip(group.refs.backends().cloned()).collect()
        };
        [pairs(&view.primary), pairs(&view.backup)].concat()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Duration, timeout};

    use super::*;
    use crate::endpoint::Endpoint;

    #[tokio::test(start_paused = true)]
    async fn a_change_completes_the_watch_once() {
        let cluster = Cluster::<()>::builder().build().unwrap();
        let mut watch = cluster.watch_members();
        assert!(watch.members().is_empty());
        for count in 1..=3 {
            cluster.add(Endpoint::new(count.to_string(), ()).unwrap()).unwrap();
            watch.changed().await;
            assert_eq!(watch.members().len(), count);
        }
        assert!(timeout(Duration::from_secs(1), watch.changed()).await.is_err());
    }
}
