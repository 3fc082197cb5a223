/// A node's role: `kylin.server.mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Mode {
    /// Runs queries and jobs.
    #[default]
    All,
    /// Runs queries. It queues the builds that it receives for a job node.
    Query,
    /// Runs jobs and refuses queries.
    Job,
}

impl Mode {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Mode::All => "all",
            Mode::Query => "query",
            Mode::Job => "job",
        }
    }
}
