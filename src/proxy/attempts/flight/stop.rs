//! Stops queries by their ids.

use http::Uri;

use super::super::Attempts;
use super::QueryFlights;
use crate::admission::flight::{FlightKey, StopTarget};
use crate::backend::Backend;
use crate::kylin::class::RequestClass;
use crate::kylin::query::QueryRequest;
use crate::proxy::rules::is_query_id;

impl<B: Backend> Attempts<'_, B> {
    /// Removes the queries that the request stops from their flights and queues. Returns the target
    /// for the nodes if it is not that of the client:
    ///
    /// - If other clients wait for the execution with this id, the target has an id that no node
    ///   knows. A node responds to it as to any other id.
    /// - If the last client of an execution with another id leaves, the target has that id.
    pub(in crate::proxy::attempts) fn stop_queries(
        &self,
        flights: &QueryFlights<B>,
        class: RequestClass,
    ) -> Option<Uri> {
        let path = self.context.path()?;
        let rest = path.as_str().strip_prefix("/kylin/api/query/")?.trim_end_matches('/');
        let suffix = if class == RequestClass::Stop { "/stop" } else { "" };
        let id = rest.strip_suffix(suffix)?;
        if let Some((queues, user)) = self.queues().and_then(|queues| Some((queues, self.stopping_user(queues)?))) {
            queues.stop(queues.stop_key(id, user));
        }
        let (authorization, cookies) = (self.context.authorization(), self.context.cookie_header());
        let id = match flights.stop(id, |key| key.is_of(authorization, cookies)) {
            StopTarget::Named => return None,
            StopTarget::Nothing => format!("kylin-lb-{:032x}", fastrand::u128(..)),
            StopTarget::Execution(key) => executing_id(&key, class)?,
        };
        Uri::try_from(format!("/kylin/api/query/{id}{suffix}")).ok()
    }
}

/// Returns the id by which a request of `class` stops the query.
fn executing_id(key: &FlightKey, class: RequestClass) -> Option<String> {
    let query = QueryRequest::from_json(key.request().body().whole()?).ok()?;
    let [query_id, stop_id] = query.ids();
    let id = if class == RequestClass::Stop { query_id.or(stop_id) } else { stop_id.or(query_id) }?;
    is_query_id(id).then(|| id.to_owned())
}
