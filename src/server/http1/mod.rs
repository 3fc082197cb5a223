//! A client that speaks HTTP/1.
//!
//! One future serves a connection: it reads a request, drives the handler, and sends the answer, with nothing handed from task
//! to task on the way. While the handler works it watches the client, so that nobody works for who has left.

mod conversation;
mod encode;
mod head;
#[cfg(test)]
mod property;
mod upload;

use std::future::poll_fn;
use std::mem::replace;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep};

use self::conversation::Conversation;
use self::head::Invalid;
use super::Handler;
use super::connection::{Client, FIRST_BYTE, Idle};
use crate::body::BoxError;
use crate::clock::timer_in;

/// After how long an idle connection is parked.
pub(super) const PARK: Duration = Duration::from_millis(50);

/// The same for one that has had several requests in that time: it is likely to have more.
const PARK_WHEN_BUSY: Duration = Duration::from_secs(1);

/// Serves requests until none has come for a while; none when the connection is over.
pub(super) async fn until_idle<S, H>(
    client: &mut Client<H>,
    idle: Idle<S>,
    timer: Pin<&mut Sleep>,
) -> Result<Option<Idle<S>>, BoxError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Handler,
{
    let signal = client.stop.clone();
    let mut stopped = pin!(client.stop.stopped());
    let Idle { stream, read, deadline } = idle;
    let mut conversation = Conversation::new(stream, read, client.limits);
    let mut patience = Patience::new(timer, deadline, client.limits.head_timeout);
    loop {
        let next = poll_fn(|cx| {
            if let Poll::Ready(read) = conversation.poll_head(cx)? {
                return Poll::Ready(Ok::<_, BoxError>(read.map_or_else(Next::Invalid, |()| Next::Request)));
            }
            let quiet = conversation.is_quiet();
            // The signal to stop is polled once, to be woken by it, and again when it is there: not with every request.
            if !replace(&mut patience.watches, true) || (signal.is_set() && !patience.stopping) {
                patience.stopping = stopped.as_mut().poll(cx).is_ready();
                if patience.stopping {
                    if quiet {
                        return Poll::Ready(Ok(Next::Over));
                    }
                    patience.ends_within(FIRST_BYTE);
                }
            }
            patience.poll(quiet, cx).map(Ok)
        });
        match next.await? {
            Next::Request => {}
            Next::Invalid(invalid) => {
                conversation.refuse(invalid).await?;
                break;
            }
            Next::Idle(deadline) => {
                let (stream, read) = conversation.into_parts();
                return Ok(Some(Idle { stream, read, deadline }));
            }
            Next::Over => return Ok(None),
        }
        if !conversation.has_request() {
            return Ok(None);
        }
        {
            let mut answer = pin!(client.handler.handle(client.peer, conversation.begin()));
            poll_fn(|cx| conversation.poll_with(answer.as_mut(), &signal, cx)).await?;
        }
        poll_fn(|cx| conversation.poll_answer(cx)).await?;
        if !conversation.goes_on() {
            break;
        }
        patience.served();
    }
    conversation.close().await?;
    Ok(None)
}

/// What comes next on a connection.
enum Next {
    /// A request, or the client's leaving.
    Request,
    Invalid(Invalid),
    /// Nothing for now; until then there has to be a request.
    Idle(Instant),
    Over,
}

/// For how long the next request is waited for.
struct Patience<'t> {
    timer: Pin<&'t mut Sleep>,
    /// How many requests there had been when the timer was set. It is left to run out rather than set anew for each.
    timed: Option<usize>,
    next: Instant,
    /// When the head of the next request has to be complete; not looked up before somebody asks.
    deadline: Option<Instant>,
    head_timeout: Duration,
    requests: usize,
    watches: bool,
    stopping: bool,
}

impl<'t> Patience<'t> {
    fn new(timer: Pin<&'t mut Sleep>, deadline: Instant, head_timeout: Duration) -> Self {
        Patience {
            timer,
            timed: None,
            next: timer_in(PARK),
            deadline: Some(deadline),
            head_timeout,
            requests: 0,
            watches: false,
            stopping: false,
        }
    }

    fn served(&mut self) {
        self.requests = self.requests.wrapping_add(1);
        self.deadline = None;
    }

    fn ends_within(&mut self, limit: Duration) {
        (self.timed, self.deadline) = (None, Some(timer_in(limit)));
    }

    /// Waits until there is nothing more to be waited for; `quiet` says that nothing of a request has come.
    fn poll(&mut self, quiet: bool, cx: &mut Context<'_>) -> Poll<Next> {
        loop {
            let Some(requests) = self.timed else {
                let deadline = self.deadline();
                self.timer.as_mut().reset(if quiet { self.next.min(deadline) } else { deadline });
                self.timed = Some(self.requests);
                continue;
            };
            ready!(self.timer.as_mut().poll(cx));
            if requests != self.requests {
                (self.timed, self.next) = (None, timer_in(PARK_WHEN_BUSY));
            } else if self.timer.deadline() >= self.deadline() {
                return Poll::Ready(Next::Over);
            } else if quiet {
                return Poll::Ready(Next::Idle(self.deadline()));
            } else {
                self.timed = None;
            }
        }
    }

    fn deadline(&mut self) -> Instant {
        *self.deadline.get_or_insert_with(|| timer_in(self.head_timeout))
    }
}
