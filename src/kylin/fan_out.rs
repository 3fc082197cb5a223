//! Requests that concern every node, and how their answers become one.
//!
//! Kylin 2.x-4.x keeps its running queries per node (apache/kylin 3.1.3 QueryContextFacade.java:37-73): to stop one, or to see
//! them, all nodes must be asked. Kylin 5 tells its nodes itself.

use http::StatusCode;
use serde_json::value::RawValue;

use super::class::RequestClass;

/// How the answers of several nodes become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Merge {
    /// Each node does its part, and an unknown id is no error: the client gets one of the best answers.
    Best,
    /// Each node gives a JSON array: the client gets one array of all.
    Concat,
}

/// How a request of `class` is to be merged if it concerns every node that serves queries; none for all other classes.
///
/// `PUT /admin/config` is not among them although it changes one node only: whether an operator means one node or all is not to
/// be guessed. A front end that is to change all sends it to all and answers with the [`worst`].
pub fn merge_of(class: RequestClass) -> Option<Merge> {
    match class {
        RequestClass::Stop => Some(Merge::Best),
        RequestClass::Running => Some(Merge::Concat),
        _ => None,
    }
}

/// The best of some statuses, for what one node of many carries out: success before redirection, client errors before the
/// server's. None when there are none.
pub fn best(statuses: impl IntoIterator<Item = StatusCode>) -> Option<usize> {
    let rank = |status: StatusCode| match status.as_u16() {
        200..300 => 0,
        300..400 => 1,
        400..500 => 2,
        _ => 3,
    };
    statuses.into_iter().enumerate().min_by_key(|&(at, status)| (rank(status), at)).map(|(at, _)| at)
}

/// The worst of some statuses, for what must succeed on every node.
pub fn worst(statuses: impl IntoIterator<Item = StatusCode>) -> Option<usize> {
    statuses.into_iter().enumerate().max_by_key(|&(at, status)| (status.as_u16(), usize::MAX - at)).map(|(at, _)| at)
}

/// One JSON array of the elements of several, in their order. What is no array is left out, and counted in the second value.
///
/// Elements are copied as they are written, so that numbers and unknown fields stay what they were.
pub fn concat<'b>(bodies: impl IntoIterator<Item = &'b [u8]>) -> (Vec<u8>, usize) {
    let mut merged = vec![b'['];
    let mut strangers = 0;
    for body in bodies {
        let Ok(items) = serde_json::from_slice::<Vec<&RawValue>>(body) else {
            strangers += 1;
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
    (merged, strangers)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_what_is_kept_per_node_is_asked_of_all() {
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
        let worst = |codes: &[u16]| worst(codes.iter().map(|&code| StatusCode::from_u16(code).unwrap()));
        assert_eq!(worst(&[200, 500, 404, 500]), Some(1));
        assert_eq!(worst(&[200, 200]), Some(0));
        assert_eq!(worst(&[]), None);
    }

    #[test]
    fn lists_are_joined_as_they_are_written() {
        let bodies: [&[u8]; 5] = [b"[ {\"id\": 1.0} ]", b"[]", b"<html>", b"{\"a\":1}", b"[2,\"x\"]"];
        assert_eq!(concat(bodies), (b"[{\"id\": 1.0},2,\"x\"]".to_vec(), 2));
        assert_eq!(concat([]), (b"[]".to_vec(), 0));
    }

    proptest! {
        #[test]
        fn a_joined_list_has_all_elements(lists in prop::collection::vec(prop::collection::vec(".{0,5}", 0..4), 0..4)) {
            let bodies: Vec<Vec<u8>> = lists.iter().map(|list| serde_json::to_vec(list).unwrap()).collect();
            let (merged, strangers) = concat(bodies.iter().map(Vec::as_slice));
            let all: Vec<String> = serde_json::from_slice(&merged).unwrap();
            prop_assert_eq!((all, strangers), (lists.concat(), 0));
        }
    }
}
