use std::collections::BTreeMap;

use http::header::{self, HeaderMap, HeaderValue};

/// How many cookies are kept, and how many bytes each may have.
const MOST: usize = 8;
const MOST_BYTES: usize = 1024;

/// The cookies that a node gave to a probe or another question of ours, to be shown the next time. They are kept apart for each node, go
/// nowhere else, and have no `Debug`. Path and expiry are not looked at: a probe has one path, and a node that has forgotten
/// a session gives another.
#[derive(Default)]
pub(crate) struct Cookies(BTreeMap<Box<[u8]>, Box<[u8]>>);

impl Cookies {
    pub(super) fn learn(&mut self, headers: &HeaderMap) {
        for cookie in headers.get_all(header::SET_COOKIE) {
            let pair = cookie.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
            let Some(equals) = pair.iter().position(|byte| *byte == b'=') else { continue };
            let (name, value) = (&pair[..equals], &pair[equals + 1..]);
            let room = self.0.len() < MOST || self.0.contains_key(name);
            if !name.is_empty() && pair.len() <= MOST_BYTES && room {
                self.0.insert(name.into(), value.into());
            }
        }
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// The value of the field `cookie`.
    pub(super) fn value(&self) -> Option<HeaderValue> {
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
    fn what_a_node_sets_comes_back_to_it_and_the_amount_is_bounded() {
        let set = |cookies: &[&str]| {
            let lines = cookies.iter().map(|cookie| (header::SET_COOKIE, HeaderValue::from_str(cookie).unwrap()));
            lines.collect::<HeaderMap>()
        };
        let mut cookies = Cookies::default();
        assert!(cookies.value().is_none());
        cookies.learn(&set(&["JSESSIONID=A1; Path=/kylin; HttpOnly", "x=", "=y", "nonsense", ""]));
        cookies.learn(&set(&["JSESSIONID=B2=; Secure"]));
        assert_eq!(cookies.value().unwrap(), "JSESSIONID=B2=; x=");
        let many: Vec<String> = (0..50).map(|n| format!("c{n}={}", "v".repeat(n * 40))).collect();
        cookies.learn(&set(&many.iter().map(String::as_str).collect::<Vec<_>>()));
        assert!(cookies.0.len() <= MOST && cookies.value().unwrap().len() <= MOST * (MOST_BYTES + 2));
    }
}
