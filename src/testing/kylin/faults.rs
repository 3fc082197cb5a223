//! What can go wrong, at the push of a button.
//!
//! Faults that cut an answer off strike after the node has done its work, as in life: a front end that repeats a build
//! because no answer came has it built twice, and the metastore's list of jobs shows it.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body::{Body as HttpBody, Frame, SizeHint};
use parking_lot::Mutex;

use crate::body::{Body, BoxError};
use crate::testing::kylin::KylinNode;
use crate::testing::kylin::settings::Settings;

/// What happens to a request instead of its being answered well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// Neither read nor answered, as by a node that is stuck. Ends when the other side gives up.
    Stall,
    /// Worked on, but the answer never comes.
    Hang,
    /// Not worked on: an HTML page of this status, as Tomcat or a gateway before it makes.
    Html(StatusCode),
    /// Worked on, and the connection closed without an answer.
    Close,
    /// Worked on; after this many bytes of the answer's body the connection is reset (over TCP with a RST). At least the
    /// last byte of the body is always missing.
    ResetAfter(u64),
    /// The same with an orderly end of the connection: what was announced and what came differ.
    TruncateAfter(u64),
    /// In process: no connection, the request comes back unsent. Over TCP: the connection is closed, nothing read of the
    /// body and nothing worked on. To have no listener at all, use [`Served::kill`](super::Served::kill).
    Unreachable,
}

/// Which requests a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reach {
    /// All of them, health checks included.
    Everything,
    /// Those below `/kylin/api/query`: the node looks well and fails at its work.
    Queries,
    /// Logins and logouts.
    Sessions,
}

/// The knobs of one node. They may be turned at any time and count for requests that come later.
#[derive(Debug, Default)]
pub struct Faults {
    injected: Mutex<VecDeque<Injected>>,
    query_latency: Mutex<Duration>,
    concurrent_queries: AtomicUsize,
    queries_outlive_clients: AtomicBool,
    metastore_down: AtomicBool,
    session_store_down: AtomicBool,
}

#[derive(Debug)]
struct Injected {
    fault: Fault,
    reach: Reach,
    left: Option<u64>,
}

impl Faults {
    /// Has `fault` happen to every request within `reach` until [`clear`](Self::clear). Of several that match, the one
    /// injected first strikes.
    pub fn inject(&self, reach: Reach, fault: Fault) {
        self.injected.lock().push_back(Injected { fault, reach, left: None });
    }

    /// Has `fault` happen to the next `times` requests within `reach`.
    pub fn inject_times(&self, times: u64, reach: Reach, fault: Fault) {
        if times > 0 {
            self.injected.lock().push_back(Injected { fault, reach, left: Some(times) });
        }
    }

    /// Ends all injected faults. Requests that hang go on hanging.
    pub fn clear(&self) {
        self.injected.lock().clear();
    }

    /// Makes every query run this much longer. Default: 0.
    pub fn set_query_latency(&self, latency: Duration) {
        *self.query_latency.lock() = latency;
    }

    /// Has queries run to their end although nobody waits for the answer any more, as Kylin's do, unless somebody stops them.
    /// Default: off, a query ends with its request.
    pub fn set_queries_outlive_clients(&self, on: bool) {
        self.queries_outlive_clients.store(on, Ordering::SeqCst);
    }

    pub(crate) fn queries_outlive_clients(&self) -> bool {
        self.queries_outlive_clients.load(Ordering::SeqCst)
    }

    /// Refuses queries while this many run: `kylin.query.project-concurrent-running-threshold`. Default: 0, no limit.
    pub fn set_concurrent_queries(&self, limit: usize) {
        self.concurrent_queries.store(limit, Ordering::SeqCst);
    }

    /// Cuts this node off from its metastore; [`Metastore::set_down`](crate::testing::kylin::Metastore::set_down) does so to all nodes.
    pub fn set_metastore_down(&self, down: bool) {
        self.metastore_down.store(down, Ordering::SeqCst);
    }

    /// Takes the store of sessions away: no cookie is known any more, so that it gets a 401; logins succeed, but their
    /// sessions are not kept. This is what Tomcat with a dead session database does.
    pub fn set_session_store_down(&self, down: bool) {
        self.session_store_down.store(down, Ordering::SeqCst);
    }

    pub(crate) fn query_latency(&self) -> Duration {
        *self.query_latency.lock()
    }

    pub(crate) fn concurrent_queries(&self) -> usize {
        self.concurrent_queries.load(Ordering::SeqCst)
    }

    pub(crate) fn session_store_is_down(&self) -> bool {
        self.session_store_down.load(Ordering::SeqCst)
    }

