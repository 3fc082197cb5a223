mod shown_headers;

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime};

use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, Request, Version};

pub(crate) use self::shown_headers::{BorrowedHeaders, ShownHeaders};
use self::shown_headers::{X_REQUEST_ID, is_request_id};
#[cfg(doc)]
use super::Detail;
use super::target::{mask_path, mask_query, masked_target};
use crate::basic_auth;
use crate::request::{ClientAddr, ObservedQuery};

/// The facts about a request in events. It contains no credentials, cookies or session ids, and
/// values that may be secret are masked.
pub struct ObservedRequest {
    number: u64,
    pub(super) began: Instant,
    at: SystemTime,
    client: ClientAddr,
    method: Method,
    target: Option<PathAndQuery>,
    version: Version,
    host: Option<HeaderValue>,
    user: Option<Box<str>>,
    id: RequestId,
    traceparent: Option<HeaderValue>,
    referer: Option<HeaderValue>,
    user_agent: Option<HeaderValue>,
    pub(super) class: Option<&'static str>,
    pub(super) query: Option<ObservedQuery>,
}

impl ObservedRequest {
    /// Gives the request an id, if it has none that may be passed on.
    #[inline]
    pub(super) fn new<B>(
        client: ClientAddr,
        host: Option<&HeaderValue>,
        shown: ShownHeaders,
        request: &mut Request<B>,
        now: Instant,
    ) -> Self {
        let ShownHeaders { user, request_id, traceparent, referer, user_agent } = shown;
        let id = RequestId::of(request, request_id);
        ObservedRequest {
            number: next_number(),
            began: now,
            at: SystemTime::now(),
            client,
            method: request.method().clone(),
            target: request.uri().path_and_query().cloned(),
            version: request.version(),
            host: host.map(without_user),
            user,
            id,
            traceparent,
            referer,
            user_agent,
            class: None,
            query: None,
        }
    }

    /// Returns a number that no other request of this process has.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Returns when the request arrived, by the time of day.
    pub fn at(&self) -> SystemTime {
        self.at
    }

    /// Returns the client: the peer of the connection, or the client that a trusted proxy names.
    pub fn client(&self) -> ClientAddr {
        self.client
    }

    /// Returns the method.
    pub fn method(&self) -> &Method {
        &self.method
    }

    /// Returns the path as the client sent it, without the values of path parameters, which may be
    /// session ids.
    pub fn path(&self) -> Cow<'_, str> {
        mask_path(self.target.as_ref().map_or("", PathAndQuery::path))
    }

    /// Returns the query, if there is one. `***` replaces the values of parameters that may be
    /// secret. One of these is `sql`, which only [`sql`](Self::sql) shows. The others have names
    /// that suggest passwords, keys, tokens, signatures or sessions.
    pub fn query(&self) -> Option<Cow<'_, str>> {
        let query = self.target.as_ref()?.query()?;
        Some(mask_query(query))
    }

    /// Returns path and query, both masked.
    pub fn target(&self) -> Cow<'_, str> {
        match self.query() {
            Some(query) => Cow::Owned(format!("{}?{query}", self.path())),
            None => self.path(),
        }
    }

    /// Returns the HTTP version that the client speaks.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Returns the host as the client named it, with `***` in place of a user and a password.
    pub fn host(&self) -> Option<&HeaderValue> {
        self.host.as_ref()
    }

    /// Returns the user name of Basic credentials, which are not verified.
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// Returns the `x-request-id` that the client sent or the proxy made: 1 to 128 letters, digits
    /// and `-_.:+/=@`.
    pub fn id(&self) -> Option<&str> {
        self.id.0.to_str().ok()
    }

    /// Returns the `traceparent` that the client sent, if it has the form of W3C Trace Context.
    pub fn traceparent(&self) -> Option<&str> {
        self.traceparent.as_ref()?.to_str().ok()
    }

    /// Returns the `Referer`, masked like the [target](Self::target).
    pub fn referer(&self) -> Option<Cow<'_, str>> {
        Some(match String::from_utf8_lossy(self.referer.as_ref()?.as_bytes()) {
            Cow::Borrowed(referer) => masked_target(referer),
            Cow::Owned(referer) => Cow::Owned(masked_target(&referer).into_owned()),
        })
    }

    /// Returns the `User-Agent`, which may contain any bytes except control characters.
    pub fn user_agent(&self) -> Option<&HeaderValue> {
        self.user_agent.as_ref()
    }

    /// Returns the class of the request, from a bounded set of names such as `query`, `login` or
    /// `page`; `None` in a plain proxy, and before the request is classified.
    pub fn class(&self) -> Option<&'static str> {
        self.class
    }

    /// Returns a hash of the project and of the SQL without its literals, if an observer asks for
    /// [`Detail::Query`].
    pub fn fingerprint(&self) -> Option<u64> {
        self.query.as_ref().map(|query| query.fingerprint)
    }

    /// Returns the project of a query, if an observer asks for [`Detail::Query`].
    pub fn project(&self) -> Option<&str> {
        self.query.as_ref().map(|query| &*query.project)
    }

    /// Returns the SQL of a query, if an observer asks for [`Detail::Sql`].
    pub fn sql(&self) -> Option<&str> {
        self.query.as_ref()?.sql.as_deref()
    }
}

