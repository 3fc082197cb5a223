//! The cookies of requests and responses. The front end's own cookie never reaches a node, a node's
//! session cookie never reaches a client, and all others pass.

use std::sync::Arc;
use std::time::Duration;

use http::header::{self, HeaderMap, HeaderValue};
use http::{Response, StatusCode};
use zeroize::Zeroizing;

use super::record::NodeCookie;
use super::session_id::SessionId;
use crate::body::Body;
use crate::clock::Clock;
use crate::cookie::{self, Attributes, SetCookie};
use crate::kylin::class::SessionCall;

/// The names of the cookies that the relay handles.
#[derive(Debug, Clone)]
pub(super) struct RelayCookies {
    /// The front end's own cookie.
    pub(super) own: Attributes,
    /// Names of nodes' session cookies besides those of Kylin.
    pub(super) node_cookies: Vec<String>,
    /// Decides whether a `Set-Cookie` has expired.
    pub(super) clock: Arc<dyn Clock>,
}

/// The front end's cookie in a request.
#[derive(Default)]
pub(super) struct OwnCookie {
    /// Whether the request has a cookie of this name.
    pub(super) is_present: bool,
    /// The session id, if the value is one.
    pub(super) id: Option<SessionId>,
}

/// The change of the node's session cookie by a response.
#[derive(Debug, Default)]
pub(super) struct NodeCookieChange {
    pub(super) set: Option<NodeCookie>,
    pub(super) deleted: bool,
}

impl NodeCookieChange {
    pub(super) fn is_none(&self) -> bool {
        self.set.is_none() && !self.deleted
    }

    /// Returns whether the node has checked the credentials and accepted them, in a response with
    /// this change.
    pub(super) fn is_login(&self, call: SessionCall, response: &Response<Body>) -> bool {
        let status = response.status();
        match call {
            SessionCall::Login => status.is_success(),
            // A failed login form redirects as well (Spring's
            // SimpleUrlAuthenticationFailureHandler).
            SessionCall::LoginForm => {
                let location = response.headers().get(header::LOCATION).map_or(&b""[..], HeaderValue::as_bytes);
                let failed = location.windows(5).any(|part| part == b"error");
                self.set.is_some() && (status.is_success() || status.is_redirection()) && !failed
            }
            SessionCall::WhoAmI | SessionCall::Logout | SessionCall::Other => {
                self.set.is_some() && !status.is_server_error() && status != StatusCode::BAD_REQUEST
            }
        }
    }
}

impl RelayCookies {
    /// Removes the front end's cookie, and cookies that could be a node's, from a request.
    pub(super) fn take_from_request(&self, headers: &mut HeaderMap) -> OwnCookie {
        let mut own = OwnCookie::default();
        cookie::retain(headers, |name, value| {
            if name == self.own.name().as_bytes() {
                own.is_present = true;
                own.id = own.id.take().or_else(|| SessionId::parse(value));
                return false;
            }
            !self.is_node_session(name)
        });
        own
    }

    /// Returns whether the client gets a cookie of the node with a response that has these headers.
    pub(super) fn pass_any(&self, headers: &HeaderMap) -> bool {
        headers.get_all(header::SET_COOKIE).iter().any(|line| !self.is_hidden(line))
    }

    fn is_hidden(&self, line: &HeaderValue) -> bool {
        let name = SetCookie::parse(line).map(|cookie| cookie.name);
        name.is_some_and(|name| name == self.own.name().as_bytes() || self.is_node_session(name))
    }

    /// Removes the node's session cookies from a response, and any attempt to set the front end's.
    pub(super) fn take_from_response(&self, headers: &mut HeaderMap) -> NodeCookieChange {
        let mut change = NodeCookieChange::default();
        if !headers.get_all(header::SET_COOKIE).iter().any(|line| self.is_hidden(line)) {
            return change;
        }
        let lines: Vec<HeaderValue> = headers.get_all(header::SET_COOKIE).iter().cloned().collect();
        headers.remove(header::SET_COOKIE);
        for line in lines {
            if !self.is_hidden(&line) {
                headers.append(header::SET_COOKIE, line);
                continue;
            }
            match SetCookie::parse(&line).filter(|cookie| self.is_node_session(cookie.name)) {
                Some(cookie) if cookie.deletes(self.clock.unix()) => change.deleted = true,
                // The last cookie counts, because a login may first set the cookie of the previous
                // session. Its quotes are sent back to the node: without them, Tomcat's legacy
                // cookie processor ends a value at its first `=`.
                Some(cookie) => change.set = NodeCookie::new(cookie.name, cookie.raw_value),
                None => {}
            }
        }
        change
    }

