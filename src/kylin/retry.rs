//! The retry table: whether another node may be asked, by the class of the request and the outcome
//! of the attempt.
//!
//! Idempotent methods are no guide: nginx retries a `PUT` whose connection broke, and so starts a
//! cube build twice. The caller applies budgets, knows which nodes are left, and knows whether the
//! body can be sent again.

use super::class::{RequestClass, RetrySafety};
use super::response::{Credentials, Rejection, ResponseClass};

/// The outcome of one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum AttemptOutcome {
    /// The node received nothing of the request.
    Unsent,
    /// The connection broke, or the response was malformed.
    Broken,
    /// The response head did not arrive in time.
    HeadTimeout,
    /// The client did not send the whole request.
    RequestBody,
    /// The node responded.
    Responded(ResponseClass),
}

/// The decision after an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum RetryDecision {
    /// Return the response or the error to the client.
    Return,
    /// Another node may be asked.
    OtherEndpoint,
    /// The node that has the session may be asked, if it is another one.
    SessionOwner,
}

/// Decides what to do with a request of `class` after an attempt with this `outcome`.
pub(crate) fn decide(class: RequestClass, outcome: AttemptOutcome) -> RetryDecision {
    let safety = class.retry_safety();
    if matches!(safety, RetrySafety::Never | RetrySafety::FanOut) {
        return RetryDecision::Return;
    }
    let may_retry = match outcome {
        AttemptOutcome::Unsent => true,
        AttemptOutcome::Broken => safety == RetrySafety::Read,
        // The node still runs the query. A second one would double the load that made the node
        // slow.
        AttemptOutcome::HeadTimeout => safety == RetrySafety::Read && !class.is_query(),
        AttemptOutcome::RequestBody => false,
        AttemptOutcome::Responded(response) => match response {
            ResponseClass::Rejected(Rejection::SessionRace) | ResponseClass::Unauthenticated(Credentials::Session) => {
                return RetryDecision::SessionOwner;
            }
            ResponseClass::Rejected(Rejection::Role | Rejection::Busy | Rejection::NotRunning) => true,
            ResponseClass::NodeFailure => safety == RetrySafety::Read,
            // A failed login is not retried, because the third wrong password locks the user. A
            // fault of the cluster is the same on every node.
            ResponseClass::Final
            | ResponseClass::NotFound
            | ResponseClass::ClusterFault(_)
            | ResponseClass::Unauthenticated(Credentials::None | Credentials::Authorization)
            | ResponseClass::Unreadable => false,
        },
    };
    if may_retry { RetryDecision::OtherEndpoint } else { RetryDecision::Return }
}

#[cfg(test)]
mod tests {
    use super::super::class::Sql;
    use super::super::response::ClusterFault;
    use super::*;

    const FAILURES: [AttemptOutcome; 4] =
        [AttemptOutcome::Unsent, AttemptOutcome::Broken, AttemptOutcome::HeadTimeout, AttemptOutcome::RequestBody];

    const RESPONSES: [ResponseClass; 12] = [
        ResponseClass::Final,
        ResponseClass::Rejected(Rejection::Role),
        ResponseClass::Rejected(Rejection::Busy),
        ResponseClass::Rejected(Rejection::SessionRace),
        ResponseClass::ClusterFault(ClusterFault::Maintenance),
        ResponseClass::NodeFailure,
        ResponseClass::Unauthenticated(Credentials::None),
        ResponseClass::Unauthenticated(Credentials::Session),
        ResponseClass::Unauthenticated(Credentials::Authorization),
        ResponseClass::Unreadable,
        ResponseClass::NotFound,
        ResponseClass::Rejected(Rejection::NotRunning),
    ];

    /// Returns one letter for each of FAILURES, then for each of RESPONSES: `e` for another
    /// endpoint, `o` for the session owner, `.` for the end.
    fn row(class: RequestClass) -> String {
        let letter = |outcome| match decide(class, outcome) {
            RetryDecision::Return => '.',
            RetryDecision::OtherEndpoint => 'e',
            RetryDecision::SessionOwner => 'o',
        };
        let failures: String = FAILURES.map(letter).iter().collect();
        let responses: String = RESPONSES.map(|class| letter(AttemptOutcome::Responded(class))).iter().collect();
        format!("{failures} {responses}")
    }

    /// Every class by every failure and every class of response.
    #[test]
    fn the_table() {
        //             U B H b   F R B r C N n c a u f k
        let read = "eee. .eeo.e.o...e";
        let query = "ee.. .eeo.e.o...e";
        let unexecuted = "e... .eeo...o...e";
        let nowhere = ".... ............";
        let expected = |class: RequestClass| match class {
            RequestClass::Query(Sql::ReadOnly) | RequestClass::Prepare(Sql::ReadOnly) => query,
            RequestClass::Query(_) | RequestClass::Prepare(_) | RequestClass::Export(_) => unexecuted,
            RequestClass::Read
            | RequestClass::AdminRead
            | RequestClass::Page
            | RequestClass::Login
            | RequestClass::Logout
            | RequestClass::AsyncRead
            | RequestClass::Cancel => read,
            RequestClass::Job
            | RequestClass::Write
            | RequestClass::AdminWrite
            | RequestClass::AsyncSubmit
            | RequestClass::AsyncStop
            | RequestClass::Unknown => unexecuted,
            RequestClass::Stop
            | RequestClass::Running
            | RequestClass::NodeConfig
            | RequestClass::NodeBound
            | RequestClass::Internal => nowhere,
        };
        for class in RequestClass::all() {
            assert_eq!(row(class), expected(class), "{class:?}");
        }
    }

    #[test]
    fn no_write_is_sent_twice_after_it_may_have_been_executed() {
        for class in RequestClass::all().into_iter().filter(|class| class.is_write()) {
            for outcome in FAILURES.into_iter().filter(|outcome| *outcome != AttemptOutcome::Unsent) {
                assert_eq!(decide(class, outcome), RetryDecision::Return, "{class:?} {outcome:?}");
            }
            assert_eq!(
                decide(class, AttemptOutcome::Responded(ResponseClass::NodeFailure)),
                RetryDecision::Return,
                "{class:?}"
            );
        }
    }
}
