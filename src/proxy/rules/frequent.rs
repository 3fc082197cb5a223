//! The most frequent calls, classified when the proxy is built.

use http::Method;

use crate::kylin::class::{RequestClass, classify};
use crate::kylin::path::NormalizedPath;
use crate::kylin::{ClosedPaths, KylinVersion};

/// Queries, and the calls that clients make before and after them.
const CALLS: [(Method, &str); 8] = [
    (Method::POST, "/kylin/api/query"),
    (Method::POST, "/kylin/api/query/prestate"),
    (Method::POST, "/kylin/api/user/authentication"),
    (Method::GET, "/kylin/api/user/authentication"),
    (Method::GET, "/kylin/api/projects"),
    (Method::GET, "/kylin/api/tables_and_columns"),
    (Method::GET, "/kylin/api/cubes"),
    (Method::GET, "/kylin/api/jobs"),
];

/// The calls among [`CALLS`] that are open to every client, with their classes. A lookup returns
/// what [`classify`] and [`ClosedPaths::check`] return, for a tenth of the instructions.
#[derive(Debug)]
pub(super) struct FrequentCalls(Vec<(Method, &'static str, RequestClass)>);

impl FrequentCalls {
    pub(super) fn new(closed: Option<&ClosedPaths>, version: Option<KylinVersion>) -> Self {
        let classified = CALLS.into_iter().filter_map(|(method, text)| {
            let path = NormalizedPath::parse(text).ok()?;
            let is_open = closed.is_none_or(|closed| closed.check(None, &method, &path).is_ok());
            let class = classify(&method, &path, version);
            is_open.then_some((method, text, class))
        });
        FrequentCalls(classified.collect())
    }

    /// Returns the class of a frequent call that is open to every client.
    pub(super) fn class(&self, method: &Method, path: &NormalizedPath<'_>) -> Option<RequestClass> {
        let call = self.0.iter().find(|(known, call, _)| path.as_str() == *call && method == known);
        call.map(|(_, _, class)| *class)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kylin::Guard;
    use crate::kylin::class::Sql;

    #[test]
    fn a_call_that_the_guard_closes_is_not_among_them() {
        let path = NormalizedPath::parse("/kylin/api/query").unwrap();
        let class = |guard: Option<Guard>| {
            let closed = guard.as_ref().map(ClosedPaths::new);
            FrequentCalls::new(closed.as_ref(), None).class(&Method::POST, &path)
        };
        let query = Some(RequestClass::Query(Sql::Unknown));
        assert_eq!((class(None), class(Some(Guard::new()))), (query, query));
        assert_eq!(class(Some(Guard::new().close("/api/query").unwrap())), None);
        assert_eq!(FrequentCalls::new(None, None).class(&Method::PUT, &path), None);
    }
}