    /// Returns the `Set-Cookie` value that gives a session to the client.
    pub(super) fn set(&self, id: &SessionId) -> Option<HeaderValue> {
        let mut line = Zeroizing::new(String::with_capacity(256));
        self.own.write(&id.text(), None, &mut line);
        let mut line = HeaderValue::from_str(&line).ok()?;
        line.set_sensitive(true);
        Some(line)
    }

    /// Returns the `Set-Cookie` value that deletes the cookie at the client.
    pub(super) fn delete(&self) -> Option<HeaderValue> {
        let mut line = String::new();
        self.own.write("", Some(Duration::ZERO), &mut line);
        line.push_str("; Expires=Thu, 01 Jan 1970 00:00:00 GMT");
        HeaderValue::try_from(line).ok()
    }

    pub(super) fn is_node_session(&self, name: &[u8]) -> bool {
        cookie::is_kylin_session(name) || self.node_cookies.iter().any(|known| known.as_bytes() == name)
    }
}

/// Sets the `Cookie` header to the client's own cookies and the node's. It replaces the cookie of
/// another node.
pub(super) fn set_cookie_header(headers: &mut HeaderMap, client: Option<&HeaderValue>, node: Option<&NodeCookie>) {
    let line = match (client, node.map(NodeCookie::pair)) {
        (client, None) => client.cloned(),
        (None, Some(pair)) => HeaderValue::from_bytes(pair).ok(),
        (Some(client), Some(pair)) => {
            HeaderValue::from_bytes(&Zeroizing::new([client.as_bytes(), b"; ", pair].concat())).ok()
        }
    };
    match line {
        Some(mut line) => {
            line.set_sensitive(true);
            headers.insert(header::COOKIE, line);
        }
        None => _ = headers.remove(header::COOKIE),
    }
}

