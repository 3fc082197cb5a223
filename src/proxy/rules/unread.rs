//! Responses to a request for all nodes that were not read: a limit of the front end, which says nothing about the node.

use http::StatusCode;

use crate::body::{BodyError, CollectError};
use crate::kylin::fan_out::Merge;
use crate::observe::Termination;
use crate::proxy::ErrorResponse;
use crate::proxy::error_response::NO_MEMORY_FOR_RESPONSE;

/// The longest response that is read, in bytes: a list of running queries with their SQL.
pub(super) const MAX_RESPONSE: u64 = 4 << 20;

const TOO_LONG: ErrorResponse = ErrorResponse::new(
    StatusCode::BAD_GATEWAY,
    "a Kylin node responded with more than 4 MiB, the limit of the front end for responses that it merges",
)
.because(Termination::InvalidResponse);

/// A response that was not read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unread {
    pub(super) status: StatusCode,
    error: ErrorResponse,
}

impl Unread {
    /// Returns the reason why the response was not read, if the node did not fail.
    pub(super) fn of(error: &CollectError, status: StatusCode) -> Option<Self> {
        let error = match error {
            CollectError::Body(BodyError::TooLarge) => TOO_LONG,
            CollectError::NoMemory => NO_MEMORY_FOR_RESPONSE,
            CollectError::Body(_) => return None,
        };
        Some(Unread { status, error })
    }

    /// Returns the error response for a client whose merged response would look complete without the ones that were not read, or to
    /// which no other response tells more.
    pub(super) fn error_of(unread: &[Unread], merge: Merge, is_only: bool) -> Option<ErrorResponse> {
        let hides = |unread: &&Unread| match merge {
            // A list without the error of one node is what the client gets of a node that failed.
            Merge::Concat => is_only || unread.status.is_success(),
            Merge::Worst => true,
            // Only the status counts, and is known.
            Merge::Best | Merge::Logout => false,
        };
        unread.iter().find(hides).map(|unread| unread.error)
    }
}
