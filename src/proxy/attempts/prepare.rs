//! Prepares a request before an endpoint is picked: reads its body, looks up its session, and
//! enters its flight.

use std::mem::take;

use http::{Request, header};

use super::Attempts;
use super::flight::AfterEntry;
use crate::backend::Backend;
use crate::body::Body;
use crate::kylin::class::RequestClass;
use crate::kylin::fan_out::Merge;
use crate::proxy::error_response::ErrorResponse;
use crate::proxy::replay;
use crate::proxy::rules::{FanOut, RuleState, fan_out};

impl<B: Backend> Attempts<'_, B> {
    /// Reads the body and looks up the session. A request for all nodes then gets its merged
    /// response. A query may get the response of an identical query, or lead a flight.
    pub(super) async fn prepare(&mut self, request: &mut Request<Body>) -> Result<AfterEntry, ErrorResponse> {
        if request.body().whole().is_none() {
            let (body, client) = (take(request.body_mut()), self.context.client().key());
            // Boxed, because it is rare: a short body arrives with its head and needs no wait.
            *request.body_mut() = Box::pin(replay::read(body, client, &self.proxy.settings)).await?;
        }
        replay::copy_body(request);
        if let Some(recorder) = &self.recorder {
            request.body_mut().set_connect_timer(Some(recorder.connect_timer()));
        }
        let query = self.read_query(request);
        if self.reload.is_some() {
            Box::pin(self.admit_reload(request)).await?;
        }
        self.session.begin(&self.context, request).await;
        if let Some(recorder) = &self.recorder
            && self.session.is_kept()
        {
            recorder.session_looked_up(self.session.is_bound());
        }
        if let Some((rules, class)) = self.kylin() {
            self.writer = rules.writer(&self.context, class);
            self.before_flight(class, query.as_ref(), request);
            if let Some(merge) = self.merge(rules, class, request.body()) {
                // Boxed, because it is rare.
                Box::pin(self.fan_out(rules, class, merge, request)).await?;
                return Ok(AfterEntry::Respond);
            }
        }
        match self.enter_flight(query, request) {
            Some(follows) => follows.await,
            None => Ok(AfterEntry::Send),
        }
    }

    /// Sends the request to all its nodes, and keeps the merged response.
    async fn fan_out(
        &mut self,
        rules: &RuleState,
        class: RequestClass,
        merge: Merge,
        request: &mut Request<Body>,
    ) -> Result<(), ErrorResponse> {
        if self.names_no_host {
            request.headers_mut().remove(header::HOST);
        }
        let (proxy, client) = (self.proxy, self.context.client().key());
        let may_repeat = |kind| proxy.may_repeat(kind, client);
        let (cluster, context, buffers) = (&proxy.cluster, &self.context, &proxy.settings.buffers);
        let hides_nodes = self.hides_nodes();
        let facts = FanOut { cluster, context, rules, buffers, class, merge, may_repeat: &may_repeat, hides_nodes };
        let recorder = self.recorder.as_deref_mut();
        let (response, may_be_executed) = fan_out(&facts, &mut self.session, take(request), recorder).await;
        self.note_outcome(may_be_executed);
        self.response = response?;
        Ok(())
    }
}
