/// A generation of Kylin's REST interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KylinVersion {
    /// Apache Kylin 2.x-4.x and KAP of that time: cookie `JSESSIONID`, bare JSON, and HTTP 500 for
    /// a failed query.
    V4,
    /// Kylin 5 and Kyligence Enterprise 4: a cookie named after the metastore, JSON in an envelope,
    /// and HTTP 200 with `isException` for a failed query.
    V5,
}
