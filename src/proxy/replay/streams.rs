//! A limit on the request bodies that stream to each node at a time. A client that sends slowly
//! occupies a thread of the node meanwhile.

use std::collections::HashMap;
use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::backend::{SendError, SendErrorKind};
use crate::client_key::ClientKey;
use crate::drop_guard::{DropGuard, Release};
use crate::endpoint::Lease;

/// The default limit: a fraction of the 200 threads of a node's Tomcat.
pub(in crate::proxy) const DEFAULT_STREAMS: NonZeroUsize = NonZeroUsize::new(16).unwrap();

/// The bodies that are currently streaming.
pub(in crate::proxy) struct StreamLimit {
    /// `None` is no limit.
    per_node: Option<NonZeroUsize>,
    open: Mutex<OpenStreams>,
}

#[derive(Default)]
struct OpenStreams {
    last_token: u64,
    streams: HashMap<u64, Stream>,
}

struct Stream {
    /// The uid of the endpoint.
    endpoint: u64,
    client: Option<ClientKey>,
}

/// The node has its maximum of streaming bodies, or the client has half of that.
#[derive(Debug, thiserror::Error)]
#[error("too many request bodies stream to the node")]
pub(in crate::proxy) struct TooManyStreams;

impl StreamLimit {
    pub(in crate::proxy) fn new(per_node: Option<NonZeroUsize>) -> Arc<Self> {
        Arc::new(StreamLimit { per_node, open: Mutex::default() })
    }

    /// Counts a body until the guard is dropped; returns `None` without a limit. One client may
    /// have half of the limit.
    ///
    /// # Errors
    /// [`TooManyStreams`] if the endpoint has its maximum, or the client has half of it. This error
    /// does not count against the endpoint.
    pub(in crate::proxy) fn open(
        self: &Arc<Self>,
        lease: &Lease,
        client: Option<ClientKey>,
    ) -> Result<Option<DropGuard>, SendError> {
        let Some(per_node) = self.per_node else { return Ok(None) };
        let mut open = self.open.lock();
        let of_node = || open.streams.values().filter(|stream| stream.endpoint == lease.uid());
        let of_client = of_node().filter(|stream| client.is_some() && stream.client == client).count();
        if of_node().count() >= per_node.get() || of_client >= per_node.get().div_ceil(2) {
            return Err(SendError::new(SendErrorKind::Limit, TooManyStreams));
        }
        open.last_token += 1;
        let token = open.last_token;
        open.streams.insert(token, Stream { endpoint: lease.uid(), client });
        Ok(Some(DropGuard::new(Arc::clone(self) as Arc<dyn Release>, token)))
    }

    /// Returns how many bodies stream.
    pub(in crate::proxy) fn count(&self) -> usize {
        self.open.lock().streams.len()
    }
}

impl Release for StreamLimit {
    fn release(&self, token: u64) {
        self.open.lock().streams.remove(&token);
    }
}

impl fmt::Debug for StreamLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamLimit").field("per_node", &self.per_node).field("open", &self.count()).finish()
    }
}
