//! Cookies on their way through: the front end's own never reaches a node, a node's never reaches a client, all others pass.

use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderValue};
use zeroize::Zeroizing;

use super::id::SessionId;
use super::record::NodeCookie;
use crate::clock::Clock;
use crate::cookie::{self, Attributes, SetCookie};

/// Which cookies are whose.
#[derive(Debug, Clone)]
pub(super) struct Cookies {
    /// The front end's own cookie.
    pub(super) own: Attributes,
    /// Names of nodes' session cookies, besides those that Kylin has by default.
    pub(super) of_nodes: Vec<String>,
    /// Tells whether a `Set-Cookie` deletes.
    pub(super) clock: Arc<dyn Clock>,
}

/// What was taken out of a request.
#[derive(Default)]
pub(super) struct Taken {
    /// A cookie with the front end's name was there.
    pub(super) presented: bool,
    /// The session that it names.
    pub(super) id: Option<SessionId>,
}

/// What an answer says of the session at its node.
#[derive(Debug, Default)]
pub(super) struct Given {
    /// The node has set this cookie.
    pub(super) cookie: Option<NodeCookie>,
    /// The node has deleted its session cookie.
    pub(super) deleted: bool,
}

impl Cookies {
    /// Takes the front end's cookie, and what looks like a node's, out of a request.
    pub(super) fn take(&self, headers: &mut HeaderMap) -> Taken {
        let mut taken = Taken::default();
        let own = self.own.name().as_bytes();
        cookie::retain(headers, |name, value| {
            if name == own {
                taken.presented = true;
                taken.id = taken.id.take().or_else(|| SessionId::parse(value));
                return false;
            }
            !self.is_nodes(name)
        });
        taken
    }

    /// Takes the node's session cookies out of an answer, and its attempts to set the front end's.
    pub(super) fn take_from_answer(&self, headers: &mut HeaderMap) -> Given {
        let mut given = Given::default();
        let is_hidden = |line: &HeaderValue| {
            let name = SetCookie::parse(line).map(|cookie| cookie.name);
            name.is_some_and(|name| name == self.own.name().as_bytes() || self.is_nodes(name))
        };
        if !headers.get_all(header::SET_COOKIE).iter().any(is_hidden) {
            return given;
        }
        let lines: Vec<HeaderValue> = headers.get_all(header::SET_COOKIE).iter().cloned().collect();
        headers.remove(header::SET_COOKIE);
        for line in lines {
            if !is_hidden(&line) {
                headers.append(header::SET_COOKIE, line);
                continue;
            }
            let Some(cookie) = SetCookie::parse(&line).filter(|cookie| self.is_nodes(cookie.name)) else { continue };
            if cookie.deletes(self.clock.unix()) {
                given.deleted = true;
                continue;
            }
            let text = |bytes| std::str::from_utf8(bytes).ok();
            // The last one counts: at a login, the previous session may be set first.
            given.cookie =
                text(cookie.name).zip(text(cookie.value)).and_then(|(name, value)| NodeCookie::new(name, value));
        }
        given
    }

    /// The `Set-Cookie` that hands a session to the client.
    pub(super) fn hand_out(&self, id: &SessionId) -> Option<HeaderValue> {
        let mut line = Zeroizing::new(String::with_capacity(256));
        self.own.write(&id.text(), None, &mut line);
        let mut line = HeaderValue::from_str(&line).ok()?;
        line.set_sensitive(true);
        Some(line)
    }

    /// The `Set-Cookie` that deletes it at the client.
    pub(super) fn take_back(&self) -> Option<HeaderValue> {
        let mut line = String::new();
        self.own.write("", Some(std::time::Duration::ZERO), &mut line);
        line.push_str("; Expires=Thu, 01 Jan 1970 00:00:00 GMT");
        HeaderValue::try_from(line).ok()
    }

    pub(super) fn is_nodes(&self, name: &[u8]) -> bool {
        cookie::is_kylin_session(name)
            || (!self.of_nodes.is_empty() && self.of_nodes.iter().any(|known| known.as_bytes() == name))
    }
}

