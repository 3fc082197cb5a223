//! Binds a session to the endpoint whose route is in its id (Tomcat's `jvmRoute`). The front end
//! remembers nothing.

use http::Extensions;

use super::hook::EndpointHint;
use super::session_cookie::SessionCookie;
use crate::cookie;
use crate::endpoint::EndpointId;
use crate::request::RequestContext;

pub(super) struct Route {
    pub(super) cookies: Vec<SessionCookie>,
}

impl Route {
    /// Returns the route of the first session id that has one, and whether the request has a
    /// session id. The route is the text after the first dot, as in httpd (mod_proxy_balancer.c,
    /// find_session_route). A `-` and a node name that memcached-session-manager inserts before the
    /// dot do not matter here.
    pub(super) fn find(&self, request: &RequestContext) -> (Option<EndpointHint>, bool) {
        let is_session = |name: &[u8]| self.cookies.iter().any(|cookie| cookie.is_called(name));
        let in_cookies = request.cookies().filter(|(name, _)| is_session(name)).map(|(_, id)| id);
        let mut ids = in_cookies.filter(|id| cookie::is_session_id(id)).chain(request.path_session_id()).peekable();
        let names_session = ids.peek().is_some();
        (ids.find_map(route).map(EndpointHint::route), names_session)
    }
}

/// The route of a request's session, as found by the application: a request extension for
/// [`Affinity::given_route`](crate::session::Affinity::given_route).
///
/// The proxy picks the endpoint with that [route](crate::Endpoint::route) while it is eligible. A
/// request without this extension is bound to no endpoint. The reader of nginx configurations sets
/// it from the variables of `sticky route`.
///
/// ```
/// use kylin_lb::session::SessionRoute;
///
/// let mut request = http::Request::get("/kylin/api/projects").body(())?;
/// request.extensions_mut().insert(SessionRoute::new("node1"));
/// # Ok::<(), http::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct SessionRoute {
    hint: EndpointHint,
    required: bool,
}

impl SessionRoute {
    /// Names the endpoint whose route is `route`.
    pub fn new(route: impl AsRef<[u8]>) -> Self {
        SessionRoute { hint: EndpointHint::route(route.as_ref()), required: false }
    }

    /// Names the endpoint called `id`. A [backup](crate::Endpoint::backup) serves it even while
    /// primary endpoints are eligible.
    pub fn to_endpoint(id: EndpointId) -> Self {
        SessionRoute { hint: EndpointHint::Id(id), required: false }
    }

    /// Sets whether no other endpoint may serve the request. If the endpoint exists and is not
    /// eligible, the response is then a 503 (httpd: `nofailover`). Default: no.
    #[must_use]
    pub fn required(mut self, required: bool) -> Self {
        self.required = required;
        self
    }

    /// Returns the endpoint that the extension of a request names, and whether it is required.
    pub(super) fn of(extensions: &Extensions) -> Option<(EndpointHint, bool)> {
        extensions.get::<SessionRoute>().map(|route| (route.hint.clone(), route.required))
    }
}

fn route(id: &[u8]) -> Option<&[u8]> {
    let dot = id.iter().position(|byte| *byte == b'.')?;
    Some(&id[dot + 1..]).filter(|route| !route.is_empty())
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;
    use crate::body::Body;
    use crate::request::ClientAddr;

    #[test]
    fn the_route_follows_the_first_dot() {
        assert_eq!(route(b"0123.n1"), Some(&b"n1"[..]));
        assert_eq!(route(b"0123-m2.n1.x"), Some(&b"n1.x"[..]));
        assert_eq!(route(b"0123-m2"), None);
        assert_eq!(route(b"0123."), None);
    }

    #[test]
    fn cookies_precede_the_path_and_ids_without_a_route_are_skipped() {
        let route = Route { cookies: SessionCookie::of_kylin() };
        let hint = |cookie: &str, path: &str| {
            let request = Request::builder().uri(path).header("cookie", cookie).body(Body::empty()).unwrap();
            let mut context = RequestContext::new(ClientAddr::Unix, &request);
            context.read_credentials(request.headers(), false);
            route.find(&context).0
        };
        let named = |name: &str| Some(EndpointHint::route(name.as_bytes()));
        assert_eq!(hint("a=1; JSESSIONID=0123.n1", "/kylin;jsessionid=0123.n2"), named("n1"));
        assert_eq!(hint("JSESSIONID=0123; JSESSIONID=\"4567.n3\"", "/"), named("n3"));
        assert_eq!(hint("JSESSIONID=0123", "/kylin;jsessionid=0123.n2"), named("n2"));
        assert_eq!(hint("XJSESSIONID=0123.n1", "/kylin"), None);
    }
}
