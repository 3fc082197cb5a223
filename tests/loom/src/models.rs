use std::sync::Arc;

use loom::future::block_on;
use loom::thread;

use crate::admission::flight::{FlightKey, FlightRole, FlightTable, FollowerOutcome, ProjectSlot, QueryIds};
use crate::buffer::BufferBudget;
use crate::client_key::ClientKey;
use crate::clock::NoClock;
use crate::endpoint::Endpoint;
use crate::health::Reason;
use crate::health::impaired::ImpairedCount;
use crate::health::passive::{Passive, PassiveRule};
use crate::health::withdrawal::{Withdrawal, WithdrawalKind, Withholding, WithholdingState};
use crate::sync::{AtomicU32, AtomicU64, Ordering};

type Model = fn();

pub(crate) const ALL: &[(&str, Model)] = &[
    ("lease: a limit of requests in flight holds", a_limit_holds),
    (
        "lease: of two requests that meet an endpoint after its ejection, one tries it",
        one_request_tries_an_ejected_endpoint,
    ),
    (
        "lease: of two requests that meet a withdrawn endpoint, at most one tries it",
        one_request_tries_a_withdrawn_endpoint,
    ),
    ("health: the count of impairments is that of the endpoints", the_count_of_impairments_is_right),
    ("buffer: one who waits for bytes gets those that are released", released_bytes_reach_one_who_waits),
    ("buffer: one who is refused for the share of a client hides no bytes from others", a_refusal_hides_no_bytes),
    ("buffer: a wait that is given up leaves nothing behind", a_wait_that_is_given_up_leaves_nothing),
    ("buffer: two reservations of a client that end at once leave no entry", reservations_leave_no_entry),
    ("flight: equal queries that come at once share one execution or run apart", equal_queries_meet),
    ("flight: a leader and a follower that leave at once drop the execution once", leader_and_follower_leave),
    ("flight: a follower that stays takes over, though others leave", a_follower_takes_over),
    ("flight: a stop, and a leader that leaves", a_stop_and_a_leader_that_leaves),
    (
        "flight: no query gets what was read before a write that ended before it came",
        no_response_is_older_than_its_query,
    ),
];

fn a_limit_holds() {
    let endpoint = Arc::new(Endpoint::default());
    let open = Arc::new(AtomicU32::new(0));
    let request = {
        let (endpoint, open) = (Arc::clone(&endpoint), Arc::clone(&open));
        move |is_undone: bool| {
            if !endpoint.begin(1) {
                return 0;
            }
            assert_eq!(open.fetch_add(1, Ordering::SeqCst), 0, "two at once");
            open.fetch_sub(1, Ordering::SeqCst);
            if is_undone {
                endpoint.undo_begin()
            } else {
                endpoint.end()
            }
            u64::from(!is_undone)
        }
    };
    let others: Vec<_> = [false, true]
        .map(|is_undone| {
            thread::spawn({
                let request = request.clone();
                move || request(is_undone)
            })
        })
        .into();
    let ended: u64 = request(false) + others.into_iter().map(|thread| thread.join().unwrap()).sum::<u64>();
    assert_eq!(endpoint.counts(), (0, ended));
}

const RULE: PassiveRule = PassiveRule { max_fails: 1, fail_timeout_ms: 10 };

fn one_request_tries_an_ejected_endpoint() {
    let passive = Arc::new(Passive::default());
    passive.fail(RULE, false, 0);
    let choose = |passive: &Passive| u32::from(passive.choose(RULE, || 11));
    let other = thread::spawn({
        let passive = Arc::clone(&passive);
        move || choose(&passive)
    });
    assert_eq!(choose(&passive) + other.join().unwrap(), 1);
}

fn one_request_tries_a_withdrawn_endpoint() {
    let withholding = Arc::new(Withholding::default());
    let withdrawal = Withdrawal { at: 0, until: 5, reason: Reason, kind: WithdrawalKind::Connections };
    withholding.set(WithholdingState::Withdrawn(withdrawal), false);
    let choose = |withholding: &Withholding| u32::from(withholding.choose(false, || 6));
    let other = thread::spawn({
        let withholding = Arc::clone(&withholding);
        move || choose(&withholding)
    });
    assert_eq!(choose(&withholding) + other.join().unwrap(), 1);
    // If another kind of state is set meanwhile, the request that tries does not overwrite it.
    let other = thread::spawn({
        let withholding = Arc::clone(&withholding);
        move || withholding.set(WithholdingState::Down, true)
    });
    withholding.choose(false, || 100_000);
    other.join().unwrap();
    assert!(withholding.is_down());
}

