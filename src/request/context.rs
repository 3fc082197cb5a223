use std::borrow::Cow;

use http::header::{self, HeaderMap, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, Request, Uri, Version};

use super::{ClientAddr, QueryKeys};
use crate::body::Body;
use crate::kylin::KylinVersion;
#[cfg(feature = "login-relay")]
use crate::kylin::class::SessionCall;
use crate::kylin::class::{RequestClass, SqlLocation, classify, needs_login};
use crate::kylin::path::{self, normalise};
use crate::kylin::query::QueryRequest;
use crate::kylin::response::Credentials;
use crate::{basic_auth, cookie};

/// Everything that the proxy knows of one request.
///
/// It is made once, from the head, and outlives the request, which goes to a node. Later steps ask it, not the headers. Values
/// are shared with the head, not copied, and are parsed when they are asked for.
pub(crate) struct RequestContext {
    client: ClientAddr,
    host: Option<HeaderValue>,
    target: Option<PathAndQuery>,
    version: Version,
    /// None in a plain proxy, which does not classify.
    class: Option<RequestClass>,
    /// The normalised path, where the request is classified and it differs from the path of the target.
    normalised: Option<Box<str>>,
    cookies: Option<HeaderValue>,
    has_authorization: bool,
    /// None in a plain proxy, which knows no users.
    authorization: Option<HeaderValue>,
    query: Option<QueryKeys>,
}

/// The path of a request can be read in more than one way.
pub(crate) struct AmbiguousPath;

impl RequestContext {
    /// Reads the target, the host and the version of a request. The cookies and credentials follow with
    /// [`read_credentials`](Self::read_credentials).
    pub(crate) fn new<B>(client: ClientAddr, request: &Request<B>) -> Self {
        Self::of_head(client, request.uri(), request.headers(), request.version())
    }

    /// Reads the parts of a head.
    pub(crate) fn of_head(client: ClientAddr, target: &Uri, headers: &HeaderMap, version: Version) -> Self {
        let host = headers.get(header::HOST).filter(|host| !host.is_empty()).cloned();
        let host = host.or_else(|| HeaderValue::from_str(target.host()?).ok());
        RequestContext {
            client,
            host,
            target: target.path_and_query().cloned(),
            version,
            class: None,
            normalised: None,
            cookies: None,
            has_authorization: false,
            authorization: None,
            query: None,
        }
    }

    /// Names the client, once the headers of trusted proxies were read.
    pub(crate) fn set_client(&mut self, client: ClientAddr) {
        self.client = client;
    }

    /// Reads the cookies and credentials from headers with at most one `Cookie`. `keeps_user`: the credentials are asked for
    /// later, not only whether there are any.
    pub(crate) fn read_credentials(&mut self, headers: &HeaderMap, keeps_user: bool) {
        self.cookies = headers.get(header::COOKIE).cloned();
        let authorization = headers.get(header::AUTHORIZATION);
        self.has_authorization = authorization.is_some();
        self.authorization = authorization.filter(|_| keeps_user).cloned();
    }

    /// Normalises the path and classifies the request.
    ///
    /// # Errors
    /// [`AmbiguousPath`] when the proxy and Tomcat could read the path differently.
    pub(crate) fn classify(&mut self, method: &Method, version: Option<KylinVersion>) -> Result<(), AmbiguousPath> {
        let normalised = match normalise(self.path()).map_err(|_| AmbiguousPath)? {
            Cow::Borrowed(_) => None,
            Cow::Owned(path) => Some(path.into_boxed_str()),
        };
        let class = classify(method, normalised.as_deref().unwrap_or(self.path()), version);
        self.normalised = normalised;
        self.class = Some(class);
        Ok(())
    }

    /// Forgets the class of a request whose path is not below `/kylin`, so that it is treated as in a plain proxy.
    pub(crate) fn forget_class_of_other_paths(&mut self) {
        if !(self.path() == "/kylin" || self.path().starts_with("/kylin/")) {
            self.class = None;
        }
    }

