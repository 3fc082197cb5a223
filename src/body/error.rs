use std::time::Duration;

use crate::endpoint::Outcome;

/// Any error, boxed: the error of a streamed body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The error of a body that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BodyError {
    /// The source of the body sent nothing for too long.
    #[error("no data arrived for {0:?}")]
    Stalled(Duration),
    /// The body is longer than allowed.
    #[error("the body is too large")]
    TooLarge,
    /// The source of the body failed.
    #[error("the source of the body failed")]
    Source(#[source] BoxError),
}

impl BodyError {
    /// Returns the outcome of a response body's failure for the node's health.
    pub(crate) fn outcome(&self) -> Outcome {
        match self {
            BodyError::Stalled(_) => Outcome::Slow,
            // This is a limit of the front end.
            BodyError::TooLarge => Outcome::Unknown,
            BodyError::Source(_) => Outcome::Failure,
        }
    }

    pub(crate) fn longer_than_declared() -> Self {
        BodyError::Source("longer than its content-length".into())
    }

    pub(crate) fn shorter_than_declared() -> Self {
        BodyError::Source("shorter than its content-length".into())
    }

    /// Wraps the error of a source. A `BodyError` stays as it is.
    pub(super) fn from_source(error: BoxError) -> Self {
        error.downcast().map_or_else(BodyError::Source, |error| *error)
    }
}
