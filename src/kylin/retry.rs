//! May a request be sent to another node? One table over what it is for and what became of it.
//!
//! Whether the method is idempotent is the wrong question: nginx repeats a `PUT` whose connection broke, and so builds a cube
//! twice. Budgets, and which nodes are left to try, are the caller's; so is whether the body is still there to be sent.

use super::class::{RequestClass, RetrySafety};
use super::response::{Credentials, Rejection, ResponseClass};
use crate::backend::SendErrorKind;

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AttemptOutcome {
    /// No answer came.
    Failed(SendErrorKind),
    /// This one did.
    Responded(ResponseClass),
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RetryDecision {
    /// It ends here: the client gets the answer, or an error for the failure.
    Return,
    /// Another node may be asked.
    OtherEndpoint,
    /// The node that has the session may be asked, if it is another; else it ends here.
    SessionOwner,
}

/// Decides what to do with a request of `class` that met this `fate`.
///
/// ```
/// use kylin_lb::backend::SendErrorKind;
/// use kylin_lb::kylin::class::RequestClass;
/// use kylin_lb::kylin::retry::{AttemptOutcome, RetryDecision, decide};
///
/// // A build whose connection broke may have begun; a read did no harm.
/// assert_eq!(decide(RequestClass::Job, AttemptOutcome::Failed(SendErrorKind::Broken)), RetryDecision::Return);
/// assert_eq!(decide(RequestClass::Read, AttemptOutcome::Failed(SendErrorKind::Broken)), RetryDecision::OtherEndpoint);
/// ```
pub fn decide(class: RequestClass, fate: AttemptOutcome) -> RetryDecision {
    let repeat = class.repeat();
    // What only one node has, or what goes to every node anyway, goes to no other.
    if matches!(repeat, RetrySafety::Never | RetrySafety::FanOut) {
        return RetryDecision::Return;
    }
    match fate {
        AttemptOutcome::Failed(phase) => failed(class, repeat, phase),
        AttemptOutcome::Responded(meaning) => answered(repeat, meaning),
    }
}

fn failed(class: RequestClass, repeat: RetrySafety, phase: SendErrorKind) -> RetryDecision {
    let again = match phase {
        _ if phase.is_unsent() => true,
        SendErrorKind::Broken | SendErrorKind::Stale | SendErrorKind::Invalid => repeat == RetrySafety::Read,
        // The node works on it still: a second one would double the load that made it slow.
        SendErrorKind::HeadTimeout => repeat == RetrySafety::Read && !class.is_query(),
        // The client's own upload failed, or a phase unknown today.
        _ => false,
    };
    if again { RetryDecision::OtherEndpoint } else { RetryDecision::Return }
}

fn answered(repeat: RetrySafety, meaning: ResponseClass) -> RetryDecision {
    match meaning {
        ResponseClass::Refused(Rejection::SessionRace) | ResponseClass::Unauthenticated(Credentials::Cookie) => {
            RetryDecision::SessionOwner
        }
        ResponseClass::Refused(_) => RetryDecision::OtherEndpoint,
        ResponseClass::NodeFailure if repeat == RetrySafety::Read => RetryDecision::OtherEndpoint,
        // A login that failed is not tried again: the third wrong password locks the user. Where the cluster as a whole is
        // in trouble, the next node says the same.
        ResponseClass::Answer
        | ResponseClass::NodeFailure
        | ResponseClass::ClusterWide(_)
        | ResponseClass::Unauthenticated(_)
        | ResponseClass::Unreadable => RetryDecision::Return,
    }
}

#[cfg(test)]
mod tests {
    use super::super::class::Sql;
    use super::super::response::ClusterFault;
    use super::*;

    const PHASES: [SendErrorKind; 9] = [
        SendErrorKind::Connect,
        SendErrorKind::ConnectTimeout,
        SendErrorKind::Limit,
        SendErrorKind::Refused,
        SendErrorKind::Broken,
        SendErrorKind::Stale,
        SendErrorKind::HeadTimeout,
        SendErrorKind::Invalid,
        SendErrorKind::RequestBody,
    ];

    const MEANINGS: [ResponseClass; 10] = [
        ResponseClass::Answer,
        ResponseClass::Refused(Rejection::Role),
        ResponseClass::Refused(Rejection::Busy),
        ResponseClass::Refused(Rejection::SessionRace),
        ResponseClass::ClusterWide(ClusterFault::Maintenance),
        ResponseClass::NodeFailure,
        ResponseClass::Unauthenticated(Credentials::None),
        ResponseClass::Unauthenticated(Credentials::Cookie),
        ResponseClass::Unauthenticated(Credentials::Authorization),
        ResponseClass::Unreadable,
    ];

    /// One letter for each of PHASES, then for each of MEANINGS: elsewhere, owner, or `.` for the end.
    fn row(class: RequestClass) -> String {
        let letter = |fate| match decide(class, fate) {
            RetryDecision::Return => '.',
            RetryDecision::OtherEndpoint => 'e',
            RetryDecision::SessionOwner => 'o',
        };
        let phases: String = PHASES.map(|phase| letter(AttemptOutcome::Failed(phase))).iter().collect();
        let meanings: String = MEANINGS.map(|meaning| letter(AttemptOutcome::Responded(meaning))).iter().collect();
        format!("{phases} {meanings}")
    }

    /// Every class by every phase and every meaning.
    #[test]
    fn the_table() {
        //             C T L R B S H I b   A R B r C N n c a u
        let read = "eeeeeeee. .eeo.e.o..";
        let query = "eeeeee.e. .eeo.e.o..";
        let unexecuted = "eeee..... .eeo...o..";
        let nowhere = "......... ..........";
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
    fn no_write_is_sent_twice_after_it_may_have_been_carried_out() {
        for class in RequestClass::all().into_iter().filter(|class| class.is_write()) {
            for phase in PHASES.into_iter().filter(|phase| !phase.is_unsent()) {
                assert_eq!(decide(class, AttemptOutcome::Failed(phase)), RetryDecision::Return, "{class:?} {phase:?}");
            }
            assert_eq!(
                decide(class, AttemptOutcome::Responded(ResponseClass::NodeFailure)),
                RetryDecision::Return,
                "{class:?}"
            );
        }
    }
}
