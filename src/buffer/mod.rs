//! The budget of the bytes that are buffered in memory. These are request bodies that can be sent
//! again, responses that slow clients have not read yet, and parts of incomplete messages.
//!
//! Each part of such a buffer is reserved before it is allocated, by its capacity. If the budget is
//! used up:
//!
//! - A request body that gets no bytes waits for a moment. It then streams to a node, without a
//!   copy, so that it cannot be sent again. The number of such bodies per node is limited. Beyond
//!   that limit, the response is a 503.
//! - A response is not read ahead of its client.
//! - A request whose head does not fit gets a 503. An HTTP/2 connection ends if its
//!   incomplete head does not fit within a second.
//! - A request to all nodes whose responses do not fit gets a 503.
//!
//! One client cannot use up the budget: it has a share, and never gets more than half of the free
//! bytes.

mod growing;
mod reservation;
mod waiting;

use std::collections::HashMap;
use std::fmt;
use std::num::NonZeroUsize;
use std::sync::{Arc, LazyLock};

pub(crate) use self::growing::GrowingBuffer;
pub(crate) use self::reservation::Reservation;
use self::waiting::Waiting;
use crate::client_key::ClientKey;
use crate::setting::InvalidSetting;
use crate::sync::{AtomicU64, AtomicUsize, Mutex, Ordering};

/// The default limit: 256 MiB.
pub const DEFAULT_LIMIT: NonZeroUsize = NonZeroUsize::new(256 << 20).unwrap();

/// The part of the budget that one client has by default, as a divisor. It is enough for 60 slow
/// readers of 1 MB at the same time. A client also never gets more than half of the free bytes, so
/// that a few such clients leave something to the others.
const SHARES: usize = 4;

/// A limit on the bytes that are buffered in memory, with a share for each client. Clones are the
/// same budget.
///
/// All proxies and servers of a process use [`BufferBudget::process`] unless they are given another
/// one. A client is an IPv4 address or an IPv6 /64 network, behind the [trusted
/// proxies](crate::proxy::TrustedProxies). Peers of unix sockets cannot be told apart and have no
/// share.
///
/// ```
/// use std::num::NonZeroUsize;
/// use kylin_lb::BufferBudget;
///
/// let budget = BufferBudget::new(NonZeroUsize::new(64 << 20));
/// assert_eq!(budget.status().client_share, Some(16 << 20));
/// assert_eq!(budget.status().used, 0);
/// ```
#[derive(Clone)]
pub struct BufferBudget {
    account: Arc<Account>,
}

/// The used part of a [`BufferBudget`], in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct BufferStatus {
    /// The limit; `None` is no limit.
    pub limit: Option<usize>,
    /// The maximum that one client may use; `None` is no limit.
    pub client_share: Option<usize>,
    /// The bytes that are reserved now.
    pub used: usize,
    /// The number of clients that hold a part of these bytes.
    pub clients: usize,
    /// The number of request bodies that wait for free bytes.
    pub waiting: usize,
    /// The number of refusals since the start. A body that waited counts once its wait has failed.
    pub refused: u64,
}

/// The counts of a budget. `usize::MAX` is no limit.
struct Account {
    limit: usize,
    share: usize,
    used: AtomicUsize,
    clients: Mutex<HashMap<ClientKey, Arc<AtomicUsize>>>,
    waiting: Waiting,
    refused: AtomicU64,
}

impl BufferBudget {
    /// Creates a budget of `limit` bytes, a quarter of which is the share of one client; `None` is
    /// no limit.
    pub fn new(limit: Option<NonZeroUsize>) -> Self {
        let limit = limit.map_or(usize::MAX, NonZeroUsize::get);
        Self::of(limit, if limit == usize::MAX { limit } else { limit.div_ceil(SHARES) })
    }

    /// Creates a budget of `limit` bytes, of which one client may use `share`; `None` is no limit.
    ///
    /// # Errors
    /// [`InvalidSetting`] if the share is larger than the budget.
    pub fn with_client_share(limit: Option<NonZeroUsize>, share: Option<NonZeroUsize>) -> Result<Self, InvalidSetting> {
        let [limit, share] = [limit, share].map(|bytes| bytes.map_or(usize::MAX, NonZeroUsize::get));
        let is_within = share == usize::MAX || share <= limit;
        InvalidSetting::unless(is_within, "share", "at most the limit of the budget")?;
        Ok(Self::of(limit, share))
    }

    /// Returns the budget of this process, with the [`DEFAULT_LIMIT`].
    pub fn process() -> Self {
        static PROCESS: LazyLock<BufferBudget> = LazyLock::new(|| BufferBudget::new(Some(DEFAULT_LIMIT)));
        PROCESS.clone()
    }

    fn of(limit: usize, share: usize) -> Self {
        BufferBudget {
            account: Arc::new(Account {
                limit,
                share,
                used: AtomicUsize::new(0),
                clients: Mutex::default(),
                waiting: Waiting::default(),
                refused: AtomicU64::new(0),
            }),
        }
    }

    /// Returns the used part of the budget.
    pub fn status(&self) -> BufferStatus {
        let Account { limit, share, used, clients, waiting, refused } = &*self.account;
        let limited = |bytes: usize| Some(bytes).filter(|bytes| *bytes != usize::MAX);
        BufferStatus {
            limit: limited(*limit),
            client_share: limited(*share),
            used: used.load(Ordering::Relaxed),
            clients: clients.lock().len(),
            waiting: waiting.len(),
            refused: refused.load(Ordering::Relaxed),
        }
    }

    /// Returns an empty reservation, which counts against the share of `client` when it grows.
    pub(crate) fn reservation(&self, client: Option<ClientKey>) -> Reservation {
        Reservation::empty(&self.account, client)
    }
}

impl Account {
    /// Reserves bytes if the limit and the share of the client allow it. If only the share does
    /// not, other clients may have been refused these bytes for a moment; `returned` is then
    /// called.
    fn take(&self, of_client: Option<&AtomicUsize>, bytes: usize, returned: impl FnOnce()) -> bool {
        let add = |most: usize| move |used: usize| used.checked_add(bytes).filter(|used| *used <= most);
        let Ok(used) = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add(self.limit)) else {
            return false;
        };
        let Some(of_client) = of_client else { return true };
        let most = self.share.min((self.limit - used) / 2);
        if of_client.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add(most)).is_ok() {
            return true;
        }
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        returned();
        false
    }

    /// Reserves bytes beyond the limits, for buffers that a response needs and that are small or
    /// bounded in another way.
    fn take_anyway(&self, of_client: Option<&AtomicUsize>, bytes: usize) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
        if let Some(of_client) = of_client {
            of_client.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    fn release(self: &Arc<Self>, of_client: Option<&Arc<AtomicUsize>>, bytes: usize) {
        if bytes == 0 {
            return;
        }
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        if let Some(of_client) = of_client {
            of_client.fetch_sub(bytes, Ordering::Relaxed);
        }
        self.waiting.serve(self);
    }

    fn count_refusal(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }
}

impl Default for BufferBudget {
    /// Returns the budget of this process.
    fn default() -> Self {
        BufferBudget::process()
    }
}

impl fmt::Debug for BufferBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BufferBudget").field(&self.status()).finish()
    }
}

#[cfg(test)]
mod tests;
