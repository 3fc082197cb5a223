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

    /// Sets how queries wait for endpoints with a [limit](crate::Endpoint::max_in_flight); `None` turns queues off, and a full
    /// endpoint is not eligible. Default: [`QueueRules::default`], which has no effect where no endpoint has a limit.
    ///
    /// The proxies of a cluster share its queues: the rules of the one that was built last count.
    pub fn queue(mut self, rules: impl Into<Option<QueueRules>>) -> Self {
        self.queue = rules.into();
        self
    }

    /// Sets whether one node executes a query for all clients of a user that send it at the same time. Default: on.
    ///
    /// The first query is sent to a node. Queries that arrive before its response, and are equal to it, wait and get a copy. This
    /// concerns `POST /kylin/api/query` with SQL that only reads and without `Cache-Control: no-cache`. Queries are equal if
    ///
    /// - they carry the same `Authorization` and the same cookies, of which there must be one: no response reaches another user;
    /// - their bodies have the same members, but for `queryId` and `stopId`, in whatever order;
    /// - all other headers are the same, such as `Accept`, `Accept-Encoding` and those that the crate does not know. Those that cannot
    ///   matter may differ: `User-Agent`, `Referer`, those of tracing, and those of proxies unless they name the host;
    /// - no write or build has ended between their arrivals. One of SQL concerns its project, any other all projects. One that no node
    ///   has executed concerns none: it was not sent, was rejected, or got a redirect, 401 or 403. If the client of a write leaves before
    ///   the response, only its own queries count as after it. Writes that do not pass a Kylin-aware proxy of this cluster are not known
    ///   here, such as those through [`Proxy::plain`];
    /// - the session of the client has not been logged out between them.
    ///
    /// A copy is made of a complete 200 of at most 1 MiB that holds a result and no `Set-Cookie`, in memory of the
    /// [budget](Self::buffers). Otherwise the waiting queries are sent to nodes, and the same query does not wait again for a
    /// minute. If the first query fails or gets an error, one more is sent, and if that fails too, all get its response. Kylin
    /// 2.x-4.x sets a cookie in each response to a client that sends credentials and no cookies. Queries of such clients therefore
    /// wait without getting a copy, once a minute, unless the front end [relays logins](crate::session::LoginRelay).
    ///
    /// Each query has its own record for observers, its own session, and the `queryId` of the first query in its response. A client
    /// that leaves or stops its query leaves the execution to those who wait. At most 1,024 queries wait for one; others are sent
    /// to nodes.
    pub fn single_flight(mut self, on: bool) -> Self {
        self.settings.single_flight = on;
        self
    }

    /// Sets how results of queries are cached; `None` caches none. Default: `None`.
    ///
    /// A query gets the result of an [equal](Self::single_flight) one that the same user has sent up to 60 s before, with the headers
    /// `Age` and `X-Cache: HIT`. No node is asked, and the query holds no slot. `X-Cache: MISS` marks the response of a node to a query
    /// that was looked up. A query with `Cache-Control: no-cache` or `no-store` is sent to a node, and its older result is forgotten;
    /// `max-age` says which age is accepted.
    ///
    /// A result is stored if it is a complete 200 of at most 1 MiB, without an exception and without `Set-Cookie`, has all rows, and was
    /// not pushed down to the tables of the source. Kylin marks each response with `Cache-Control: no-store`, which does not count here.
    /// A result is no longer used after a write or a build that passes this cluster, after a change in the project's list of jobs,
    /// or once a node has rejected the credentials of the user. The proxy reads that list every 10 s with the
    /// [login](CacheRules::login). The guide on [waiting](crate::docs::waiting#the-result-cache) says how old a result may be.
    ///
    /// Entries belong to this proxy. It begins to follow the builds of a project with its first query, and stores results of queries
    /// that come after that.
    #[cfg(feature = "cache")]
    #[cfg_attr(docsrs, doc(cfg(feature = "cache")))]
    pub fn cache(mut self, rules: impl Into<Option<CacheRules>>) -> Self {
        self.cache = rules.into();
        self
    }
}
