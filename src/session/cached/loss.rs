//! Decides what to do with a session that the store has lost while this front end still knows it.
//!
//! A binding is written again whenever the store no longer has it. A mistake is harmless: the id of
//! a logged-out session merely stays bound to its node. A session of the login relay, in contrast,
//! must not come back after its logout, and a logout leaves its record absent just like a loss.

use std::sync::Arc;
use std::time::Duration;

use super::near::NearEntry;
use super::{CachedStore, Unavailable, is_binding};
use crate::session::SessionKey;

/// The sessions of the login relay that a front end restores in a store that has lost them: see
/// [`SessionsBuilder::restore_after_loss`](super::SessionsBuilder::restore_after_loss).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RestoreAfterLoss {
    /// No session. The users log in again.
    Never,
    /// Each session that is absent from the store and was not logged out here. No other front end
    /// may use the store with the same secret, because its logouts would be undone.
    Alone,
    /// The sessions that the store lost together with all its records. All front ends need this
    /// setting.
    ///
    /// With this setting, a logout leaves a *tombstone* in the store: a record of 11 bytes that
    /// replaces the session for the session's lifetime. Each front end also keeps the latest
    /// 100,000 tombstones of its own logouts. It writes them again, at most once a second, if the
    /// store has lost records or a connection. Another front end that detects a loss waits for 3 s
    /// before it restores a session. A tombstone also replaces a restored session, which then ends
    /// at each front end as after any logout.
    ///
    /// A logout is undone if the store loses it and the front end that served it has ended. It is
    /// also undone while that front end cannot reach the store in these 3 s.
    ///
    /// The front ends recognise a loss by a record with a random number, which each of them loads
    /// once a second. A single record that the store evicts is not restored.
    Shared,
}

impl CachedStore {
    pub(super) fn is_shared(&self) -> bool {
        self.restore == Some(RestoreAfterLoss::Shared)
    }

    /// Returns whether no other front end can have these sessions.
    #[cfg(feature = "login-relay")]
    pub(super) fn is_alone(&self) -> bool {
        self.restoration() == RestoreAfterLoss::Alone
    }

    fn restoration(&self) -> RestoreAfterLoss {
        let default = || {
            let uses = self.secrets.lock();
            match !uses.is_empty() && uses.iter().all(|secret| secret.is_only()) {
                true => RestoreAfterLoss::Alone,
                false => RestoreAfterLoss::Never,
            }
        };
        self.restore.unwrap_or_else(default)
    }

    /// Returns whether to rewrite a session that the near cache has and that the store no longer
    /// has. `ttl` is the time to live of its records.
    ///
    /// # Errors
    /// [`Unavailable`] if the store fails before that is known.
    pub(super) async fn restores(
        self: &Arc<Self>,
        key: &SessionKey,
        near: &NearEntry,
        ttl: Duration,
    ) -> Result<bool, Unavailable> {
        if is_binding(&near.record) {
            return Ok(near.version.is_some());
        }
        if near.record.sealed().is_empty() || !near.is_alive(ttl) || self.ended.contains(key) {
            return Ok(false);
        }
        match self.restoration() {
            RestoreAfterLoss::Never => return Ok(false),
            RestoreAfterLoss::Alone => {}
            RestoreAfterLoss::Shared => {
                self.check_generation().await?;
                if near.epoch.proven == self.loss_epoch().proven {
                    return Ok(false);
                }
                // The other front ends write their tombstones first.
                self.generation.wait_for_tombstones().await;
            }
        }
        tracing::debug!(?key, "restoring a session that the store has lost");
        Ok(true)
    }
}
