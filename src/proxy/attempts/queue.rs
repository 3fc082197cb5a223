//! Waits for a slot of the endpoint that was picked.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;

use http::Request;
use tokio::task::yield_now;
use tokio::time::sleep_until;

use super::Attempts;
use crate::admission::queue::{Queues, Ticket, Turn};
use crate::backend::{Backend, Timeouts};
use crate::body::Body;
use crate::clock::timer_in;
use crate::cluster::{PickReason, Picked};
use crate::proxy::error_response::{ErrorResponse, QUEUES_FULL, WAITED_TOO_LONG};

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
                return Err(self.refused(QUEUES_FULL));
            }
            // Made before the state is read, so that no change is missed.
            let changed = health.changed();
            let in_panic = picked.reason == PickReason::Panic;
            // As the pick has it, or it would choose the same endpoint again.
            let bound = matches!(picked.reason, PickReason::Bound | PickReason::Written);
            if self.proxy.cluster.still_serves(&picked.lease, bound, in_panic) {
                turn = tokio::select! {
                    has_slot = poll_fn(|cx| queues.poll_slot(&mut picked.lease, cx)) => if has_slot { Turn::Go } else { Turn::Refused },
                    () = changed => Turn::Wait,
                    () = &mut expired => return Err(self.refused(WAITED_TOO_LONG)),
                };
                continue;
            }
            drop(picked);
            // Whatever the pick chooses, other tasks run in between.
            yield_now().await;
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

    fn refused(&mut self, error: ErrorResponse) -> ErrorResponse {
        self.suspects.end();
        error
    }
}
