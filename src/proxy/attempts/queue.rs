//! Waits for a slot of the endpoint that was picked.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;

use http::Request;
use tokio::time::sleep_until;

use super::Attempts;
use crate::admission::queue::{Queues, Ticket, Turn};
use crate::backend::{Backend, Timeouts};
use crate::body::Body;
use crate::clock::timer_in;
use crate::cluster::{PickReason, Picked};
use crate::observe::Termination;
use crate::proxy::ErrorResponse;

/// What a query needs to wait.
pub(super) struct MustWait<'p> {
    queues: &'p Arc<Queues>,
    ticket: Ticket,
    turn: Turn,
}

impl<'p, B: Backend> Attempts<'p, B> {
    /// Returns the queues, if an endpoint has a limit and the proxy knows the class of the request.
    pub(super) fn queues(&self) -> Option<&'p Arc<Queues>> {
        self.proxy.queues.as_ref().filter(|queues| queues.is_active() && self.context.class().is_some())
    }

    /// Asks for a slot of the endpoint. `None`: the request can be sent at once.
    pub(super) fn enter_queue(&mut self, picked: &mut Picked<B>) -> Option<MustWait<'p>> {
        let queues = self.queues()?;
        // A request that is sent again to the same endpoint has its slot.
        if picked.lease.claim().is_some() || !self.context.class()?.is_query() {
            return None;
        }
        let ticket = **self.ticket.get_or_insert_with(|| {
            let fingerprint = self.context.query().map(|keys| keys.fingerprint);
            let user = match (self.context.authorization(), self.context.kylin_session()) {
                (Some(credentials), _) => queues.user(credentials.as_bytes()),
                (None, Some(session)) => queues.user(session),
                (None, None) => queues.user(self.context.client().key()),
            };
            Box::new(queues.ticket(user, fingerprint))
        });
        let turn = queues.enter(&mut picked.lease, ticket);
        (turn != Turn::Go).then_some(MustWait { queues, ticket, turn })
    }

    /// Waits for a slot. The request is picked again when its endpoint leaves, is drained or ejected.
    pub(super) async fn wait_for_slot(
        &mut self,
        mut picked: Picked<B>,
        wait: MustWait<'p>,
        request: &Request<Body>,
    ) -> Result<Picked<B>, ErrorResponse> {
        let MustWait { queues, ticket, mut turn } = wait;
        let health = self.proxy.cluster.health_changes();
        let head_timeout = request.extensions().get().map(|timeouts: &Timeouts| timeouts.head);
        let head_timeout = head_timeout.unwrap_or_else(|| picked.backend().head_timeout());
        let mut expired = pin!(sleep_until(timer_in(queues.longest_wait(ticket, head_timeout))));
        if let Some(recorder) = &mut self.recorder {
            recorder.queued(picked.lease.endpoint());
        }
        while turn != Turn::Go {
            if turn == Turn::Refused {
                return Err(self.refused("too many queries wait for a Kylin node"));
            }
            // Made before the state is read, so that no change is missed.
            let changed = health.changed();
            let in_panic = picked.reason == PickReason::Panic;
            if self.proxy.cluster.still_serves(&picked.lease, self.session.is_bound_to(&picked), in_panic) {
                turn = tokio::select! {
                    has_slot = poll_fn(|cx| queues.poll_slot(&mut picked.lease, cx)) => if has_slot { Turn::Go } else { Turn::Refused },
                    () = changed => Turn::Wait,
                    () = &mut expired => return Err(self.refused("the query has waited too long for a Kylin node")),
                };
                continue;
            }
            drop(picked);
            picked = self.pick(request).ok_or_else(|| {
                self.suspects.end();
                ErrorResponse::no_endpoint(self.proxy.cluster.is_empty(), self.proxy.settings.unavailable)
            })?;
            turn = queues.enter(&mut picked.lease, ticket);
            if let Some(recorder) = &mut self.recorder {
                recorder.queued(picked.lease.endpoint());
            }
        }
        if let Some(recorder) = &mut self.recorder {
            recorder.dispatched(picked.lease.endpoint());
        }
        Ok(picked)
    }

    fn refused(&mut self, message: &'static str) -> ErrorResponse {
        self.suspects.end();
        ErrorResponse::new(self.proxy.settings.unavailable, message).because(Termination::Overflow)
    }
}
