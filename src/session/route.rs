//! Way 2, without any memory: the node writes its name into the ids of its sessions (Tomcat's `jvmRoute`).

use http::Request;

use super::affinity::{Hint, SessionCookie};
use super::cookies;
use crate::body::Body;

pub(super) struct Route {
    pub(super) cookies: Vec<SessionCookie>,
}

impl Route {
    /// The route of the first session id that has one: what follows its first dot, as in httpd (mod_proxy_balancer.c,
    /// find_session_route). memcached-session-manager puts `-` and a node of its own before the dot, which changes nothing.
    pub(super) fn hint(&self, request: &Request<Body>) -> Option<Hint> {
        let is_session = |name: &[u8]| self.cookies.iter().any(|cookie| cookie.is_called(name));
        let in_cookies = cookies::pairs(request.headers()).filter(|(name, _)| is_session(name)).map(|(_, value)| value);
        let ids = in_cookies.filter(|id| cookies::is_id(id)).chain(cookies::path_id(request.uri().path()));
        ids.filter_map(route).next().map(Hint::route)
    }
}

/// The route of a request's session, found by whoever calls the proxy; in the request's extensions.
#[cfg(feature = "nginx")]
#[derive(Clone)]
pub(crate) struct GivenRoute(Hint);

#[cfg(feature = "nginx")]
impl GivenRoute {
    pub(crate) fn new(route: &[u8]) -> Self {
        GivenRoute(Hint::route(route))
    }

    pub(super) fn of(request: &Request<Body>) -> Option<Hint> {
        request.extensions().get::<GivenRoute>().map(|given| given.0.clone())
    }
}

fn route(id: &[u8]) -> Option<&[u8]> {
    let dot = id.iter().position(|byte| *byte == b'.')?;
    Some(&id[dot + 1..]).filter(|route| !route.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_is_what_follows_the_first_dot() {
        assert_eq!(route(b"0123.n1"), Some(&b"n1"[..]));
        assert_eq!(route(b"0123-m2.n1.x"), Some(&b"n1.x"[..]));
        assert_eq!(route(b"0123-m2"), None);
        assert_eq!(route(b"0123."), None);
    }

    #[test]
    fn cookies_go_before_the_path_and_ids_without_a_route_are_passed_over() {
        let route = Route { cookies: SessionCookie::of_kylin() };
        let hint = |cookie: &str, path: &str| {
            let request = Request::builder().uri(path).header("cookie", cookie).body(Body::empty()).unwrap();
            route.hint(&request)
        };
        let named = |name: &str| Some(Hint::route(name.as_bytes()));
        assert_eq!(hint("a=1; JSESSIONID=0123.n1", "/kylin;jsessionid=0123.n2"), named("n1"));
        assert_eq!(hint("JSESSIONID=0123; JSESSIONID=\"4567.n3\"", "/"), named("n3"));
        assert_eq!(hint("JSESSIONID=0123", "/kylin;jsessionid=0123.n2"), named("n2"));
        assert_eq!(hint("XJSESSIONID=0123.n1", "/kylin"), None);
    }
}