fn the_count_of_impairments_is_right() {
    let impaired = ImpairedCount::default();
    let passive = Arc::new(Passive::new(impaired.clone()));
    passive.fail(RULE, true, 0);
    passive.choose(RULE, || 11);
    let spawn = |act: fn(&Passive)| {
        thread::spawn({
            let passive = Arc::clone(&passive);
            move || act(&passive)
        })
    };
    let threads = [spawn(|passive| _ = passive.fail(RULE, true, 12)), spawn(|passive| _ = passive.readmit_reachable())];
    passive.succeed(RULE);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(impaired.is_zero(), passive.fails() == 0);
    drop(passive);
    assert!(impaired.is_zero());
}

fn budget(limit: usize, share: usize) -> BufferBudget {
    let [limit, share] = [limit, share].map(std::num::NonZeroUsize::new);
    BufferBudget::with_client_share(limit, share).unwrap()
}

fn released_bytes_reach_one_who_waits() {
    let budget = budget(2, 2);
    let mut held = budget.reservation(None);
    assert!(held.grow(2));
    let other = thread::spawn(move || drop(held));
    let mut waits = budget.reservation(None);
    assert!(block_on(waits.grow_or_wait(1)));
    other.join().unwrap();
    drop(waits);
    assert_eq!((budget.status().used, budget.status().waiting), (0, 0));
}

fn a_refusal_hides_no_bytes() {
    let budget = budget(2, 1);
    let client = Some(ClientKey::V4(1));
    // Takes from the whole, and gives back, because its share does not allow it.
    let refused = thread::spawn({
        let budget = budget.clone();
        move || budget.reservation(client).grow(2)
    });
    let mut waits = budget.reservation(None);
    assert!(block_on(waits.grow_or_wait(2)));
    assert!(!refused.join().unwrap());
    drop(waits);
    assert_eq!((budget.status().used, budget.status().clients), (0, 0));
}

fn a_wait_that_is_given_up_leaves_nothing() {
    let budget = budget(1, 1);
    let mut held = budget.reservation(None);
    assert!(held.grow(1));
    let gives_up = thread::spawn({
        let budget = budget.clone();
        move || {
            let mut waits = budget.reservation(None);
            block_on(async {
                let mut wait = std::pin::pin!(waits.grow_or_wait(1));
                std::future::poll_fn(|cx| std::task::Poll::Ready(_ = wait.as_mut().poll(cx))).await;
            });
        }
    });
    drop(held);
    let mut waits = budget.reservation(None);
    assert!(block_on(waits.grow_or_wait(1)));
    gives_up.join().unwrap();
    drop(waits);
    assert_eq!((budget.status().used, budget.status().waiting), (0, 0));
}

fn reservations_leave_no_entry() {
    let budget = budget(8, 8);
    let client = Some(ClientKey::V4(1));
    let mut first = budget.reservation(client);
    assert!(first.grow(1));
    let second = first.split(1);
    let third = thread::spawn({
        let budget = budget.clone();
        move || budget.reservation(client).grow(1)
    });
    let other = thread::spawn(move || drop(second));
    drop(first);
    other.join().unwrap();
    assert!(third.join().unwrap());
    assert_eq!((budget.status().used, budget.status().clients), (0, 0));
}

/// An execution, which counts how often it is dropped.
struct Execution(Arc<AtomicU32>);

