use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Uri, Version};

use super::{ClientAddr, QueryKeys};
use crate::body::Body;
use crate::kylin::KylinVersion;
use crate::kylin::class::{RequestClass, SessionCall, Sql, SqlLocation, classify, needs_login};
use crate::kylin::path::{NormalizedPath, RequestTarget};
use crate::kylin::query::{QueryRequest, WantedKeys};
use crate::kylin::response::Credentials;
use crate::{basic_auth, cookie};

/// The facts of one request.
///
/// It is made once, from the head, and outlives the request, which goes to a node. Later steps read
/// it instead of the headers. Values are shared with the head, not copied. Cookies and credentials
/// are parsed by each call that asks for them, because most requests need them at most once.
pub(crate) struct RequestContext {
    client: ClientAddr,
    host: Option<HeaderValue>,
    target: RequestTarget,
    version: Version,
    /// `None` in a plain proxy, which does not classify.
    class: Option<RequestClass>,
    /// Whether the body has a user name and a password. Always false in a plain proxy.
    has_login_form: bool,
    cookies: Option<HeaderValue>,
    has_authorization: bool,
    /// `None` in a plain proxy, which knows no users.
    authorization: Option<HeaderValue>,
    query: Option<QueryKeys>,
}

impl RequestContext {
    /// Reads the target, the host and the version of a request.
    /// [`read_credentials`](Self::read_credentials) reads the cookies and credentials later.
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
            target: RequestTarget::new(target.path_and_query().cloned()),
            version,
            class: None,
            has_login_form: false,
            cookies: None,
            has_authorization: false,
            authorization: None,
            query: None,
        }
    }

    /// Sets the client, after the headers of trusted proxies were read.
    pub(crate) fn set_client(&mut self, client: ClientAddr) {
        self.client = client;
    }

    /// Reads the path, which may carry a session id, and the cookies and credentials. `headers`
    /// must have at most one `Cookie`. Before this call, the context has none of them. `keeps_user`
    /// says that the credentials themselves are needed later, and not only whether there are any.
    pub(crate) fn read_credentials(&mut self, headers: &HeaderMap, keeps_user: bool) {
        self.target.read_path();
        self.cookies = headers.get(header::COOKIE).cloned();
        let authorization = headers.get(header::AUTHORIZATION);
        self.has_authorization = authorization.is_some();
        self.authorization = authorization.filter(|_| keeps_user).cloned();
    }

    /// Returns whether the target is `*`. Such a request concerns the server as a whole, and has no
    /// path (RFC 9110, 7.1).
    pub(crate) fn is_about_server(&self) -> bool {
        self.target.as_written() == "*"
    }

    /// Classifies the request by its path, which must have been read.
    pub(crate) fn classify(&mut self, method: &Method, version: Option<KylinVersion>) {
        let path = self.target.path();
        self.class = path.as_ref().map(|path| classify(method, path, version));
        self.has_login_form = path.is_some_and(|path| SessionCall::of(method, &path) == SessionCall::LoginForm);
    }

    /// Sets the class, if more than the method and the path decides it.
    pub(crate) fn set_class(&mut self, class: RequestClass) {
        self.class = Some(class);
    }

    /// Forgets the class of a request whose path is not below `/kylin`, so that it is treated as in
    /// a plain proxy.
    pub(crate) fn forget_class_of_other_paths(&mut self) {
        let is_of_kylin = |path: NormalizedPath<'_>| path.as_str() == "/kylin" || path.as_str().starts_with("/kylin/");
        if !self.path().is_some_and(is_of_kylin) {
            self.class = None;
        }
    }

    /// Reads the query in `body`, which was read as a whole. Returns `None` if there is no query,
    /// or it cannot be read.
    pub(crate) fn read_sql<T>(&self, body: &Body, read: impl FnOnce(&QueryRequest<'_>) -> T) -> Option<T> {
        let body = body.whole()?;
        let query = match self.class?.sql_location() {
            SqlLocation::None => return None,
            SqlLocation::Json => QueryRequest::from_json(body),
            SqlLocation::Form => QueryRequest::from_form(self.target.query(), body),
        };
        query.ok().map(|query| read(&query))
    }

    /// Returns whether the result of [`read_sql`](Self::read_sql) depends on the body only.
    pub(crate) fn has_sql_in_json(&self) -> bool {
        self.class.is_some_and(|class| class.sql_location() == SqlLocation::Json)
    }

    /// Returns the `wanted` keys of a query.
    pub(crate) fn keys_of(&self, query: &QueryRequest<'_>, wanted: WantedKeys) -> Option<QueryKeys> {
        match wanted {
            WantedKeys::None => None,
            WantedKeys::Affinity | WantedKeys::All => {
                Some(query.keys(&self.basic_user().unwrap_or_default(), wanted == WantedKeys::All))
            }
        }
    }

    /// Sets the facts about the query. The class then says whether its SQL writes.
    pub(crate) fn set_query(&mut self, effect: Sql, keys: Option<QueryKeys>) {
        self.class = self.class.map(|class| class.with_sql(effect));
        self.query = keys;
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

    /// Returns the URL without its query, which may contain SQL.
    pub(crate) fn url(&self) -> String {
        let host = self.host.as_ref().and_then(|host| host.to_str().ok()).unwrap_or_default();
        format!("http://{host}{}", self.target.as_written())
    }

    /// Returns the class; `None` in a plain proxy.
    pub(crate) fn class(&self) -> Option<RequestClass> {
        self.class
    }

    /// Returns the path as the node sees it; `None` if it is ambiguous or was not read.
    pub(crate) fn path(&self) -> Option<NormalizedPath<'_>> {
        self.target.path()
    }

    /// Returns the effect of the request on the session of its client. An ambiguous path neither
    /// logs in nor out.
    #[cfg(feature = "login-relay")]
    pub(crate) fn session_call(&self, method: &Method) -> SessionCall {
        self.path().map_or(SessionCall::Other, |path| SessionCall::of(method, &path))
    }

    /// Returns the session id in the path (`;jsessionid=`), which servers write for clients without
    /// cookies.
    pub(crate) fn path_session_id(&self) -> Option<&[u8]> {
        self.target.session_id().map(str::as_bytes).filter(|id| cookie::is_session_id(id))
    }

    /// Returns the names and values of the cookies, in the client's order.
    pub(crate) fn cookies(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.cookies.iter().flat_map(cookie::pairs)
    }

    /// Returns the `Cookie` header.
    pub(crate) fn cookie_header(&self) -> Option<&HeaderValue> {
        self.cookies.as_ref()
    }

    /// Returns the ids in the session cookies of Kylin.
    pub(crate) fn kylin_sessions(&self) -> impl Iterator<Item = &[u8]> {
        self.cookies.iter().flat_map(cookie::kylin_sessions)
    }

    /// Returns the id in the first session cookie of Kylin.
    pub(crate) fn kylin_session(&self) -> Option<&[u8]> {
        self.kylin_sessions().next()
    }

    /// Returns whether the request carries credentials.
    pub(crate) fn has_authorization(&self) -> bool {
        self.has_authorization
    }

    /// Returns the `Authorization` header, if it was kept.
    pub(crate) fn authorization(&self) -> Option<&HeaderValue> {
        self.authorization.as_ref()
    }

    /// Returns the `Authorization` header of a request with these headers. They are searched only
    /// if the header exists and was not kept.
    pub(crate) fn authorization_in<'h>(&'h self, headers: &'h HeaderMap) -> Option<&'h HeaderValue> {
        match self.has_authorization {
            true => self.authorization.as_ref().or_else(|| headers.get(header::AUTHORIZATION)),
            false => None,
        }
    }

    /// Returns the user name of Basic credentials.
    pub(crate) fn basic_user(&self) -> Option<String> {
        basic_auth::user_name(self.authorization.as_ref()?)
    }

    /// Returns whether the request is a login form, whose password the node checks regardless of
    /// its cookies.
    pub(crate) fn has_login_form(&self) -> bool {
        self.has_login_form
    }

    /// Returns which credentials the request carries. `names_session` returns whether it names a
    /// session.
    pub(crate) fn credentials(&self, names_session: impl FnOnce() -> bool) -> Credentials {
        if self.has_authorization || self.has_login_form {
            Credentials::Authorization
        } else if names_session() {
            Credentials::Session
        } else {
            Credentials::None
        }
    }

    /// Returns whether the request names a session, in a cookie of Kylin or in its path.
    pub(crate) fn names_kylin_session(&self) -> bool {
        self.kylin_session().is_some() || self.path_session_id().is_some()
    }

    /// Returns whether the request carries anything that identifies its user.
    pub(crate) fn has_any_credentials(&self) -> bool {
        self.has_authorization || self.cookies.is_some() || self.path_session_id().is_some()
    }

    /// Returns whether the session cookie alone can let this request in: its path needs a login,
    /// and it carries no credentials.
    pub(crate) fn needs_session(&self) -> bool {
        !self.has_authorization && self.path().is_some_and(|path| needs_login(&path))
    }

    /// Returns the keys of the query, once it was read.
    pub(crate) fn query(&self) -> Option<QueryKeys> {
        self.query
    }
}