/// Removes `;jsessionid=...` from a redirect. A servlet container adds the id of a new session
/// until it knows that the client keeps cookies.
pub(super) fn remove_id_from_location(headers: &mut HeaderMap) {
    const PARAMETER: &[u8] = b";jsessionid=";
    let Some(location) = headers.get(header::LOCATION).map(HeaderValue::as_bytes) else { return };
    let start = location.windows(PARAMETER.len()).position(|part| part.eq_ignore_ascii_case(PARAMETER));
    let Some(start) = start else { return };
    let rest = &location[start + PARAMETER.len()..];
    let end = rest.iter().position(|byte| matches!(byte, b';' | b'?' | b'#' | b'/')).unwrap_or(rest.len());
    if let Ok(without_id) = HeaderValue::from_bytes(&[&location[..start], &rest[end..]].concat()) {
        headers.insert(header::LOCATION, without_id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cookies() -> RelayCookies {
        RelayCookies {
            own: Attributes::new("FRONT", "/kylin"),
            node_cookies: vec!["OWN".into()],
            clock: Arc::new(crate::clock::ManualClock::new()),
        }
    }

    fn headers(name: header::HeaderName, values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (name.clone(), HeaderValue::from_str(value).unwrap())).collect()
    }

    fn all(headers: &HeaderMap, name: header::HeaderName) -> Vec<&str> {
        headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
    }

    #[test]
    fn only_other_cookies_reach_the_node() {
        let id = SessionId::random(1).unwrap();
        let line = format!("a=b; FRONT={}; JSESSIONID=x ; OWN=y; c=\"d\"; {}=z", *id.text(), "0a".repeat(32));
        let mut request = headers(header::COOKIE, &[&line]);
        let own = cookies().take_from_request(&mut request);
        assert!(own.is_present && own.id == Some(id));
        assert_eq!(all(&request, header::COOKIE), ["a=b; c=\"d\""]);
    }

    #[test]
    fn a_request_without_such_cookies_is_unchanged() {
        let mut request = headers(header::COOKIE, &["a=b;c=d ;FRONTX=1"]);
        assert!(!cookies().take_from_request(&mut request).is_present);
        assert_eq!(all(&request, header::COOKIE), ["a=b;c=d ;FRONTX=1"]);
        assert!(!cookies().take_from_request(&mut HeaderMap::new()).is_present);
    }

    #[test]
    fn a_header_of_session_cookies_only_is_removed() {
        let mut request = headers(header::COOKIE, &["FRONT=nonsense; JSESSIONID=x"]);
        let own = cookies().take_from_request(&mut request);
        assert!(own.is_present && own.id.is_none());
        assert!(request.is_empty());
    }

    #[test]
    fn the_first_valid_of_several_front_end_cookies_counts() {
        let id = SessionId::random(1).unwrap();
        let mut request = headers(header::COOKIE, &[&format!("FRONT=planted; FRONT=\"{}\"", *id.text())]);
        assert_eq!(cookies().take_from_request(&mut request).id, Some(id));
    }

    #[test]
    fn the_last_cookie_of_the_node_is_kept_and_none_reaches_the_client() {
        let mut response = headers(
            header::SET_COOKIE,
            &["JSESSIONID=A; Path=/kylin", "theme=dark; Path=/", "JSESSIONID=B; Path=/kylin; HttpOnly", "FRONT=evil"],
        );
        let change = cookies().take_from_response(&mut response);
        assert_eq!(change.set.as_ref().map(NodeCookie::pair), Some(&b"JSESSIONID=B"[..]));
        assert!(!change.deleted);
        assert_eq!(all(&response, header::SET_COOKIE), ["theme=dark; Path=/"]);
    }

    #[test]
    fn a_quoted_cookie_goes_back_to_its_node_with_its_quotes() {
        let line = "JSESSIONID=\"bm9kZQ==\"; Path=/kylin; HttpOnly";
        let change = cookies().take_from_response(&mut headers(header::SET_COOKIE, &[line]));
        assert_eq!(change.set.as_ref().map(NodeCookie::pair), Some(&b"JSESSIONID=\"bm9kZQ==\""[..]));
    }

    #[test]
    fn a_deleted_cookie_is_recognised() {
        for line in [
            "JSESSIONID=; Path=/kylin",
            "JSESSIONID=x; max-age=0",
            "JSESSIONID=x; Max-Age=-1",
            "OWN=x; Expires=Thu, 01-Jan-1970 00:00:10 GMT",
        ] {
            let change = cookies().take_from_response(&mut headers(header::SET_COOKIE, &[line]));
            assert!(change.deleted && change.set.is_none(), "{line}");
        }
    }

    #[test]
    fn the_cookie_of_a_node_replaces_that_of_another_node() {
        let clients = HeaderValue::from_static("a=b");
        let (one, two) = (NodeCookie::new(b"JSESSIONID", b"1").unwrap(), NodeCookie::new(b"JSESSIONID", b"2").unwrap());
        let mut request = HeaderMap::new();
        set_cookie_header(&mut request, Some(&clients), Some(&one));
        set_cookie_header(&mut request, Some(&clients), Some(&two));
        assert_eq!(all(&request, header::COOKIE), ["a=b; JSESSIONID=2"]);
        set_cookie_header(&mut request, None, Some(&one));
        assert_eq!(all(&request, header::COOKIE), ["JSESSIONID=1"]);
        set_cookie_header(&mut request, None, None);
        assert!(request.is_empty());
    }

    #[test]
    fn the_session_id_is_removed_from_a_redirect() {
        for (location, expected) in [
            ("/kylin/login;jsessionid=A1.n1?x=y", "/kylin/login?x=y"),
            ("http://kylin/a;JSESSIONID=A1", "http://kylin/a"),
            ("/a;jsessionid=A1/b#c", "/a/b#c"),
            ("/a;v=1", "/a;v=1"),
        ] {
            let mut response = headers(header::LOCATION, &[location]);
            remove_id_from_location(&mut response);
            assert_eq!(all(&response, header::LOCATION), [expected]);
        }
    }

    #[test]
    fn the_cookie_is_deleted_with_the_attributes_it_was_set_with() {
        let id = SessionId::random(1).unwrap();
        let set = cookies().set(&id).unwrap();
        assert_eq!(set.to_str().unwrap(), format!("FRONT={}; Path=/kylin; HttpOnly; SameSite=Lax", *id.text()));
        assert!(set.is_sensitive());
        let deleted = cookies().delete().unwrap();
        assert!(deleted.to_str().unwrap().starts_with("FRONT=; Path=/kylin; Max-Age=0; HttpOnly; "));
    }
}