    /// Parses the SQL in `body`, which was read as a whole. The class then tells whether it writes, unless the SQL
    /// cannot be parsed or is too long. The keys of the query are computed if the policy reads them (`with_keys`). `observe` gets the
    /// query.
    pub(crate) fn read_sql(&mut self, body: &Body, with_keys: bool, observe: impl FnOnce(&QueryRequest<'_>)) {
        let Some((class, body)) = self.class.zip(body.whole()) else { return };
        let query = match class.sql_location() {
            SqlLocation::None => return,
            SqlLocation::Json => QueryRequest::from_json(body),
            SqlLocation::Form => QueryRequest::from_form(self.target.as_ref().and_then(PathAndQuery::query), body),
        };
        if let Ok(query) = query {
            observe(&query);
            self.class = Some(class.with_sql(query.effect()));
            self.query = with_keys.then(|| query.keys(&self.basic_user().unwrap_or_default()));
        }
    }

    /// Returns the client.
    pub(crate) fn client(&self) -> ClientAddr {
        self.client
    }

    /// Returns the host, as the client named it.
    pub(crate) fn host(&self) -> Option<&HeaderValue> {
        self.host.as_ref()
    }

    /// Returns the HTTP version that the client speaks.
    pub(crate) fn version(&self) -> Version {
        self.version
    }

    /// Returns the URL without its query, which may hold SQL.
    pub(crate) fn url(&self) -> String {
        let host = self.host.as_ref().and_then(|host| host.to_str().ok()).unwrap_or_default();
        format!("http://{host}{}", self.raw_path())
    }

    /// Returns the class; `None` in a plain proxy.
    pub(crate) fn class(&self) -> Option<RequestClass> {
        self.class
    }

    /// Returns the path as the node sees it; in a plain proxy, as the client wrote it.
    pub(crate) fn path(&self) -> &str {
        self.normalised.as_deref().unwrap_or_else(|| self.raw_path())
    }

    /// Returns what the request does to the session of its client.
    #[cfg(feature = "login-relay")]
    pub(crate) fn session_call(&self, method: &Method) -> SessionCall {
        match self.class {
            Some(_) => SessionCall::of(method, self.path()),
            // An ambiguous path neither logs in nor out.
            None => normalise(self.path()).map_or(SessionCall::Other, |path| SessionCall::of(method, &path)),
        }
    }

    /// Returns the session id in the path (`;jsessionid=`), which servers write for clients without cookies.
    pub(crate) fn path_session_id(&self) -> Option<&[u8]> {
        path::session_id(self.raw_path()).map(str::as_bytes).filter(|id| cookie::is_session_id(id))
    }

    /// Returns the names and values of the cookies, in the order of the client.
    pub(crate) fn cookies(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.cookies.iter().flat_map(cookie::pairs)
    }

    /// Returns the `Cookie` header.
    pub(crate) fn cookie_header(&self) -> Option<&HeaderValue> {
        self.cookies.as_ref()
    }

    /// Returns the id in the first session cookie of Kylin.
    pub(crate) fn kylin_session(&self) -> Option<&[u8]> {
        self.cookies().find(|(name, _)| cookie::is_kylin_session(name)).map(|(_, id)| id)
    }

    /// Returns whether the request carries credentials.
    pub(crate) fn has_authorization(&self) -> bool {
        self.has_authorization
    }

    /// Returns the `Authorization` header, where it was kept.
    pub(crate) fn authorization(&self) -> Option<&HeaderValue> {
        self.authorization.as_ref()
    }

    /// Returns the user name of Basic credentials.
    pub(crate) fn basic_user(&self) -> Option<String> {
        String::from_utf8(basic_auth::user(self.authorization.as_ref()?)?).ok()
    }

    /// Returns which credentials the request carries.
    pub(crate) fn credentials(&self) -> Credentials {
        match self.kylin_session() {
            _ if self.has_authorization => Credentials::Authorization,
            Some(_) => Credentials::Cookie,
            None => Credentials::None,
        }
    }

    /// Returns whether the session cookie alone can let this request in: its path needs a login, and it carries no credentials.
    pub(crate) fn needs_session(&self) -> bool {
        let needs_login = || match self.class {
            Some(_) => needs_login(self.path()),
            None => normalise(self.path()).is_ok_and(|path| needs_login(&path)),
        };
        !self.has_authorization && needs_login()
    }

    /// Returns the keys of the query, once it was read.
    pub(crate) fn query(&self) -> Option<QueryKeys> {
        self.query
    }

    fn raw_path(&self) -> &str {
        self.target.as_ref().map_or("", PathAndQuery::path)
    }
}