/// Puts the node's cookie behind the client's own, in place of what was put there for another node.
pub(super) fn put(headers: &mut HeaderMap, clients: Option<&HeaderValue>, nodes: Option<&NodeCookie>) {
    let line = match (clients, nodes) {
        (None, None) => None,
        (Some(clients), None) => Some(clients.clone()),
        (clients, Some(cookie)) => {
            let pair = cookie.pair();
            let line = clients.map_or_else(
                || Zeroizing::new(pair.as_bytes().to_vec()),
                |clients| Zeroizing::new([clients.as_bytes(), b"; ", pair.as_bytes()].concat()),
            );
            HeaderValue::from_bytes(&line).ok()
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

/// Takes `;jsessionid=...` out of a redirect: a servlet container puts a new session's id there as long as it does not know
/// whether the client keeps cookies.
pub(super) fn clean_location(headers: &mut HeaderMap) {
    const MARK: &[u8] = b";jsessionid=";
    let Some(location) = headers.get(header::LOCATION).map(HeaderValue::as_bytes) else { return };
    let Some(at) = location.windows(MARK.len()).position(|part| part.eq_ignore_ascii_case(MARK)) else { return };
    let rest = &location[at + MARK.len()..];
    let end = rest.iter().position(|byte| matches!(byte, b';' | b'?' | b'#' | b'/')).unwrap_or(rest.len());
    if let Ok(clean) = HeaderValue::from_bytes(&[&location[..at], &rest[end..]].concat()) {
        headers.insert(header::LOCATION, clean);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cookies() -> Cookies {
        Cookies {
            own: Attributes::new("FRONT", "/kylin"),
            of_nodes: vec!["OWN".into()],
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
    fn only_other_cookies_go_on_to_the_node() {
        let id = SessionId::random(1).unwrap();
        let line = format!("a=b; FRONT={}; JSESSIONID=x ; OWN=y; c=\"d\"; {}=z", *id.text(), "0a".repeat(32));
        let mut request = headers(header::COOKIE, &[&line]);
        let taken = cookies().take(&mut request);
        assert!(taken.presented && taken.id == Some(id));
        assert_eq!(all(&request, header::COOKIE), ["a=b; c=\"d\""]);
    }

    #[test]
    fn a_request_without_such_cookies_is_left_as_it_is() {
        let mut request = headers(header::COOKIE, &["a=b;c=d ;FRONTX=1"]);
        assert!(!cookies().take(&mut request).presented);
        assert_eq!(all(&request, header::COOKIE), ["a=b;c=d ;FRONTX=1"]);
        assert!(!cookies().take(&mut HeaderMap::new()).presented);
    }

    #[test]
    fn nothing_is_left_of_a_line_of_session_cookies() {
        let mut request = headers(header::COOKIE, &["FRONT=nonsense; JSESSIONID=x"]);
        let taken = cookies().take(&mut request);
        assert!(taken.presented && taken.id.is_none());
        assert!(request.is_empty());
    }

    #[test]
    fn of_several_front_cookies_the_first_that_can_be_one_counts() {
        let id = SessionId::random(1).unwrap();
        let mut request = headers(header::COOKIE, &[&format!("FRONT=planted; FRONT=\"{}\"", *id.text())]);
        assert_eq!(cookies().take(&mut request).id, Some(id));
    }

    #[test]
    fn the_last_cookie_of_the_node_is_kept_and_none_reaches_the_client() {
        let mut answer = headers(
            header::SET_COOKIE,
            &[
                "JSESSIONID=A; Path=/kylin",
                "theme=dark; Path=/",
                "JSESSIONID=B; Path=/kylin; HttpOnly; SameSite=Lax",
                "FRONT=evil",
            ],
        );
        let given = cookies().take_from_answer(&mut answer);
        assert_eq!(given.cookie.map(|cookie| cookie.pair().to_string()).as_deref(), Some("JSESSIONID=B"));
        assert!(!given.deleted);
        assert_eq!(all(&answer, header::SET_COOKIE), ["theme=dark; Path=/"]);
    }

    #[test]
    fn a_deleted_cookie_is_noticed() {
        for field in [
            "JSESSIONID=; Path=/kylin",
            "JSESSIONID=x; max-age=0",
            "JSESSIONID=x; Max-Age=-1",
            "OWN=x; Expires=Thu, 01-Jan-1970 00:00:10 GMT",
        ] {
            let given = cookies().take_from_answer(&mut headers(header::SET_COOKIE, &[field]));
            assert!(given.deleted && given.cookie.is_none(), "{field}");
        }
    }

    #[test]
    fn a_nodes_cookie_replaces_that_of_another_node() {
        let clients = HeaderValue::from_static("a=b");
        let (one, two) = (NodeCookie::new("JSESSIONID", "1").unwrap(), NodeCookie::new("JSESSIONID", "2").unwrap());
        let mut request = HeaderMap::new();
        put(&mut request, Some(&clients), Some(&one));
        put(&mut request, Some(&clients), Some(&two));
        assert_eq!(all(&request, header::COOKIE), ["a=b; JSESSIONID=2"]);
        put(&mut request, None, Some(&one));
        assert_eq!(all(&request, header::COOKIE), ["JSESSIONID=1"]);
        put(&mut request, None, None);
        assert!(request.is_empty());
    }

    #[test]
    fn a_redirect_loses_the_id_in_its_path() {
        for (location, clean) in [
            ("/kylin/login;jsessionid=A1.n1?x=y", "/kylin/login?x=y"),
            ("http://kylin/a;JSESSIONID=A1", "http://kylin/a"),
            ("/a;jsessionid=A1/b#c", "/a/b#c"),
            ("/a;v=1", "/a;v=1"),
        ] {
            let mut answer = headers(header::LOCATION, &[location]);
            clean_location(&mut answer);
            assert_eq!(all(&answer, header::LOCATION), [clean]);
        }
    }

    #[test]
    fn what_is_handed_out_is_taken_back_with_the_same_attributes() {
        let id = SessionId::random(1).unwrap();
        let out = cookies().hand_out(&id).unwrap();
        assert_eq!(out.to_str().unwrap(), format!("FRONT={}; Path=/kylin; HttpOnly; SameSite=Lax", *id.text()));
        assert!(out.is_sensitive());
        let back = cookies().take_back().unwrap();
        let deletion = "FRONT=; Path=/kylin; Max-Age=0; HttpOnly; SameSite=Lax; Expires=Thu, 01 Jan 1970 00:00:00 GMT";
        assert_eq!(back, deletion);
    }
}
