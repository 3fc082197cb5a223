use std::collections::HashSet;
use std::pin::pin;
use std::task::{Context, Waker};

use http::Request;
use tokio::sync::oneshot;

use super::*;
use crate::admission::queue::Ticket;
use crate::body::Body;
use crate::clock::ManualClock;

type Table = FlightTable<oneshot::Receiver<&'static str>, &'static str>;

fn table() -> Table {
    FlightTable::new(Arc::new(ManualClock::new()))
}

fn key(ids: QueryIds) -> Arc<FlightKey> {
    FlightKey::new(7, 1, ids, None, Request::new(Body::from("{}")))
}

/// The queries of one flight: a leader with an execution, and waiting followers.
struct Stage<'t> {
    table: &'t Table,
    leader: Leader<'t, oneshot::Receiver<&'static str>, &'static str>,
    node: oneshot::Sender<&'static str>,
    followers: Vec<Follower<'t, oneshot::Receiver<&'static str>, &'static str>>,
}

impl<'t> Stage<'t> {
    fn new(table: &'t Table, followers: usize) -> Self {
        let ids = |n: usize| table.ids([Some(&n.to_string()), None]);
        let first = key(ids(0));
        let FlightRole::Leader(mut leader) = table.enter(&first) else { panic!("the first leads") };
        let (node, execution) = oneshot::channel();
        leader.start(execution, &first);
        let follow = |n| match table.enter(&key(ids(n))) {
            FlightRole::Follower(follower) => follower,
            _ => panic!("the others follow"),
        };
        Stage { table, leader, node, followers: (1..=followers).map(follow).collect() }
    }
}

/// Returns the outcome of a follower whose flight has ended for it.
fn ended<'t, T, S>(follower: Follower<'t, T, S>) -> FollowerOutcome<'t, T, S> {
    match pin!(follower.wait()).poll(&mut Context::from_waker(Waker::noop())) {
        std::task::Poll::Ready(waited) => waited,
        std::task::Poll::Pending => panic!("the follower waits"),
    }
}

fn is_empty(table: &Table) -> bool {
    let SingleFlightStatus { leaders, followers, .. } = table.status();
    (leaders, followers) == (0, 0)
}

#[test]
fn an_execution_passes_from_client_to_client_until_the_last_has_left() {
    // Each order in which four clients leave.
    let mut orders = HashSet::new();
    for n in 0..256_u32 {
        let order: Vec<usize> = (0..4).map(|at| (n >> (2 * at)) as usize & 3).collect();
        if order.iter().collect::<HashSet<_>>().len() == 4 && orders.insert(order.clone()) {
            let table = table();
            let Stage { leader, node, followers, .. } = Stage::new(&table, 3);
            let mut leader = Some(leader);
            let mut followers: Vec<_> = followers.into_iter().map(Some).collect();
            for (at, client) in order.iter().enumerate() {
                match client {
                    0 => drop(leader.take()),
                    n => drop(followers[n - 1].take()),
                }
                assert_eq!(node.is_closed(), at == 3, "{order:?} at {at}");
            }
            assert!(is_empty(&table), "{order:?}");
        }
    }
    assert_eq!(orders.len(), 24);
}

#[test]
fn a_follower_that_was_given_the_lead_and_has_not_seen_it_hands_it_on() {
    let table = table();
    let Stage { leader, node, mut followers, .. } = Stage::new(&table, 2);
    drop(leader);
    drop(followers.remove(0));
    let FollowerOutcome::Leads(mut leader, _) = ended(followers.remove(0)) else { panic!("the second leads") };
    node.send("rows").unwrap();
    let polled = leader.poll(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(polled, std::task::Poll::Ready(Some(Ok("rows")))));
    assert!(leader.end_if_alone() && is_empty(&table));
}

#[test]
fn a_response_reaches_all_and_ends_the_flight() {
    let table = table();
    let Stage { mut leader, followers, .. } = Stage::new(&table, 3);
    assert!(!leader.end_if_alone());
    leader.share("rows");
    assert!(followers.into_iter().all(|follower| matches!(ended(follower), FollowerOutcome::Shared("rows"))));
    assert!(is_empty(&table) && table.status().shared == 3);
    assert!(matches!(table.enter(&key(QueryIds::default())), FlightRole::Leader(_)));
}

#[test]
fn one_follower_leads_after_the_first_failure_and_all_get_the_second() {
    let table = table();
    let Stage { leader, mut followers, .. } = Stage::new(&table, 3);
    leader.fail(Some("first"));
    let FollowerOutcome::Leads(second, _) = ended(followers.remove(0)) else { panic!("the oldest leads") };
    assert!(!second.is_running());
    second.fail(Some("second"));
    assert!(followers.into_iter().all(|follower| matches!(ended(follower), FollowerOutcome::Shared("second"))));
    assert!(is_empty(&table));
}

#[test]
fn followers_of_a_refused_leader_get_the_second_refusal_and_the_place_of_the_first() {
    let table = table();
    let Stage { leader, mut followers, .. } = Stage::new(&table, 3);
    leader.wait_with(Ticket::with_key(7));
    leader.refuse(Some("first"));
    let FollowerOutcome::Leads(second, Some(ticket)) = ended(followers.remove(0)) else { panic!("the oldest leads") };
    assert_eq!(ticket, Ticket::with_key(7));
    second.refuse(Some("second"));
    assert!(followers.into_iter().all(|follower| matches!(ended(follower), FollowerOutcome::Shared("second"))));
    assert!(is_empty(&table));
}

