//! Faults that a test injects.
//!
//! Faults that cut off a response take effect after the node has done its work, like real ones. A
//! front end that repeats a build because it got no response has the build executed twice. The
//! metastore's list of jobs shows that.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body::{Body as HttpBody, Frame, SizeHint};
use parking_lot::Mutex;

use crate::body::{Body, BoxError};

/// A fault that a request encounters instead of a normal response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The request is neither read nor processed, as at a node that is stuck. Ends when the client
    /// cancels.
    Stall,
    /// The request is processed, but the node never responds.
    Hang,
    /// The request is not processed. The response is an HTML page with this status, as Tomcat or a
    /// gateway in front of it generates it.
    Html(StatusCode),
    /// The request is processed, and the connection is closed without a response.
    Close,
    /// The request is processed. After this many bytes of the body, the connection is reset (over
    /// TCP with a RST). At least the last byte of the body is always missing.
    ResetAfter(u64),
    /// The request is processed. After this many bytes of the body, the connection is closed
    /// cleanly, so the body is shorter than its `Content-Length`.
    TruncateAfter(u64),
    /// The request is not processed. In process, it comes back unsent; over TCP, the connection is
    /// closed. For a node without a listener, use [`Served::kill`](super::Served::kill).
    Unreachable,
}

/// The requests that a fault affects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FaultScope {
    /// All requests, including health checks.
    Everything,
    /// Requests below `/kylin/api/query`, so that health checks succeed and queries fail.
    Queries,
    /// Logins and logouts.
    Sessions,
}

/// The faults of one node. Changes apply to later requests.
#[derive(Debug, Default)]
pub struct Faults {
    injected: Mutex<VecDeque<Injected>>,
    switches: Mutex<Switches>,
}

#[derive(Debug)]
struct Injected {
    fault: Fault,
    reach: FaultScope,
    left: u64,
}

/// The faults that last until they are switched off.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Switches {
    pub(crate) query_latency: Duration,
    pub(crate) concurrent_queries: Option<usize>,
    pub(crate) queries_outlive_clients: bool,
    pub(crate) metastore_down: bool,
    pub(crate) session_store_down: bool,
    pub(crate) user_source_down: bool,
}

impl Faults {
    /// Injects `fault` into every request within `reach` until [`clear`](Self::clear). If several
    /// faults match, the one that was injected first applies.
    pub fn inject(&self, reach: FaultScope, fault: Fault) {
        self.inject_times(u64::MAX, reach, fault);
    }

    /// Injects `fault` into the next `times` requests within `reach`.
    pub fn inject_times(&self, times: u64, reach: FaultScope, fault: Fault) {
        if times > 0 {
            self.injected.lock().push_back(Injected { fault, reach, left: times });
        }
    }

    /// Ends all injected faults. Requests that already hang continue to hang.
    pub fn clear(&self) {
        self.injected.lock().clear();
    }

    /// Makes every query run this much longer. Default: 0.
    pub fn set_query_latency(&self, latency: Duration) {
        self.switches.lock().query_latency = latency;
    }

    /// Sets whether queries run to their end after their client cancelled the request, as Kylin's
    /// do unless they are stopped. Default: off; a query ends with its request.
    pub fn set_queries_outlive_clients(&self, on: bool) {
        self.switches.lock().queries_outlive_clients = on;
    }

    /// Refuses queries while this many run: `kylin.query.project-concurrent-running-threshold`.
    /// Default: no limit.
    pub fn set_concurrent_queries(&self, limit: Option<usize>) {
        self.switches.lock().concurrent_queries = limit;
    }

    /// Makes the metastore unreachable for this node.
    /// [`Metastore::set_down`](crate::testing::kylin::Metastore::set_down) does so for all nodes.
    pub fn set_metastore_down(&self, down: bool) {
        self.switches.lock().metastore_down = down;
    }

    /// Makes the session store unavailable, like a Tomcat whose session database is down. Every
    /// request with a session cookie gets a 401. Logins succeed, but their sessions are not kept.
    pub fn set_session_store_down(&self, down: bool) {
        self.switches.lock().session_store_down = down;
    }

    /// Makes the user source (LDAP) unreachable, so that no password is checked. Kylin 2.x-4.x then
    /// responds with 401, as to a wrong password, and Kylin 5 with 500 and KE-010021006. Requests
    /// with a session cookie are processed.
    pub fn set_user_source_down(&self, down: bool) {
        self.switches.lock().user_source_down = down;
    }

    pub(crate) fn switches(&self) -> Switches {
        *self.switches.lock()
    }

    /// Returns the fault that applies to a request for `path`, if any, and counts it.
    pub(crate) fn strike(&self, path: &str) -> Option<Fault> {
        let mut injected = self.injected.lock();
        let at = injected.iter().position(|fault| match fault.reach {
            FaultScope::Everything => true,
            FaultScope::Queries => path.starts_with("/kylin/api/query"),
            FaultScope::Sessions => path == "/kylin/api/user/authentication" || path.ends_with("logout"),
        })?;
        let struck = injected.get_mut(at)?;
        struck.left -= 1;
        let Injected { fault, left, .. } = *struck;
        if left == 0 {
            injected.remove(at);
        }
        Some(fault)
    }
}

impl Fault {
    /// Returns the part of `response` that this fault leaves; nothing if there is no body to cut
    /// off.
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

/// Makes the end of a connection a reset. It is in the extensions of each request that came over
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
    /// Cuts off `body` after `after` bytes, or before its last byte. With a `switch`, the
    /// connection is reset.
    fn new(body: Body, after: u64, error: io::ErrorKind, switch: Option<ResetSwitch>) -> Self {
        let max = body.size_hint().exact().map_or(u64::MAX, |length| length.saturating_sub(1));
        CutOff { body, left: after.min(max), paused: false, error, switch }
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
                // A body of unknown length that ended before the cut is cut off here.
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
            // hyper flushes when a body is pending. Without the pause, the bytes before the cut
            // would be lost.
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
        faults.inject_times(2, FaultScope::Queries, Fault::Close);
        faults.inject(FaultScope::Everything, Fault::Hang);
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
