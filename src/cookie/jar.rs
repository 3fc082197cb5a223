use std::collections::BTreeMap;

use http::header::{self, HeaderMap, HeaderValue};

use super::SetCookie;

/// The maximum number of cookies, and the maximum length of each with its name, in bytes.
const MAX_COOKIES: usize = 8;
const MAX_BYTES: usize = 1024;

/// The cookies that a node has set in responses to the front end's own requests, such as probes.
///
/// Each node has its own jar, which is sent to no other node and has no `Debug`. Path and expiry
/// are ignored, because such requests have one path, and a node that has forgotten a session sets
/// another cookie.
#[derive(Default)]
pub(crate) struct CookieJar(BTreeMap<Box<[u8]>, Box<[u8]>>);

impl CookieJar {
    /// Stores the cookies that a response sets.
    pub(crate) fn store(&mut self, headers: &HeaderMap) {
        for line in headers.get_all(header::SET_COOKIE) {
            let Some(SetCookie { name, raw_value, .. }) = SetCookie::parse(line) else { continue };
            let has_room = self.0.len() < MAX_COOKIES || self.0.contains_key(name);
            if !name.is_empty() && name.len() + raw_value.len() < MAX_BYTES && has_room {
                self.0.insert(name.into(), raw_value.into());
            }
        }
    }

    /// Removes all cookies.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// Returns the `Cookie` value of the next request, marked as sensitive; `None` if there is no
    /// cookie.
    pub(crate) fn header(&self) -> Option<HeaderValue> {
        if self.0.is_empty() {
            return None;
        }
        let pairs: Vec<_> = self.0.iter().map(|(name, value)| [name, &b"="[..], value].concat()).collect();
        let mut value = HeaderValue::from_bytes(&pairs.join(&b"; "[..])).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_come_back_to_the_node_that_set_them_up_to_a_bound() {
        let set = |cookies: &[&str]| {
            let lines = cookies.iter().map(|cookie| (header::SET_COOKIE, HeaderValue::from_str(cookie).unwrap()));
            lines.collect::<HeaderMap>()
        };
        let mut cookies = CookieJar::default();
        assert!(cookies.header().is_none());
        cookies.store(&set(&["JSESSIONID=A1; Path=/kylin; HttpOnly", "x=", "=y", "nonsense", ""]));
        cookies.store(&set(&["JSESSIONID=B2=; Secure"]));
        assert_eq!(cookies.header().unwrap(), "JSESSIONID=B2=; x=");
        let many: Vec<String> = (0..50).map(|n| format!("c{n}={}", "v".repeat(n * 40))).collect();
        cookies.store(&set(&many.iter().map(String::as_str).collect::<Vec<_>>()));
        assert!(cookies.0.len() <= MAX_COOKIES && cookies.header().unwrap().len() <= MAX_COOKIES * (MAX_BYTES + 2));
    }
}
