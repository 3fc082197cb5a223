use http::HeaderValue;

use super::{date, split, unquoted};

/// A cookie that a response sets, parsed as browsers parse it (RFC 6265, 5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SetCookie<'a> {
    pub(crate) name: &'a [u8],
    /// The value without the quotes around it.
    pub(crate) value: &'a [u8],
    /// The value as the node sent it, with its quotes if it has any.
    pub(crate) raw_value: &'a [u8],
    /// Whether `Max-Age` is zero or less. The last valid attribute counts. `Max-Age` takes
    /// precedence over `Expires`.
    max_age_is_over: Option<bool>,
    /// The time of `Expires`, in seconds since 1970.
    expires: Option<u64>,
}

impl<'a> SetCookie<'a> {
    /// Parses a `Set-Cookie` value. Returns `None` if the value has no `=` before its attributes.
    pub(crate) fn parse(line: &'a HeaderValue) -> Option<Self> {
        let mut parts = line.as_bytes().split(|byte| *byte == b';');
        let (name, value) = split(parts.next()?)?;
        let mut cookie =
            SetCookie { name, value: unquoted(value), raw_value: value, max_age_is_over: None, expires: None };
        for (attribute, value) in parts.filter_map(split) {
            if attribute.eq_ignore_ascii_case(b"max-age") {
                cookie.max_age_is_over = is_zero_or_less(value).or(cookie.max_age_is_over);
            } else if attribute.eq_ignore_ascii_case(b"expires") {
                cookie.expires = date::parse(value).or(cookie.expires);
            }
        }
        Some(cookie)
    }

    /// Returns whether this deletes the cookie: its value is empty, or it has expired at `now`, in
    /// seconds since 1970.
    pub(crate) fn deletes(&self, now: u64) -> bool {
        let expired = || self.expires.is_some_and(|expires| expires <= now);
        self.value.is_empty() || self.max_age_is_over.unwrap_or_else(expired)
    }
}

/// Returns whether the value is zero or less; `None` if it is not a number.
fn is_zero_or_less(max_age: &[u8]) -> Option<bool> {
    let (negative, digits) = max_age.strip_prefix(b"-").map_or((false, max_age), |digits| (true, digits));
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    is_number.then(|| negative || digits.iter().all(|digit| *digit == b'0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_767_225_600;

    /// The name, and the value unless the cookie is deleted.
    fn read(line: &str) -> Option<(String, Option<String>)> {
        let line = HeaderValue::from_str(line).unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let cookie = SetCookie::parse(&line)?;
        Some((text(cookie.name), (!cookie.deletes(NOW)).then(|| text(cookie.value))))
    }

    fn set(name: &str, value: Option<&str>) -> Option<(String, Option<String>)> {
        Some((name.into(), value.map(Into::into)))
    }

    #[test]
    fn reads_what_a_node_sets_and_deletes() {
        assert_eq!(read("JSESSIONID=A1; Path=/kylin; HttpOnly"), set("JSESSIONID", Some("A1")));
        assert_eq!(read("JSESSIONID=A=B"), set("JSESSIONID", Some("A=B")));
        assert_eq!(read("a = \"b\" ; max-age=10"), set("a", Some("b")));
        assert_eq!(read("JSESSIONID=; Path=/kylin"), set("JSESSIONID", None));
        for deleted in [
            "Max-Age=0",
            "max-age=-1",
            "Expires=Thu, 01-Jan-1970 00:00:10 GMT",
            "Expires=Thu, 01 Jan 1970 00:00:00 GMT",
            "expires=Thursday, 31-Dec-25 23:59:59 GMT",
            "expires=Wed Dec 31 23:59:59 2025",
            "Max-Age=0; Expires=Fri, 01 Jan 2100 00:00:00 GMT",
        ] {
            assert_eq!(read(&format!("a=b; {deleted}")), set("a", None), "{deleted}");
        }
        for kept in [
            "Max-Age=1",
            "Max-Age=x",
            "Expires=nonsense",
            "Expires=Thu, 01 Jan 2026 00:00:01 GMT",
            "Max-Age=9; Expires=Thu, 01-Jan-1970 00:00:10 GMT",
        ] {
            assert_eq!(read(&format!("a=b; {kept}")), set("a", Some("b")), "{kept}");
        }
        assert_eq!(read("no equals sign; a=b"), None);
    }
}
