use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::time::Duration;

use tokio::time::sleep;

use super::*;

const KIB: usize = 1024;

fn budget(limit: usize, share: usize) -> BufferBudget {
    BufferBudget::with_client_share(NonZeroUsize::new(limit), NonZeroUsize::new(share)).unwrap()
}

fn client(number: u8) -> Option<ClientKey> {
    Some(ClientKey::of(IpAddr::from([192, 0, 2, number])))
}

#[test]
fn a_client_gets_its_share_and_leaves_half_of_the_rest_to_the_others() {
    let budget = budget(1000, 300);
    let mut held = Vec::new();
    for number in 0..10 {
        let mut reservation = budget.reservation(client(number));
        while reservation.try_grow(1) {}
        held.push(reservation);
    }
    let bytes: Vec<usize> = held.iter().map(Reservation::bytes).collect();
    assert_eq!(bytes[..2], [300, 233]);
    assert!(bytes.iter().all(|bytes| *bytes > 0), "{bytes:?}");
    assert_eq!(budget.status().used, bytes.iter().sum::<usize>());
    assert_eq!(budget.status().clients, 10);
    drop(held);
    assert_eq!((budget.status().used, budget.status().clients), (0, 0));
}

#[test]
fn without_a_limit_everything_fits_and_is_counted() {
    let budget = BufferBudget::new(None);
    let mut reservation = budget.reservation(client(1));
    assert!(reservation.try_grow(usize::MAX / 4));
    assert_eq!(budget.status().limit, None);
    assert_eq!(budget.status().used, usize::MAX / 4);
}

#[test]
fn a_share_that_exceeds_the_budget_is_an_error() {
    let [more, less] = [NonZeroUsize::new(2), NonZeroUsize::new(1)];
    let error = BufferBudget::with_client_share(less, more).unwrap_err();
    assert_eq!(error.name, "share");
    assert!(BufferBudget::with_client_share(less, None).is_ok());
    assert!(BufferBudget::with_client_share(None, more).is_ok());
}

#[tokio::test]
async fn a_buffer_grows_as_data_arrives_and_is_counted_by_its_capacity() {
    let budget = budget(1 << 20, 1 << 20);
    let mut buffer = GrowingBuffer::new(budget.reservation(None), 100 * KIB);
    assert_eq!(budget.status().used, 0, "a declared length alone allocates nothing");
    let mut peak = 0;
    for _ in 0..100 {
        assert!(buffer.push(&[7; KIB]).await);
        assert!(budget.status().used <= (2 * buffer.len()).min(101 * KIB), "{}", budget.status().used);
        peak = peak.max(budget.status().used);
    }
    assert!(peak >= 100 * KIB);
    let bytes = buffer.into_bytes();
    let slice = bytes.slice(1..2);
    drop(bytes);
    assert!(budget.status().used >= 100 * KIB, "a slice holds all of it");
    drop(slice);
    assert_eq!(budget.status().used, 0);
}

#[tokio::test]
async fn a_buffer_whose_length_was_not_known_gives_back_what_it_does_not_need() {
    let budget = budget(1 << 20, 1 << 20);
    let mut buffer = GrowingBuffer::new(budget.reservation(None), 1 << 20);
    assert!(buffer.push(&[7; 33 * KIB]).await && buffer.push(&[7; KIB]).await);
    let bytes = buffer.into_bytes();
    assert_eq!(bytes.len(), 34 * KIB);
    assert!(budget.status().used < 40 * KIB, "{}", budget.status().used);
}

// Time is paused in these tests. When all tasks wait, it moves to the next timer.

#[tokio::test(start_paused = true)]
async fn what_does_not_fit_waits_for_a_moment_in_order() {
    let budget = budget(100, 100);
    let mut held = budget.reservation(None);
    assert!(held.try_grow(100));
    let mut waiting = Vec::new();
    for number in 0..3_usize {
        let mut reservation = budget.reservation(client(u8::try_from(number).unwrap()));
        waiting.push(tokio::spawn(async move { (reservation.grow_or_wait(10).await, reservation) }));
        sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(budget.status().waiting, 3);
    held.shrink_to(70);
    sleep(Duration::from_millis(1)).await;
    assert_eq!(budget.status().waiting, 1, "two fit: the third would leave less than is left for others");
    let mut results = Vec::new();
    for task in waiting {
        results.push(task.await.unwrap());
    }
    assert_eq!(results.iter().map(|(fits, _)| *fits).collect::<Vec<_>>(), [true, true, false]);
    assert_eq!((budget.status().waiting, budget.status().refused), (0, 1));
    drop((results, held));
    assert_eq!((budget.status().used, budget.status().clients), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn one_that_gives_up_waiting_leaves_nothing_behind() {
    let budget = budget(100, 100);
    let mut held = budget.reservation(None);
    assert!(held.try_grow(100));
    for granted in [false, true] {
        let mut reservation = budget.reservation(client(1));
        let mut wait = Box::pin(async move { reservation.grow_or_wait(10).await });
        assert!(futures_poll(wait.as_mut()).await.is_none());
        assert_eq!(budget.status().waiting, 1);
        if granted {
            held.shrink_to(0);
            assert_eq!(budget.status().used, 10, "granted, and not taken yet");
        }
        drop(wait);
        assert_eq!((budget.status().waiting, budget.status().clients), (0, 0));
    }
    assert_eq!(budget.status().used, 0);
}

#[tokio::test(start_paused = true)]
async fn bytes_that_became_free_before_the_wait_began_are_given_at_once() {
    let budget = budget(100, 100);
    let account = &budget.account;
    let wait = std::pin::pin!(account.waiting.wait(account, None, None, 10));
    assert_eq!(futures_poll(wait).await.flatten().map(|granted| granted.bytes()), Some(10));
    assert_eq!((budget.status().used, budget.status().waiting), (0, 0));
}

#[test]
fn the_last_of_a_client_leaves_no_entry_behind() {
    let budget = budget(100, 100);
    for _ in 0..500 {
        let mut one = budget.reservation(client(1));
        assert!(one.try_grow(2));
        let two = one.split(1);
        let both = std::sync::Barrier::new(2);
        std::thread::scope(|scope| {
            for reservation in [one, two] {
                let both = &both;
                scope.spawn(move || {
                    both.wait();
                    drop(reservation);
                });
            }
        });
        assert_eq!(budget.status().clients, 0);
    }
}

/// Polls once.
async fn futures_poll<F: Future + Unpin>(mut future: F) -> Option<F::Output> {
    std::future::poll_fn(|cx| match std::pin::Pin::new(&mut future).poll(cx) {
        std::task::Poll::Ready(output) => std::task::Poll::Ready(Some(output)),
        std::task::Poll::Pending => std::task::Poll::Ready(None),
    })
    .await
}
