/// The pace at which an endpoint is probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ProbePace {
    /// At the normal interval.
    Normal,
    /// At the fast interval: the endpoint is suspect or is recovering.
    Fast,
    /// At the reconnect interval: the node could not be reached, and may accept connections again
    /// at any time.
    Reconnect,
    /// At once, and at most ten times a second: a response raises the question whether the node
    /// still serves.
    Asked,
}

impl ProbePace {
    pub(super) fn from_u8(pace: u8) -> Self {
        match pace {
            0 => ProbePace::Normal,
            1 => ProbePace::Fast,
            2 => ProbePace::Reconnect,
            _ => ProbePace::Asked,
        }
    }
}