impl fmt::Debug for ObservedRequest {
    /// Shows the target masked.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObservedRequest")
            .field("number", &self.number)
            .field("client", &self.client)
            .field("method", &self.method)
            .field("target", &self.target())
            .field("class", &self.class)
            .finish_non_exhaustive()
    }
}

/// An id for a request, which an application adds to the request's extensions. Without it, the
/// request has the id of its client, or a new one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(HeaderValue);

impl RequestId {
    /// Creates an id of 1 to 128 letters, digits and `-_.:+/=@`; returns `None` for any other text.
    pub fn new(id: &str) -> Option<Self> {
        HeaderValue::from_str(id).ok().filter(|id| is_request_id(id.as_bytes())).map(RequestId)
    }

    /// Makes an id. A thread makes several ids at once, which share one allocation.
    fn random() -> Self {
        thread_local! {
            static NEXT: RefCell<Bytes> = const { RefCell::new(Bytes::new()) };
        }
        let id = NEXT.with_borrow_mut(|next| {
            if next.is_empty() {
                let mut ids = BytesMut::with_capacity(32 * ID_BLOCK);
                (0..2 * ID_BLOCK).for_each(|_| ids.extend_from_slice(&hex(fastrand::u64(..))));
                *next = ids.freeze();
            }
            next.split_to(32)
        });
        RequestId(HeaderValue::from_maybe_shared(id).unwrap_or(HeaderValue::from_static("-")))
    }

    /// Returns the id of a request, and sets its header to the id. `sent` is the id of its client.
    fn of<B>(request: &mut Request<B>, sent: Option<HeaderValue>) -> Self {
        let chosen = request.extensions_mut().remove::<RequestId>();
        if let (None, Some(id)) = (&chosen, sent) {
            return RequestId(id);
        }
        let id = chosen.unwrap_or_else(RequestId::random);
        request.headers_mut().insert(X_REQUEST_ID.clone(), id.0.clone());
        id
    }
}

/// Returns the value of `Host` without a user and a password, which clients may copy from the
/// target. Such a request is refused.
fn without_user(host: &HeaderValue) -> HeaderValue {
    let Some(at) = memchr::memrchr(b'@', host.as_bytes()) else { return host.clone() };
    let masked = [b"***", &host.as_bytes()[at..]].concat();
    HeaderValue::from_maybe_shared(Bytes::from(masked)).unwrap_or(HeaderValue::from_static("***"))
}

/// The number of ids that a thread makes at once.
const ID_BLOCK: usize = 16;

/// Returns the hexadecimal digits of a number, the lowest one first.
fn hex(number: u64) -> [u8; 16] {
    let digits = |number: u32| {
        // The four bits of each digit go to a byte of their own.
        let mut digits = u64::from(number);
        digits = (digits | (digits << 16)) & 0x0000_ffff_0000_ffff;
        digits = (digits | (digits << 8)) & 0x00ff_00ff_00ff_00ff;
        digits = (digits | (digits << 4)) & 0x0f0f_0f0f_0f0f_0f0f;
        let letters = ((digits + 0x0606_0606_0606_0606) >> 4) & 0x0101_0101_0101_0101;
        digits + 0x3030_3030_3030_3030 + letters * u64::from(b'a' - b'0' - 10)
    };
    let (low, high) = (digits(number as u32), digits((number >> 32) as u32));
    ((u128::from(high) << 64) | u128::from(low)).to_le_bytes()
}

/// Returns a number that was not returned before. A thread takes many at once, so threads seldom
/// share a cache line.
fn next_number() -> u64 {
    const NUMBER_BLOCK: u64 = 1024;
    static NEXT: AtomicU64 = AtomicU64::new(0);
    thread_local! {
        static LAST: Cell<u64> = const { Cell::new(0) };
    }
    LAST.with(|last| {
        let before =
            if last.get() % NUMBER_BLOCK == 0 { NEXT.fetch_add(NUMBER_BLOCK, Ordering::Relaxed) } else { last.get() };
        last.set(before + 1);
        before + 1
    })
}

/// Returns the user name of Basic credentials in the headers of a request, which are not verified.
pub fn basic_user(headers: &HeaderMap) -> Option<String> {
    basic_auth::user_name(headers.get(header::AUTHORIZATION)?)
}
