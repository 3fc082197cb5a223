use crate::kylin::query::QueryRequest;

/// The facts about a query that observers see.
#[derive(Debug)]
pub(crate) struct ObservedQuery {
    pub(crate) fingerprint: u64,
    pub(crate) project: Box<str>,
    pub(crate) sql: Option<Box<str>>,
}

impl ObservedQuery {
    pub(crate) fn new(query: &QueryRequest<'_>, with_sql: bool) -> Self {
        ObservedQuery {
            fingerprint: query.fingerprint(),
            project: query.project().into(),
            sql: with_sql.then(|| query.sql().into()),
        }
    }
}
