//! May a request be sent to another node? One table over what it is for and what became of it.
//!
//! Whether the method is idempotent is the wrong question: nginx repeats a `PUT` whose connection broke, and so builds a cube
//! twice. Budgets, and which nodes are left to try, are the caller's; so is whether the body is still there to be sent.

use super::answer::{Credentials, Meaning, Refusal};
use super::class::{Class, Repeat};
use crate::backend::Phase;

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fate {
    /// No answer came.
    Failed(Phase),
    /// This one did.
    Answered(Meaning),
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Next {
    /// It ends here: the client gets the answer, or an error for the failure.
    Deliver,
    /// Another node may be asked.
    Elsewhere,
    /// The node that has the session may be asked, if it is another; else it ends here.
    SessionOwner,
}

/// Decides what to do with a request of `class` that met this `fate`.
///
/// ```
/// use kylin_lb::backend::Phase;
/// use kylin_lb::kylin::class::Class;
/// use kylin_lb::kylin::retry::{Fate, Next, decide};
///
/// // A build whose connection broke may have begun; a read did no harm.
/// assert_eq!(decide(Class::Job, Fate::Failed(Phase::Broken)), Next::Deliver);
/// assert_eq!(decide(Class::Read, Fate::Failed(Phase::Broken)), Next::Elsewhere);
/// ```
pub fn decide(class: Class, fate: Fate) -> Next {
    let repeat = class.repeat();
    // What only one node has, or what goes to every node anyway, goes to no other.
    if matches!(repeat, Repeat::Never | Repeat::FanOut) {
        return Next::Deliver;
    }
    match fate {
        Fate::Failed(phase) => failed(class, repeat, phase),
        Fate::Answered(meaning) => answered(repeat, meaning),
    }
}

fn failed(class: Class, repeat: Repeat, phase: Phase) -> Next {
    let again = match phase {
        _ if phase.is_unsent() => true,
        Phase::Broken | Phase::Stale | Phase::Invalid => repeat == Repeat::Read,
        // The node works on it still: a second one would double the load that made it slow.
        Phase::HeadTimeout => repeat == Repeat::Read && !class.is_query(),
        // The client's own upload failed, or a phase unknown today.
        _ => false,
    };
    if again { Next::Elsewhere } else { Next::Deliver }
}

fn answered(repeat: Repeat, meaning: Meaning) -> Next {
    match meaning {
        Meaning::Refused(Refusal::SessionRace) | Meaning::Unauthenticated(Credentials::Cookie) => Next::SessionOwner,
        Meaning::Refused(_) => Next::Elsewhere,
        Meaning::NodeFailure if repeat == Repeat::Read => Next::Elsewhere,
        // A login that failed is not tried again: the third wrong password locks the user. Where the cluster as a whole is
        // in trouble, the next node says the same.
        Meaning::Answer
        | Meaning::NodeFailure
        | Meaning::ClusterWide(_)
        | Meaning::Unauthenticated(_)
        | Meaning::Unreadable => Next::Deliver,
    }
}

#[cfg(test)]
mod tests {
    use super::super::answer::Trouble;
    use super::super::class::Sql;
    use super::*;

    const PHASES: [Phase; 9] = [
        Phase::Connect,
        Phase::ConnectTimeout,
        Phase::Limit,
        Phase::Refused,
        Phase::Broken,
        Phase::Stale,
        Phase::HeadTimeout,
        Phase::Invalid,
        Phase::RequestBody,
    ];

    const MEANINGS: [Meaning; 10] = [
        Meaning::Answer,
        Meaning::Refused(Refusal::Role),
        Meaning::Refused(Refusal::Busy),
        Meaning::Refused(Refusal::SessionRace),
        Meaning::ClusterWide(Trouble::Maintenance),
        Meaning::NodeFailure,
        Meaning::Unauthenticated(Credentials::None),
        Meaning::Unauthenticated(Credentials::Cookie),
        Meaning::Unauthenticated(Credentials::Authorization),
        Meaning::Unreadable,
    ];

    /// One letter for each of PHASES, then for each of MEANINGS: elsewhere, owner, or `.` for the end.
    fn row(class: Class) -> String {
        let letter = |fate| match decide(class, fate) {
            Next::Deliver => '.',
            Next::Elsewhere => 'e',
            Next::SessionOwner => 'o',
        };
        let phases: String = PHASES.map(|phase| letter(Fate::Failed(phase))).iter().collect();
        let meanings: String = MEANINGS.map(|meaning| letter(Fate::Answered(meaning))).iter().collect();
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
        let expected = |class: Class| match class {
            Class::Query(Sql::ReadOnly) | Class::Prepare(Sql::ReadOnly) => query,
            Class::Query(_) | Class::Prepare(_) | Class::Export(_) => unexecuted,
            Class::Read
            | Class::AdminRead
            | Class::Page
            | Class::Login
            | Class::Logout
            | Class::AsyncRead
            | Class::Cancel => read,
            Class::Job | Class::Write | Class::AdminWrite | Class::AsyncSubmit | Class::AsyncStop | Class::Unknown => {
                unexecuted
            }
            Class::Stop | Class::Running | Class::NodeConfig | Class::NodeBound | Class::Internal => nowhere,
        };
        for class in Class::all() {
            assert_eq!(row(class), expected(class), "{class:?}");
        }
    }

    #[test]
    fn no_write_is_sent_twice_after_it_may_have_been_carried_out() {
        for class in Class::all().into_iter().filter(|class| class.is_write()) {
            for phase in PHASES.into_iter().filter(|phase| !phase.is_unsent()) {
                assert_eq!(decide(class, Fate::Failed(phase)), Next::Deliver, "{class:?} {phase:?}");
            }
            assert_eq!(decide(class, Fate::Answered(Meaning::NodeFailure)), Next::Deliver, "{class:?}");
        }
    }
}
