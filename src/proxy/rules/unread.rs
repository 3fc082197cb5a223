//! Responses to a request for all nodes that were not read. The cause is a limit of the front end,
//! which says nothing about the node.

use http::StatusCode;

use crate::body::{BodyError, CollectError};
use crate::kylin::fan_out::Merge;
use crate::observe::Termination;
use crate::proxy::ErrorResponse;
use crate::proxy::error_response::NO_MEMORY_FOR_RESPONSE;

/// The maximum length of a response that is read, in bytes. The longest is a list of running
/// queries with their SQL.
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
    /// Returns why the response was not read; `None` if the node failed.
    pub(super) fn of(error: &CollectError, status: StatusCode) -> Option<Self> {
        let error = match error {
            CollectError::Body(BodyError::TooLarge) => TOO_LONG,
            CollectError::NoMemory => NO_MEMORY_FOR_RESPONSE,
            CollectError::Body(_) => return None,
        };
        Some(Unread { status, error })
    }

    /// Returns an error response if the merged response would look complete without an unread one.
    /// It also does so if no other response tells the client more.
    pub(super) fn error_of(unread: &[Unread], merge: Merge, is_only: bool) -> Option<ErrorResponse> {
        let hides = |unread: &&Unread| match merge {
            // A list that lacks the error of one node is what the client also gets if a node
            // failed.
            Merge::Concat => is_only || unread.status.is_success(),
            Merge::Worst => true,
            // Only the status counts, and it is known.
            Merge::Best | Merge::Logout => false,
        };
        unread.iter().find(hides).map(|unread| unread.error)
    }
}