    /// The fault, if any, that strikes a request for `path`; it is used up where it strikes a number of times only.
    pub(crate) fn strike(&self, path: &str) -> Option<Fault> {
        let mut injected = self.injected.lock();
        let at = injected.iter().position(|fault| match fault.reach {
            Reach::Everything => true,
            Reach::Queries => path.starts_with("/kylin/api/query"),
            Reach::Sessions => path == "/kylin/api/user/authentication" || path.ends_with("logout"),
        })?;
        let Injected { fault, left, .. } = injected.get_mut(at)?;
        let fault = *fault;
        if let Some(left) = left {
            *left -= 1;
            if *left == 0 {
                injected.remove(at);
            }
        }
        Some(fault)
    }
}

impl Fault {
    /// True for the faults that spoil an answer that is ready.
    pub(crate) fn cuts(self) -> bool {
        matches!(self, Fault::Close | Fault::ResetAfter(_) | Fault::TruncateAfter(_))
    }

    /// What this fault leaves of `response`: nothing at all where there is no body, whose middle could be cut in.
    pub(crate) fn cut(
        self,
        response: Response<Body>,
        is_head: bool,
        switch: Option<ResetSwitch>,
    ) -> Option<Response<Body>> {
        let (after, error, switch) = match self {
            Fault::ResetAfter(after) => (after, io::ErrorKind::ConnectionReset, switch),
            Fault::TruncateAfter(after) => (after, io::ErrorKind::UnexpectedEof, None),
            _ => return None,
        };
        if is_head || response.body().is_end_stream() {
            return None;
        }
        Some(response.map(|body| Body::new(CutOff::new(body, after, error, switch))))
    }
}

impl KylinNode {
    pub(crate) fn metastore_is_down(&self, settings: &Settings) -> bool {
        self.faults().metastore_down.load(Ordering::SeqCst) || settings.metastore.is_down()
    }
}

/// Lets a connection be reset instead of closed in order. It travels in the extensions of each request that came over
/// TCP.
#[derive(Clone, Default)]
pub(crate) struct ResetSwitch(pub(crate) Arc<AtomicBool>);

/// A body that fails in the middle.
struct CutOff {
    body: Body,
    left: u64,
    paused: bool,
    error: io::ErrorKind,
    switch: Option<ResetSwitch>,
}

impl CutOff {
    /// `body` up to `after` bytes, less when it is not longer. With a `switch`, the connection is reset.
    fn new(body: Body, after: u64, error: io::ErrorKind, switch: Option<ResetSwitch>) -> Self {
        let most = body.size_hint().exact().map_or(u64::MAX, |length| length.saturating_sub(1));
        CutOff { body, left: after.min(most), paused: false, error, switch }
    }
}

impl HttpBody for CutOff {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if this.left > 0 {
            let frame = std::task::ready!(Pin::new(&mut this.body).poll_frame(cx));
            let Some(Ok(frame)) = frame else {
                // A body of unknown length that ended before the cut is cut here.
                this.left = 0;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            };
            return Poll::Ready(Some(Ok(frame.map_data(|mut bytes| {
                bytes.truncate(usize::try_from(this.left).unwrap_or(usize::MAX));
                this.left -= bytes.len() as u64;
                bytes
            }))));
        }
        if !this.paused {
            // hyper flushes when a body has nothing for the moment; without the pause what was sent so far would be lost.
            this.paused = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if let Some(switch) = &this.switch {
            switch.0.store(true, Ordering::SeqCst);
        }
        Poll::Ready(Some(Err(io::Error::from(this.error).into())))
    }

    fn is_end_stream(&self) -> bool {
        false
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    #[test]
    fn a_fault_strikes_where_and_as_often_as_it_should() {
        let faults = Faults::default();
        faults.inject_times(2, Reach::Queries, Fault::Close);
        faults.inject(Reach::Everything, Fault::Hang);
        assert_eq!(faults.strike("/kylin/api/projects"), Some(Fault::Hang));
        assert_eq!(faults.strike("/kylin/api/query"), Some(Fault::Close));
        assert_eq!(faults.strike("/kylin/api/query/prestate"), Some(Fault::Close));
        assert_eq!(faults.strike("/kylin/api/query"), Some(Fault::Hang));
        faults.clear();
        assert_eq!(faults.strike("/kylin/api/query"), None);
    }

    #[tokio::test]
    async fn a_cut_body_yields_the_bytes_before_the_cut_and_never_ends_well() {
        for (after, whole) in [(2, "he"), (0, ""), (5, "hell"), (1000, "hell")] {
            let mut body = CutOff::new(Body::from("hello"), after, io::ErrorKind::ConnectionReset, None);
            assert_eq!(body.size_hint().exact(), Some(5));
            let mut got = Vec::new();
            let error = loop {
                match body.frame().await {
                    Some(Ok(frame)) => got.extend_from_slice(&frame.into_data().unwrap()),
                    Some(Err(error)) => break error,
                    None => panic!("a cut body has ended well"),
                }
            };
            assert_eq!(got, whole.as_bytes());
            assert_eq!(error.downcast_ref::<io::Error>().unwrap().kind(), io::ErrorKind::ConnectionReset);
        }
    }
}
