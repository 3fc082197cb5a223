//! Admits a request: rewrites and classifies its head, and reads the query in its body.

use http::header::{self, HeaderValue};
use http::{Request, Version};

use super::flight::{QueryContents, wants_own_response};
use super::{Attempts, Sender};
use crate::backend::Backend;
use crate::body::Body;
use crate::kylin::class::{RequestClass, Sql};
use crate::kylin::strip_internal_headers;
use crate::proxy::error_response::{ErrorResponse, TOO_MANY_REQUESTS};
use crate::proxy::head::{self, Forwarded, HeaderEdits, HeaderPresence, Hops, join_cookies, remove_hop_by_hop};
use crate::proxy::replay;
use crate::proxy::rules::{RuleState, within_group};
use crate::request::{ClientAddr, QueryKeys};

/// The facts of a query that a proxy needs.
#[derive(Clone)]
pub(in crate::proxy) struct KnownQuery {
    effect: Sql,
    keys: Option<QueryKeys>,
    contents: Option<QueryContents>,
}

impl<B: Backend> Attempts<'_, B> {
    /// Reads the query in the body, to the extent that the resource group, the ticket for the
    /// queues and the policy need it. Returns what single flight compares.
    pub(super) fn read_query(&mut self, request: &Request<Body>) -> Option<QueryContents> {
        let groups = self.proxy.rules.as_ref().and_then(RuleState::resource_groups);
        let queues = self.queues().filter(|_| self.context.class().is_some_and(RequestClass::is_query));
        let user = queues.and_then(|queues| Some((queues, self.stopping_user(queues)?)));
        let (mut project, mut stop_keys) = (None, [0; 2]);
        let wanted = self.wanted_keys();
        let is_observed = self.recorder.as_ref().is_some_and(|recorder| recorder.wants_query());
        let is_asked_for_more = groups.is_some() || queues.is_some() || is_observed;
        let recent =
            self.proxy.recent_queries.as_ref().filter(|_| !is_asked_for_more && self.context.has_sql_in_json());
        let mut read = || {
            self.context.read_sql(request.body(), |query| {
                project = groups.map(|_| query.project().to_owned());
                if let Some(recorder) = &mut self.recorder {
                    recorder.query(query);
                }
                if let Some((queues, user)) = user {
                    stop_keys = query.ids().map(|id| id.map_or(0, |id| queues.stop_key(id, user)));
                }
                let effect = query.effect();
                let flights = self.proxy.flights.as_ref();
                let contents = flights.map(|flights| QueryContents::of(self.proxy, flights, query, effect));
                KnownQuery { effect, keys: self.context.keys_of(query, wanted), contents }
            })
        };
        let query = match recent.zip(request.body().whole()) {
            Some((recent, body)) => {
                let user = self.context.authorization().map_or(&b""[..], HeaderValue::as_bytes);
                recent.get(wanted, user, body, read)
            }
            None => read(),
        };
        if let Some(query) = &query {
            self.context.set_query(query.effect, query.keys);
        }
        if let Some(queues) = queues {
            self.take_ticket(queues, stop_keys);
        }
        if let Some((groups, class)) = groups.zip(self.context.class()) {
            self.attempted = within_group(groups, class, project, request);
        }
        query?.contents
    }

    /// Rewrites the head for the node, classifies the request, and refuses a request that is closed
    /// to clients.
    pub(super) fn admit(
        &mut self,
        peer: ClientAddr,
        request: &mut Request<Body>,
        presence: HeaderPresence,
    ) -> Result<Hops, ErrorResponse> {
        let settings = &self.proxy.settings;
        let is_encrypted = is_encrypted(request);
        let edits = request.extensions_mut().remove::<HeaderEdits>();
        *request.version_mut() = Version::HTTP_11;
        let headers = request.headers_mut();
        let client = settings.trusted.client(peer, headers);
        self.context.set_client(client);
        let is_limited = self.sender == Sender::Client && !settings.trusted.trusts(client);
        if let Some(limit) = self.proxy.client_limit.as_ref().filter(|_| is_limited) {
            self.share = limit.acquire(client).map_err(|_| TOO_MANY_REQUESTS)?;
        }
        self.wants_own_response = presence.cache_directives && wants_own_response(headers);
        // The headers of the client's connection are removed before the proxy adds its own, because
        // `Connection` could name the latter.
        remove_hop_by_hop(headers, presence);
        join_cookies(headers, presence);
        if settings.forwarded_headers {
            let is_trusted = settings.trusted.trusts(peer);
            if presence.names_client && !is_trusted {
                self.proxy.warn_of_untrusted_proxy(peer);
            }
            let is_secure = settings.secure || is_encrypted;
            let forwarded = Forwarded { peer, is_trusted, is_secure, host: self.context.host() };
            forwarded.apply(headers, presence);
        }
        self.names_no_host = self.context.host().is_none();
        let mut has_internal = presence.routed;
        if let Some(edits) = edits {
            edits.apply(headers);
            has_internal = true;
            self.names_no_host = headers.get(header::HOST).is_none_or(HeaderValue::is_empty);
        }
        if self.proxy.rules.is_some() || settings.affinity.is_some() {
            self.context.read_credentials(headers, self.proxy.rules.is_some());
        }
        if let Some(rules) = &self.proxy.rules {
            if has_internal {
                strip_internal_headers(headers);
            }
            self.reload = rules.admit(&mut self.context, request)?;
            if let Some((recorder, class)) = self.recorder.as_mut().zip(self.context.class()) {
                recorder.classified(class.name());
            }
        }
        if let Some(budget) = &self.proxy.budget {
            budget.deposit();
        }
        replay::check_length(request.body(), settings)?;
        head::count_hop(request)
    }
}

/// Returns whether the request came over TLS to the crate's own server.
fn is_encrypted(request: &Request<Body>) -> bool {
    #[cfg(feature = "tls")]
    return request.extensions().get::<crate::tls::TlsConnection>().is_some();
    #[cfg(not(feature = "tls"))]
    {
        let _ = request;
        false
    }
}
