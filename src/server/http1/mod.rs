//! Serves HTTP/1.1 clients.
//!
//! One future serves a connection. It reads a request, drives the handler and writes the response,
//! without passing anything from task to task. While the handler runs, it watches the client, so
//! that no node works for a client that has left.

mod connection;
mod idle_timer;
#[cfg(test)]
mod property;
mod request_body;
mod request_head;
mod response_head;
mod write_timeout;

#[cfg(fuzzing)]
pub(crate) use request_head::fuzz as fuzz_request_head;

use std::future::poll_fn;
use std::mem::replace;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::time::Sleep;

use self::connection::Http1Connection;
#[cfg(test)]
pub(super) use self::idle_timer::PARK_DELAY;
use self::idle_timer::{Expired, IdleTimer};
use self::request_head::{InvalidRequest, TOO_SLOW};
use super::Handler;
use super::client::{Client, IdleConnection};
use super::limits::Limits;
use super::socket::ClientSocket;
use super::stop::{LAST_HEAD_TIMEOUT, StopSignal};
use crate::body::BoxError;
use crate::observe::CutScope;
use crate::request::{ClientAddr, ClientKey};

/// Sends 408 to a client whose first head did not arrive before its protocol was known, and closes
/// the connection.
pub(super) async fn reject_slow<S: ClientSocket>(
    stream: S,
    peer: ClientAddr,
    client: Option<ClientKey>,
    limits: Limits,
) -> Result<(), BoxError> {
    TOO_SLOW.report(peer);
    Http1Connection::new(stream, BytesMut::new(), client, limits).reject(TOO_SLOW).await
}

/// Serves requests until the connection has been idle for a while. Returns `None` when the
/// connection has ended.
pub(super) async fn serve_until_idle<S, H>(
    client: &mut Client<H>,
    idle: IdleConnection<S>,
    timer: Pin<&mut Sleep>,
) -> Result<Option<IdleConnection<S>>, BoxError>
where
    S: ClientSocket,
    H: Handler,
{
    let stop = client.stop.clone();
    let stopped = pin!(client.stop.stopped());
    let mut stop_watch = StopWatch { stop: &stop, stopped, was_polled: false, is_stopping: false };
    let IdleConnection { stream, read, deadline } = idle;
    let mut connection = Http1Connection::new(stream, read, client.key, client.limits.clone());
    let mut idle_timer = IdleTimer::new(timer, deadline, client.limits.head_timeout);
    loop {
        match poll_fn(|cx| poll_event(&mut connection, &mut idle_timer, &mut stop_watch, cx)).await? {
            Event::Request => {}
            Event::Invalid(invalid) => {
                invalid.report(client.peer);
                // Boxed, like other rare steps, because the future of each connection would
                // otherwise have their size.
                Box::pin(connection.reject(invalid)).await?;
                break;
            }
            Event::Expired(Expired::Idle(deadline)) => {
                let (stream, read) = connection.into_parts();
                return Ok(Some(IdleConnection { stream, read, deadline }));
            }
            Event::Expired(Expired::Head) => {
                if !connection.is_quiet() {
                    TOO_SLOW.report(client.peer);
                    Box::pin(connection.reject(TOO_SLOW)).await?;
                }
                return Ok(None);
            }
        }
        if !connection.has_request() {
            return Ok(None);
        }
        {
            let mut cut = CutScope::default();
            let mut response = pin!(client.handler.get().handle(client.peer, connection.take_request()));
            poll_fn(|cx| connection.poll_handler(response.as_mut(), &stop, &mut cut, cx)).await?;
        }
        poll_fn(|cx| connection.poll_response(cx)).await?;
        if !connection.keep_alive() {
            break;
        }
        idle_timer.request_served();
    }
    Box::pin(connection.close()).await?;
    Ok(None)
}

/// The stop of the server, as seen by one connection.
struct StopWatch<'s, F> {
    stop: &'s StopSignal,
    stopped: Pin<&'s mut F>,
    was_polled: bool,
    is_stopping: bool,
}

impl<F: Future<Output = ()>> StopWatch<'_, F> {
    /// Registers the waker at the first call, before the first request, because the signal must
    /// also wake a connection that waits for its handler. Returns whether the server is stopping.
    fn poll_first(&mut self, cx: &mut Context<'_>) -> bool {
        !replace(&mut self.was_polled, true) && self.poll(cx)
    }

    /// Returns whether the server has begun to stop since the last call. Polls only if the signal
    /// is set, not for every request.
    fn has_begun(&mut self, cx: &mut Context<'_>) -> bool {
        self.stop.is_set() && !self.is_stopping && self.poll(cx)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> bool {
        self.is_stopping = self.stopped.as_mut().poll(cx).is_ready();
        self.is_stopping
    }
}

/// Polls until the wait for a request ends.
fn poll_event<S: ClientSocket, F: Future<Output = ()>>(
    connection: &mut Http1Connection<S>,
    idle_timer: &mut IdleTimer<'_>,
    stop: &mut StopWatch<'_, F>,
    cx: &mut Context<'_>,
) -> Poll<Result<Event, BoxError>> {
    let mut is_new = stop.poll_first(cx);
    if let Poll::Ready(read) = connection.poll_head(cx)? {
        return Poll::Ready(Ok(read.map_or_else(Event::Invalid, |()| Event::Request)));
    }
    let is_quiet = connection.is_quiet();
    is_new |= stop.has_begun(cx);
    if is_new {
        if is_quiet {
            return Poll::Ready(Ok(Event::Expired(Expired::Head)));
        }
        idle_timer.end_within(LAST_HEAD_TIMEOUT);
    }
    idle_timer.poll(is_quiet, cx).map(|expired| Ok(Event::Expired(expired)))
}

/// The event that ends the wait for a request.
enum Event {
    /// A request has arrived, or the client has left.
    Request,
    Invalid(InvalidRequest),
    Expired(Expired),
}