#[test]
fn each_follower_leads_once_at_most_if_its_leaders_wait_too_long() {
    let table = table();
    let Stage { leader, followers, .. } = Stage::new(&table, 5);
    leader.wait_with(Ticket::with_key(7));
    let mut leader = Some(leader);
    for follower in followers {
        drop(leader.take());
        let FollowerOutcome::Leads(next, Some(_)) = ended(follower) else { panic!("the next one leads") };
        leader = Some(next);
    }
    drop(leader);
    assert!(is_empty(&table) && table.status().shared == 0);
}

#[test]
fn a_query_whose_response_could_not_be_copied_does_not_wait_again() {
    let table = table();
    let Stage { leader, followers, .. } = Stage::new(&table, 2);
    leader.release();
    assert!(followers.into_iter().all(|follower| matches!(ended(follower), FollowerOutcome::Released)));
    assert!(is_empty(&table) && matches!(table.enter(&key(QueryIds::default())), FlightRole::Alone));
}

#[test]
fn unequal_queries_with_one_number_are_not_compared_with_each_other() {
    let table = table();
    let unequal = |n: usize| FlightKey::new(7, 1, QueryIds::default(), None, Request::new(Body::from(n.to_string())));
    let FlightRole::Leader(leader) = table.enter(&unequal(0)) else { panic!("the first leads") };
    assert!((1..9).all(|n| matches!(table.enter(&unequal(n)), FlightRole::Alone)));
    assert!(matches!(table.enter(&unequal(0)), FlightRole::Follower(_)) && table.status().leaders == 1);
    let after_write = FlightKey::new(7, 2, QueryIds::default(), None, Request::new(Body::from("0")));
    assert!(matches!(table.enter(&after_write), FlightRole::Leader(_)));
    drop(leader);
    assert!(is_empty(&table));
}

#[test]
fn a_closed_flight_goes_on_without_more_followers() {
    let table = table();
    let Stage { mut leader, followers, .. } = Stage::new(&table, 1);
    table.close(|_| false);
    assert!(matches!(table.enter(&key(QueryIds::default())), FlightRole::Follower(_)));
    table.close(|_| true);
    assert!(matches!(table.enter(&key(QueryIds::default())), FlightRole::Alone));
    assert!(!leader.end_if_alone());
    leader.share("rows");
    assert!(followers.into_iter().all(|follower| matches!(ended(follower), FollowerOutcome::Shared("rows"))));
    assert!(matches!(table.enter(&key(QueryIds::default())), FlightRole::Leader(_)));
}

#[test]
fn the_number_of_followers_is_bounded() {
    let table = table();
    let stage = Stage::new(&table, MAX_FOLLOWERS);
    assert!(matches!(table.enter(&key(QueryIds::default())), FlightRole::Alone));
    drop(stage.followers);
    assert!(matches!(table.enter(&key(QueryIds::default())), FlightRole::Follower(_)));
    assert_eq!(stage.table.status().leaders, 1);
}

#[test]
fn a_stop_takes_its_client_out_and_nodes_stop_what_has_no_client() {
    let table = table();
    let Stage { mut leader, mut followers, node, .. } = Stage::new(&table, 2);
    let mut cx = Context::from_waker(Waker::noop());
    assert!(leader.poll(&mut cx).is_pending());
    assert!(matches!(table.stop("1", |_| false), StopTarget::Named));
    assert!(matches!(table.stop("other", |_| true), StopTarget::Named));
    assert!(matches!(table.stop("1", |_| true), StopTarget::Named), "no node knows a follower's id");
    assert!(matches!(ended(followers.remove(0)), FollowerOutcome::Stopped));
    assert!(matches!(table.stop("0", |_| true), StopTarget::Nothing), "another waits");
    assert!(matches!(leader.poll(&mut cx), std::task::Poll::Ready(None)));
    drop(leader);
    let FollowerOutcome::Leads(mut leader, _) = ended(followers.remove(0)) else { panic!("the other takes it over") };
    let again = table.stop("0", |_| true);
    assert!(matches!(again, StopTarget::Nothing), "the execution has the id of the client that has left");
    assert!(leader.poll(&mut cx).is_pending());
    let StopTarget::Execution(first) = table.stop("2", |_| true) else { panic!("it is the last") };
    assert!(first.ids == table.ids([Some("0"), None]), "the nodes stop the id that they know");
    assert!(matches!(table.enter(&key(QueryIds::default())), FlightRole::Alone), "no client takes it over");
    assert!(matches!(leader.poll(&mut cx), std::task::Poll::Ready(None)));
    drop(leader);
    assert!(node.is_closed() && is_empty(&table));
}

#[test]
fn a_leader_that_took_over_has_an_execution_of_its_own_after_its_retry() {
    let table = table();
    let Stage { leader, mut followers, node, .. } = Stage::new(&table, 1);
    drop(leader);
    let FollowerOutcome::Leads(mut leader, _) = ended(followers.remove(0)) else { panic!("it takes over") };
    drop(node);
    let mut cx = Context::from_waker(Waker::noop());
    assert!(leader.poll(&mut cx).is_ready(), "the execution has failed");
    let (_node, execution) = oneshot::channel();
    leader.start(execution, &key(table.ids([Some("1"), None])));
    assert!(matches!(table.stop("1", |_| true), StopTarget::Named), "the nodes know it by this id");
    assert!(leader.poll(&mut cx).is_pending());
}

#[test]
fn an_execution_has_the_id_of_the_query_that_leads_after_a_failure() {
    let table = table();
    let Stage { leader, mut followers, .. } = Stage::new(&table, 2);
    leader.fail(Some("first"));
    let FollowerOutcome::Leads(second, _) = ended(followers.remove(0)) else { panic!("the oldest leads") };
    drop(followers);
    assert!(matches!(table.stop("1", |_| true), StopTarget::Named));
    drop(second);
    assert!(is_empty(&table));
}