impl Drop for Execution {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

type Table = FlightTable<Execution, u64>;

fn table() -> Arc<Table> {
    Arc::new(FlightTable::new(Arc::new(NoClock)))
}

fn key() -> Arc<FlightKey> {
    Arc::new(FlightKey { hash: 7, ids: QueryIds::default() })
}

fn assert_is_empty(table: &Table) {
    let status = table.status();
    assert_eq!((status.leaders, status.followers), (0, 0));
}

fn equal_queries_meet() {
    let (table, executions) = (table(), Arc::new(AtomicU32::new(0)));
    let query = {
        let (table, executions) = (Arc::clone(&table), Arc::clone(&executions));
        move || match table.enter(&key()) {
            FlightRole::Leader(leader) => {
                executions.fetch_add(1, Ordering::SeqCst);
                leader.share(5);
                5
            }
            FlightRole::Follower(follower) => match block_on(follower.wait()) {
                FollowerOutcome::Shared(shared) => shared,
                _ => panic!("the leader has shared its response"),
            },
            // The flight that it was compared with has ended.
            FlightRole::Alone => {
                executions.fetch_add(1, Ordering::SeqCst);
                5
            }
        }
    };
    let others: Vec<_> = (0..2).map(|_| thread::spawn(query.clone())).collect();
    assert_eq!(query(), 5);
    others.into_iter().for_each(|thread| assert_eq!(thread.join().unwrap(), 5));
    assert_is_empty(&table);
    let shared = table.status().shared;
    assert_eq!(u64::from(executions.load(Ordering::SeqCst)) + shared, 3);
}

/// Begins a query that leaves at once, in any role that it has by then.
fn leaves(table: &Arc<Table>) -> thread::JoinHandle<()> {
    let table = Arc::clone(table);
    thread::spawn(move || drop(table.enter(&key())))
}

fn leader_and_follower_leave() {
    let (table, dropped) = (table(), Arc::new(AtomicU32::new(0)));
    let first = key();
    let FlightRole::Leader(mut leader) = table.enter(&first) else { panic!("the first leads") };
    leader.start(Execution(Arc::clone(&dropped)), &first);
    let others = [leaves(&table), leaves(&table)];
    drop(leader);
    others.into_iter().for_each(|thread| thread.join().unwrap());
    assert_is_empty(&table);
    assert_eq!(dropped.load(Ordering::SeqCst), 1);
}

fn a_follower_takes_over() {
    let (table, dropped, leader_leaves) = (table(), Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let first = key();
    let FlightRole::Leader(mut leader) = table.enter(&first) else { panic!("the first leads") };
    leader.start(Execution(Arc::clone(&dropped)), &first);
    let stays = thread::spawn({
        let (table, leader_leaves) = (Arc::clone(&table), Arc::clone(&leader_leaves));
        move || match table.enter(&key()) {
            FlightRole::Follower(follower) => {
                let came_in_time = leader_leaves.load(Ordering::SeqCst) == 0;
                match block_on(follower.wait()) {
                    FollowerOutcome::Leads(leader, _) => assert!(leader.is_running() || !came_in_time),
                    _ => panic!("no response was shared"),
                }
            }
            // All others have already left.
            FlightRole::Leader(leader) => assert!(!leader.is_running()),
            // The flight that it was compared with has ended.
            FlightRole::Alone => {}
        }
    });
    let leaves = leaves(&table);
    leader_leaves.store(1, Ordering::SeqCst);
    drop(leader);
    stays.join().unwrap();
    leaves.join().unwrap();
    assert_is_empty(&table);
    assert_eq!(dropped.load(Ordering::SeqCst), 1);
}

fn a_stop_and_a_leader_that_leaves() {
    let (table, dropped) = (table(), Arc::new(AtomicU32::new(0)));
    let first = key();
    let FlightRole::Leader(mut leader) = table.enter(&first) else { panic!("the first leads") };
    leader.start(Execution(Arc::clone(&dropped)), &first);
    let follows = thread::spawn({
        let table = Arc::clone(&table);
        move || match table.enter(&Arc::new(FlightKey { hash: 7, ids: table.ids([Some("a"), None]) })) {
            FlightRole::Follower(follower) => _ = block_on(follower.wait()),
            FlightRole::Leader(_) => {}
            // The flight that it was compared with has ended.
            FlightRole::Alone => {}
        }
    });
    let stops = thread::spawn({
        let table = Arc::clone(&table);
        move || _ = table.stop("a", |_| true)
    });
    drop(leader);
    stops.join().unwrap();
    follows.join().unwrap();
    assert_is_empty(&table);
    assert_eq!(dropped.load(Ordering::SeqCst), 1);
}

fn no_response_is_older_than_its_query() {
    let (table, data) = (self::table(), Arc::new(AtomicU64::new(0)));
    let project = ProjectSlot::of("learn_kylin");
    let is_written = Arc::new(AtomicU32::new(0));
    let writer = thread::spawn({
        let (table, data, is_written) = (Arc::clone(&table), Arc::clone(&data), Arc::clone(&is_written));
        move || {
            data.store(1, Ordering::SeqCst);
            table.epochs.raise(Some(project));
            // Its client has the response.
            is_written.store(1, Ordering::SeqCst);
        }
    });
    // A leader reads the response, and a later query arrives.
    let of_leader = table.epochs.current(project);
    let response = data.load(Ordering::SeqCst);
    let has_seen_the_write = is_written.load(Ordering::SeqCst) == 1;
    let of_newcomer = table.epochs.current(project);
    if has_seen_the_write && of_leader == of_newcomer {
        assert_eq!(response, 1);
    }
    writer.join().unwrap();
}
