//! Waits for a slot of the endpoint that was picked.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;

use http::{HeaderValue, Request};
use tokio::time::sleep_until;

use super::Attempts;
use crate::admission::queue::{Claims, Queues, SlotState, Ticket};
use crate::backend::{Backend, Timeouts};
use crate::basic_auth;
use crate::body::Body;
use crate::clock::timer_in;
use crate::cluster::{PickReason, Picked};
use crate::proxy::error_response::{ErrorResponse, QUEUES_FULL, STOPPED, WAITED_TOO_LONG};

/// A query that has to wait for a slot.
pub(super) struct SlotWait<'p> {
    queues: &'p Arc<Queues>,
    ticket: Ticket,
    turn: SlotState,
}

impl<'p, B: Backend> Attempts<'p, B> {
    /// Returns the queues, if an endpoint has a limit and the proxy knows the class of the request.
    pub(super) fn queues(&self) -> Option<&'p Arc<Queues>> {
        self.proxy.queues.as_ref().filter(|queues| queues.is_active() && self.context.class().is_some())
    }

    /// Makes the ticket of a query when it arrives. `stop_keys`: see [`Queues::stop_key`].
    pub(super) fn take_ticket(&mut self, queues: &Queues, stop_keys: [u64; 2]) {
        let fingerprint = self.context.query().map(|keys| keys.fingerprint);
        self.ticket = Some(Box::new(queues.ticket(self.claims(queues), fingerprint, stop_keys)));
    }

    fn claims(&self, queues: &Queues) -> Claims {
        let authorization = self.context.authorization();
        let has_basic = authorization.is_some_and(|value| basic_auth::token(value.as_bytes()).is_some());
        let of_header = authorization.map(|value| queues.credential(("authorization", value.as_bytes())));
        let mut sessions = self.context.kylin_sessions().map(|id| queues.credential(("session", id)));
        let sessions = [sessions.next(), sessions.next()];
        let provable = match (of_header, sessions) {
            // A node checks the password, or that the session belongs to this user.
            (Some(basic), _) if has_basic => Some(basic),
            (Some(other), [None, _]) => Some(other),
            (None, [Some(only), None]) => Some(only),
            // Nothing shows which of several cookies the node read.
            _ => None,
        };
        let credentials = [of_header, sessions[0], sessions[1]];
        Claims { address: queues.user(self.context.client().key()), credentials, provable }
    }

    /// Records that a node has accepted the credentials of the query.
    pub(super) fn note_accepted(&mut self) {
        let Some(credential) = self.ticket.as_deref_mut().and_then(Ticket::take_unproven) else { return };
        let Some(queues) = self.queues() else { return };
        let user = match self.context.basic_user() {
            // Kylin ignores the case of user names. So a name in another case, or with another
            // password, is the same user.
            Some(name) => queues.user(("user", name.to_ascii_lowercase())),
            None => queues.user(credential),
        };
        queues.accept(credential, user);
    }

    /// Returns the hash of the credentials with which the client can stop its waiting queries;
    /// `None` if it sent none.
    pub(super) fn stopping_user(&self, queues: &Queues) -> Option<u64> {
        let bytes = |value: Option<&'_ HeaderValue>| value.map(|value| queues.user(value.as_bytes()));
        let session = || self.context.kylin_session().map(|session| queues.user(session));
        // The session of a login relay has a cookie of another name.
        bytes(self.context.authorization()).or_else(session).or_else(|| bytes(self.context.cookie_header()))
    }

    /// Restarts the time limit of the wait. Until now the query followed an execution, which is no
    /// wait for a slot.
    pub(super) fn restart_wait(&mut self) {
        if let Some((queues, ticket)) = self.queues().zip(self.ticket.as_deref_mut()) {
            queues.restart(ticket);
        }
    }

    /// Requests a slot at the endpoint. Returns `None` if the request can be sent at once.
    pub(super) fn enter_queue(&mut self, picked: &mut Picked<B>) -> Option<SlotWait<'p>> {
        let queues = self.queues()?;
        // A request that is sent to the same endpoint again still holds its slot.
        if picked.lease.claim().is_some() || !self.context.class()?.is_query() {
            return None;
        }
        if self.ticket.is_none() {
            self.take_ticket(queues, [0; 2]);
        }
        let ticket = self.ticket.as_deref_mut()?;
        if !self.attempted.is_empty() {
            queues.restart(ticket);
        }
        let ticket = *ticket;
        let turn = queues.enter(&mut picked.lease, ticket);
        (turn != SlotState::Go).then_some(SlotWait { queues, ticket, turn })
    }

    /// Waits for a slot. The request is picked again if its endpoint leaves the cluster, drains or
    /// is ejected.
    pub(super) async fn wait_for_slot(
        &mut self,
        mut picked: Picked<B>,
        wait: SlotWait<'p>,
        request: &Request<Body>,
    ) -> Result<Picked<B>, ErrorResponse> {
        let SlotWait { queues, ticket, mut turn } = wait;
        let health = self.proxy.cluster.health_changes();
        let head_timeout = self.sent(request).extensions().get().map(|timeouts: &Timeouts| timeouts.head);
        let head_timeout = head_timeout.unwrap_or_else(|| picked.backend().head_timeout());
        let time_left = queues.time_left(ticket, head_timeout);
        // The time of a follower may be over before it leads.
        if turn == SlotState::Wait && time_left.is_zero() {
            return Err(self.refused(WAITED_TOO_LONG));
        }
        let mut expired = pin!(sleep_until(timer_in(time_left)));
        // Health may keep requests from the endpoint already at the pick, if the request is on
        // trial or was picked in panic mode.
        let mut past_health = is_withheld(&picked);
        if let Some(leader) = &self.leader {
            leader.wait_with(ticket);
        }
        if let Some(recorder) = &mut self.recorder {
            recorder.queued(picked.lease.endpoint());
        }
        while turn == SlotState::Wait {
            // Created before the state is read, so that no change is missed.
            let changed = health.changed();
            if !self.proxy.cluster.still_serves(&picked.lease, is_bound(&picked), past_health) {
                drop(picked);
                picked = self.pick_sent(request).ok_or_else(|| {
                    self.pending_failures.end();
                    ErrorResponse::no_endpoint(self.proxy.cluster.is_empty(), self.proxy.settings.unavailable)
                })?;
                past_health = is_withheld(&picked);
                turn = queues.enter(&mut picked.lease, ticket);
                if let Some(recorder) = &mut self.recorder {
                    recorder.queued(picked.lease.endpoint());
                }
            }
            if turn == SlotState::Wait {
                // At most one pick per change: a pick that does not see this change may choose the
                // same endpoint again.
                turn = tokio::select! {
                    turn = poll_fn(|cx| queues.poll_slot(&mut picked.lease, cx)) => turn,
                    () = changed => SlotState::Wait,
                    () = &mut expired => return Err(self.refused(WAITED_TOO_LONG)),
                };
            }
        }
        match turn {
            SlotState::Go | SlotState::Wait => {}
            SlotState::Refused => return Err(self.refused(QUEUES_FULL)),
            SlotState::Stopped => {
                // A follower takes the lead from now on.
                self.leader = None;
                return Err(self.refused(STOPPED));
            }
        }
        if let Some(recorder) = &mut self.recorder {
            recorder.dispatched(picked.lease.endpoint());
        }
        Ok(picked)
    }

    fn refused(&mut self, error: ErrorResponse) -> ErrorResponse {
        self.pending_failures.end();
        error
    }
}

/// Returns whether the pick accepts draining endpoints. The wait must do the same, or the next pick
/// would choose the same endpoint again.
fn is_bound<B>(picked: &Picked<B>) -> bool {
    matches!(picked.reason, PickReason::Bound | PickReason::Written)
}

fn is_withheld<B>(picked: &Picked<B>) -> bool {
    picked.lease.is_withheld(is_bound(picked))
}
