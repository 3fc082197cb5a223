use super::ProxyBuilder;
#[cfg(feature = "cache")]
use crate::admission::CacheRules;
use crate::admission::QueueRules;
use crate::cluster::Cluster;
#[cfg(doc)]
use crate::proxy::Proxy;
use crate::proxy::rules::KylinRules;

/// The settings of a Kylin-aware proxy.
impl<B> ProxyBuilder<B> {
    pub(in crate::proxy) fn kylin_aware(cluster: Cluster<B>) -> Self {
        Self::new(cluster, Some(KylinRules::default()))
    }

    /// Sets the rules of Kylin that the proxy applies. Default: [`KylinRules::default`].
    pub fn rules(mut self, rules: KylinRules) -> Self {
        self.rules = Some(rules);
        self
    }

    /// Sets how queries wait for endpoints with a [limit](crate::Endpoint::max_in_flight). `None`
    /// turns queues off; a full endpoint is then not eligible. Default: [`QueueRules::default`],
    /// which has no effect if no endpoint has a limit.
    ///
    /// The proxies of a cluster share its queues. The rules of the proxy that was built last apply.
    pub fn queue(mut self, rules: impl Into<Option<QueueRules>>) -> Self {
        self.queue = rules.into();
        self
    }

    /// Sets whether one node executes a query on behalf of all clients of a user that send it at
    /// the same time. Default: on.
    ///
    /// The first query is sent to a node. Identical queries that arrive before its response wait
    /// and get a copy. This applies to `POST /kylin/api/query` with SQL that only reads and without
    /// `Cache-Control: no-cache`. Queries are identical if
    ///
    /// - they carry the same `Authorization` and the same cookies, and at least one of the two, so
    ///   no response reaches another user;
    /// - their bodies have the same members, apart from `queryId` and `stopId`, in any order;
    /// - all other headers are the same, such as `Accept`, `Accept-Encoding` and headers that the
    ///   crate does not know. Headers that cannot matter may differ: `User-Agent`, `Referer`,
    ///   tracing headers, and those that proxies set, unless they name the host;
    /// - no write or build has ended between their arrivals. A write in SQL affects its project,
    ///   any other write all projects. A write that no node has executed does not count: it was not
    ///   sent, was rejected, or got a redirect, 401 or 403. If the client of a write leaves before
    ///   the response, only that client's own queries count as following it. Writes that bypass the
    ///   Kylin-aware proxies of this cluster are unknown here, such as those through
    ///   [`Proxy::plain`];
    /// - the client's session was not logged out between them.
    ///
    /// A response is copied if it is a complete 200 of at most 1 MiB that holds a result and no
    /// `Set-Cookie` for the client. A result is complete JSON with rows and without an exception;
    /// if it is compressed, it has at most 4 MiB without the compression. The copy is in memory of
    /// the [budget](Self::buffers). Otherwise the waiting queries are sent to nodes, and identical
    /// queries do not wait again for a minute. If the first query fails or gets an error, one more
    /// is sent, and if that fails too, all queries get its response. If the first query gets no
    /// slot in time, each of the others may still wait for as long as if it had not followed. Kylin
    /// 2.x-4.x sets a cookie in each response to a client that sends credentials and no cookies. So
    /// queries of such clients wait in vain once a minute, unless the front end [relays
    /// logins](crate::session::LoginRelay).
    ///
    /// Each query has its own record for observers and its own session. Its response has the
    /// `queryId` of the first query. If a client leaves or stops its query, the execution continues
    /// for the clients that still wait. If the last of them stops its query, the node is asked to
    /// stop the execution, by the id that the execution has there. At most 1,024 queries wait for
    /// one; others are sent to nodes.
    pub fn single_flight(mut self, on: bool) -> Self {
        self.settings.single_flight = on;
        self
    }

    /// Sets how results of queries are cached; `None` caches none. Default: `None`.
    ///
    /// A query gets the result of an [identical](Self::single_flight) one that the same user sent
    /// within the last 60 s, with the headers `Age` and `X-Cache: HIT`. No node is asked, and the
    /// query holds no slot. `X-Cache: MISS` marks a node's response to a query that was looked up.
    /// A query with `Cache-Control: no-cache` or `no-store` is sent to a node, and its older result
    /// is forgotten. `max-age` sets the greatest age that the client accepts.
    ///
    /// A result is stored if it is a complete 200 of at most 1 MiB without an exception and without
    /// `Set-Cookie`. It must have all rows, and must not have been pushed down to the source
    /// tables. Kylin marks each response with `Cache-Control: no-store`, which is ignored here.
    ///
    /// A result is no longer used after
    ///
    /// - a write or a build that passes this cluster;
    /// - a change in the project's list of jobs, which the proxy reads every 10 s with the
    ///   [login](CacheRules::login);
    /// - a node's rejection of the user's credentials.
    ///
    /// The guide on [waiting](crate::docs::waiting#the-result-cache) says how old a result may be.
    ///
    /// Entries belong to this proxy. The proxy begins to follow the builds of a project at the
    /// project's first query, and stores results of later queries only.
    #[cfg(feature = "cache")]
    #[cfg_attr(docsrs, doc(cfg(feature = "cache")))]
    pub fn cache(mut self, rules: impl Into<Option<CacheRules>>) -> Self {
        self.cache = rules.into();
        self
    }
}
