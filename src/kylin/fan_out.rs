//! Requests that concern every node, and how their responses are merged.
//!
//! Kylin 2.x-4.x keeps its running queries per node (apache/kylin 3.1.3
//! QueryContextFacade.java:37-73), so all nodes must be asked to stop or list them. Kylin 5
//! notifies its nodes itself. Every version keeps its sessions per node, so the logout of a session
//! goes to all nodes if none is known to have it.
//!
//! | merge | nodes | response |
//! |---|---|---|
//! | `Best` | query nodes | 502 if a node that may run the query did not confirm the stop |
//! | `Concat` | query nodes | the lists of the nodes that responded; 502 if one exceeds the limit |
//! | `Worst` | all | 502 if a node did not respond |
//! | `Logout` | all | 502 if a node that may have the session did not confirm the logout |
//!
//! A node gets the request regardless of its health, its limit and its drain, but not in
//! maintenance. A node that refuses connections confirms, because its sessions and queries ended
//! with its process. A node that asks for a login, or denies access, does not know the session. So
//! it confirms a logout, but not a stop.

use std::cmp::Reverse;

use http::StatusCode;
use serde_json::value::RawValue;

use super::class::RequestClass;

/// How the responses of several nodes are merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Merge {
    /// The request stops a query that one of all query nodes runs. The client gets one of the best
    /// responses. A node that does not know the id responds with success too. So the success of
    /// some nodes means nothing while another node may run the query.
    Best,
    /// Each node returns a JSON array, and the client gets one array of all elements.
    Concat,
    /// The request goes to all nodes, not only to those that serve queries. The client gets one of
    /// the worst responses, so that success means success everywhere.
    Worst,
    /// The request ends a session that one of all nodes has. The client gets one of the best
    /// responses, with the cookies that it deletes. A node that does not know the session responds
    /// with success too.
    Logout,
}

/// Returns how the responses to a request of `class` are merged, if it goes to every node that
/// serves queries; otherwise `None`.
///
/// `PUT /admin/config` is not merged although it changes only one node. It is unknown whether an
/// operator means one node or all.
pub(crate) fn merge_of(class: RequestClass) -> Option<Merge> {
    match class {
        RequestClass::Stop => Some(Merge::Best),
        RequestClass::Running => Some(Merge::Concat),
        RequestClass::Query(_)
        | RequestClass::Prepare(_)
        | RequestClass::Export(_)
        | RequestClass::AsyncSubmit
        | RequestClass::AsyncRead
        | RequestClass::AsyncStop
        | RequestClass::Cancel
        | RequestClass::Login
        | RequestClass::Logout
        | RequestClass::Read
        | RequestClass::Write
        | RequestClass::Job
        | RequestClass::AdminRead
        | RequestClass::AdminWrite
        | RequestClass::NodeConfig
        | RequestClass::NodeBound
        | RequestClass::Internal
        | RequestClass::Page
        | RequestClass::Unknown => None,
    }
}

/// Returns the index of the best of some statuses: success ranks above redirection, and client
/// errors above server errors.
pub(crate) fn best(statuses: impl IntoIterator<Item = StatusCode>) -> Option<usize> {
    statuses.into_iter().enumerate().min_by_key(|&(at, status)| (rank(status), at)).map(|(at, _)| at)
}

/// Returns the index of the worst of some statuses.
pub(crate) fn worst(statuses: impl IntoIterator<Item = StatusCode>) -> Option<usize> {
    statuses.into_iter().enumerate().max_by_key(|&(at, status)| (rank(status), Reverse(at))).map(|(at, _)| at)
}

fn rank(status: StatusCode) -> u8 {
    match status.as_u16() {
        200..300 => 0,
        300..400 => 1,
        400..500 => 2,
        _ => 3,
    }
}

/// Returns one JSON array with the elements of several arrays in order, and the number of bodies
/// that are not arrays.
///
/// Elements are copied as written, so that numbers and unknown members keep their form. The array
/// has no larger capacity than all bodies, because each of them has brackets.
pub(crate) fn concat<'b>(bodies: impl IntoIterator<Item = &'b [u8], IntoIter: Clone>) -> (Vec<u8>, usize) {
    let bodies = bodies.into_iter();
    let mut merged = Vec::new();
    merged.reserve_exact(bodies.clone().map(<[u8]>::len).sum::<usize>().max(2));
    merged.push(b'[');
    let mut skipped = 0;
    for body in bodies {
        let Ok(items) = serde_json::from_slice::<Vec<&RawValue>>(body) else {
            skipped += 1;
            continue;
        };
        for item in items {
            if merged.len() > 1 {
                merged.push(b',');
            }
            merged.extend_from_slice(item.get().as_bytes());
        }
    }
    merged.push(b']');
    (merged, skipped)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_state_of_single_nodes_is_asked_of_all() {
        let fanned: Vec<RequestClass> =
            RequestClass::all().into_iter().filter(|&class| merge_of(class).is_some()).collect();
        assert_eq!(fanned, [RequestClass::Stop, RequestClass::Running]);
    }

    #[test]
    fn one_node_that_stopped_the_query_is_enough() {
        let at = |codes: &[u16]| best(codes.iter().map(|&code| StatusCode::from_u16(code).unwrap()));
        assert_eq!(at(&[500, 404, 200, 204]), Some(2));
        assert_eq!(at(&[502, 401]), Some(1));
        assert_eq!(at(&[502, 503]), Some(0));
        assert_eq!(at(&[]), None);
    }

    #[test]
    fn arrays_are_joined_as_written() {
        let bodies: [&[u8]; 5] = [b"[ {\"id\": 1.0} ]", b"[]", b"<html>", b"{\"a\":1}", b"[2,\"x\"]"];
        assert_eq!(concat(bodies), (b"[{\"id\": 1.0},2,\"x\"]".to_vec(), 2));
        assert_eq!(concat([]), (b"[]".to_vec(), 0));
    }

    proptest! {
        #[test]
        fn a_joined_array_has_all_elements(lists in prop::collection::vec(prop::collection::vec(".{0,5}", 0..4), 0..4)) {
            let bodies: Vec<Vec<u8>> = lists.iter().map(|list| serde_json::to_vec(list).unwrap()).collect();
            let (merged, skipped) = concat(bodies.iter().map(Vec::as_slice));
            let all: Vec<String> = serde_json::from_slice(&merged).unwrap();
            prop_assert_eq!((all, skipped), (lists.concat(), 0));
        }
    }
}
