//! Looks a query up in the [result cache](crate::admission::cache), and stores its result.

use std::time::Duration;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Request, StatusCode};

use super::Attempts;
use super::flight::QueryContents;
use super::response::{MAX_SHARED, declared_length, read_whole};
use crate::admission::cache::{CachedResult, Lookup, Pending};
use crate::backend::Backend;
use crate::body::Body;
use crate::buffer::GrowingBuffer;
use crate::cluster::Picked;
use crate::kylin::response::{NoResult, QueryResult, ResponseClass, read_result};
use crate::observe::CacheOutcome;

/// Tells a client whether the response comes from the cache.
const X_CACHE: HeaderName = HeaderName::from_static("x-cache");

/// A query for which the cache had no result.
pub(super) struct CacheMiss {
    /// `None` once its result was stored or must not be stored.
    pending: Option<Pending>,
}

impl<B: Backend> Attempts<'_, B> {
    /// Responds with the cached result of a query, if there is one. Returns whether it did.
    pub(super) fn look_up(&mut self, query: &QueryContents, request: &Request<Body>) -> bool {
        let Some((cache, project)) = self.proxy.cache.as_ref().zip(query.cached_of.as_ref()) else { return false };
        let credentials = cache.credentials(&self.context);
        let Some(key) = cache.key(request, &credentials) else { return false };
        if self.wants_own_response {
            cache.forget(&key);
            return false;
        }
        let max_age = max_age(request.headers());
        let (outcome, age) = match cache.look_up(key, credentials, project.clone(), max_age) {
            Lookup::Hit(result, age) => {
                self.respond_with_cached(&result, age);
                (CacheOutcome::Hit, Some(age))
            }
            Lookup::Miss(pending, outcome) => {
                self.cache_miss = Some(Box::new(CacheMiss { pending: Some(pending) }));
                (outcome, None)
            }
        };
        if let Some(recorder) = &self.recorder {
            recorder.cache_looked_up(outcome, age);
        }
        outcome == CacheOutcome::Hit
    }

    fn respond_with_cached(&mut self, result: &CachedResult, age: Duration) {
        self.response = result.head.clone().map(|()| result.body.clone().into());
        let headers = self.response.headers_mut();
        headers.insert(header::AGE, HeaderValue::from(age.as_secs()));
        headers.insert(X_CACHE, HeaderValue::from_static("HIT"));
        if let Some(share) = self.share.take() {
            self.response.body_mut().hold_guard(share);
        }
        if self.shows_served_by() {
            self.response.extensions_mut().insert(result.served_by.clone());
        }
    }

    /// Records that the query takes over an execution that was sent for another client before this
    /// query arrived.
    pub(super) fn takes_over_execution(&mut self) {
        if let Some(miss) = &mut self.cache_miss {
            miss.pending = None;
        }
    }

    /// Reads the body of a response that may be stored.
    pub(super) async fn read_for_cache(&mut self) {
        let reservation = self.proxy.settings.buffers.reservation(self.context.client().key());
        read_whole(&mut self.response, GrowingBuffer::new(reservation, MAX_SHARED)).await;
    }

    /// Returns whether the response may be stored, and its body is still a stream.
    pub(super) fn is_read_for_cache(&self, class: Option<ResponseClass>) -> bool {
        self.cache_miss.as_ref().is_some_and(|miss| miss.pending.is_some())
            && self.may_store(class)
            && self.response.body().whole().is_none()
            && declared_length(&self.response).is_none_or(|length| length <= MAX_SHARED as u64)
    }

    fn may_store(&self, class: Option<ResponseClass>) -> bool {
        self.response.status() == StatusCode::OK && class == Some(ResponseClass::Final) && !self.gives_cookie()
    }

    /// Stores the response if it is a result that was read completely. Returns what it has read of
    /// the body, if anything.
    pub(super) fn store_result(
        &mut self,
        class: Option<ResponseClass>,
        picked: &Picked<B>,
    ) -> Option<Result<QueryResult, NoResult>> {
        let pending = self.cache_miss.as_mut()?.pending.take()?;
        let cache = self.proxy.cache.as_ref()?;
        if !self.may_store(class) {
            return None;
        }
        let copy = self.share(None).filter(|copy| copy.body.len() <= MAX_SHARED)?;
        let result = read_result(copy.head.headers(), &copy.body);
        if result.is_ok_and(|result| result.is_cacheable) {
            cache.store(pending, copy.head, &copy.body, self.served_by(picked).shared());
        }
        Some(result)
    }

    /// Marks the response as a cache miss, and records that a node rejects credentials.
    pub(super) fn note_cache_miss(&mut self) {
        if self.cache_miss.is_some() {
            self.response.headers_mut().insert(X_CACHE, HeaderValue::from_static("MISS"));
        }
        let is_rejected = matches!(self.response.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
        if let Some(cache) = &self.proxy.cache
            && is_rejected
            && self.context.has_any_credentials()
        {
            cache.reject(&cache.credentials(&self.context));
        }
    }
}

/// Returns the greatest age that the client accepts (RFC 9111, 5.2.1.1).
fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let values = headers.get_all(header::CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let seconds = values.flat_map(|value| value.split(',')).filter_map(|directive| {
        let (name, seconds) = directive.trim().split_once('=')?;
        // A value that cannot be parsed accepts no age.
        name.eq_ignore_ascii_case("max-age").then(|| seconds.trim_matches('"').parse().unwrap_or(0))
    });
    seconds.min().map(Duration::from_secs)
}
