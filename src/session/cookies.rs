//! Reading cookies: what a client sends, what a node sets, and session ids in paths. Everything here comes from the network.

use http::header::{self, HeaderMap, HeaderValue};

/// The longest session id that is looked at, in bytes; Kylin's have at most 64, with a route some more.
const LONGEST_ID: usize = 512;

/// The pairs of a request's cookies, in the order in which they came. Quotes around a value are not part of it.
pub(super) fn pairs(headers: &HeaderMap) -> impl Iterator<Item = (&[u8], &[u8])> {
    headers
        .get_all(header::COOKIE)
        .into_iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b';'))
        .filter_map(pair)
}

fn pair(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = text.iter().position(|byte| *byte == b'=')?;
    Some((text[..at].trim_ascii(), unquoted(text[at + 1..].trim_ascii())))
}

fn unquoted(value: &[u8]) -> &[u8] {
    value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value)
}

/// Could these bytes be a session's id?
pub(super) fn is_id(value: &[u8]) -> bool {
    !value.is_empty() && value.len() <= LONGEST_ID && value.iter().all(u8::is_ascii_graphic)
}

/// The id in `;jsessionid=` of a path (Servlet specification, 7.1.3), which servers write where a client takes no cookies.
pub(super) fn path_id(path: &str) -> Option<&[u8]> {
    const NAME: &str = ";jsessionid=";
    let at = path.find(NAME)?;
    let value = path.as_bytes()[at + NAME.len()..].split(|byte| matches!(byte, b';' | b'/' | b'?')).next()?;
    is_id(value).then_some(value)
}

/// A cookie that an answer sets.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Set<'a> {
    pub(super) name: &'a [u8],
    /// None where the cookie is to be forgotten.
    pub(super) value: Option<&'a [u8]>,
}

/// Reads a `Set-Cookie` line as browsers do (RFC 6265, 5.2): `Max-Age` goes before `Expires`, the last of each counts.
pub(super) fn set(line: &HeaderValue, now: u64) -> Option<Set<'_>> {
    let mut parts = line.as_bytes().split(|byte| *byte == b';');
    let (name, value) = pair(parts.next()?)?;
    let (mut max_age, mut expires) = (None, None);
    for (attribute, value) in parts.filter_map(pair) {
        if attribute.eq_ignore_ascii_case(b"max-age") {
            max_age = is_spent(value).or(max_age);
        } else if attribute.eq_ignore_ascii_case(b"expires") {
            expires = date(value).map(|expires| expires <= now).or(expires);
        }
    }
    let gone = value.is_empty() || max_age.or(expires).unwrap_or(false);
    Some(Set { name, value: (!gone).then_some(value) })
}

/// Is this `Max-Age` zero or less? None when it is no number.
fn is_spent(value: &[u8]) -> Option<bool> {
    let (negative, digits) = value.strip_prefix(b"-").map_or((false, value), |digits| (true, digits));
    let number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    number.then(|| negative || digits.iter().all(|digit| *digit == b'0'))
}

/// A cookie's date, in seconds since 1970, by the forgiving rules of RFC 6265, 5.1.1.
fn date(text: &[u8]) -> Option<u64> {
    let (mut time, mut day, mut month, mut year) = (None, None, None, None);
    let is_delimiter = |byte: &u8| !(byte.is_ascii_alphanumeric() || *byte == b':' || *byte >= 0x80);
    for token in text.split(is_delimiter).filter(|token| !token.is_empty()) {
        if time.is_none() && token.contains(&b':') {
            let mut fields = token.split(|byte| *byte == b':').map(|field| number(field, 1, 2));
            let mut next = || fields.next().flatten();
            time = Some((next()?, next()?, next()?));
        } else if day.is_none() && number(token, 1, 2).is_some() {
            day = number(token, 1, 2);
        } else if month.is_none() && month_of(token).is_some() {
            month = month_of(token);
        } else if year.is_none() {
            year = number(token, 2, 4);
        }
    }
    let ((hour, minute, second), day, month) = (time?, day?, month?);
    let year = match year? {
        year @ 70..=99 => year + 1900,
        year @ 0..=69 => year + 2000,
        year => year,
    };
    if !(1..=31).contains(&day) || year < 1601 || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let days = days_since_1970(year, month, day);
    Some(u64::try_from(days * 86_400 + hour * 3600 + minute * 60 + second).unwrap_or(0))
}

fn number(text: &[u8], least: usize, most: usize) -> Option<i64> {
    let digits = (least..=most).contains(&text.len()) && text.iter().all(u8::is_ascii_digit);
    digits.then(|| text.iter().fold(0, |number, digit| number * 10 + i64::from(digit - b'0')))
}

fn month_of(token: &[u8]) -> Option<i64> {
    const MONTHS: [&[u8]; 12] =
        [b"jan", b"feb", b"mar", b"apr", b"may", b"jun", b"jul", b"aug", b"sep", b"oct", b"nov", b"dec"];
    let first = token.get(..3)?;
    (1..).zip(MONTHS).find(|(_, month)| first.eq_ignore_ascii_case(month)).map(|(number, _)| number)
}

/// Days from the first of January 1970 in the Gregorian calendar (Hinnant, "chrono-compatible low-level date algorithms").
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// Takes the cookie called `name` out of what the node gets to see.
pub(super) fn strip(headers: &mut HeaderMap, name: &str) {
    let is_ours = |text: &[u8]| pair(text).is_some_and(|(other, _)| other == name.as_bytes());
    let has = |line: &HeaderValue| line.as_bytes().split(|byte| *byte == b';').any(is_ours);
    if !headers.get_all(header::COOKIE).iter().any(has) {
        return;
    }
    let mut kept: Vec<HeaderValue> = Vec::new();
    for line in headers.get_all(header::COOKIE) {
        let others = line.as_bytes().split(|byte| *byte == b';').filter(|text| !is_ours(text));
        let others: Vec<&[u8]> = others.map(|text| text.trim_ascii()).filter(|text| !text.is_empty()).collect();
        let line = HeaderValue::from_maybe_shared(bytes::Bytes::from(others.join(&b"; "[..])));
        kept.extend(line.ok().filter(|line| !line.is_empty()));
    }
    headers.remove(header::COOKIE);
    for line in kept {
        headers.append(header::COOKIE, line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_767_225_600;

    fn read(line: &str) -> Option<(&str, Option<&str>)> {
        // Leaked: these are a few lines in a test.
        let line: &'static HeaderValue = Box::leak(Box::new(HeaderValue::from_str(line).unwrap()));
        let text = |bytes| std::str::from_utf8(bytes).unwrap();
        set(line, NOW).map(|set| (text(set.name), set.value.map(text)))
    }

    #[test]
    fn reads_what_a_node_sets_and_forgets() {
        assert_eq!(read("JSESSIONID=A1; Path=/kylin; HttpOnly"), Some(("JSESSIONID", Some("A1"))));
        assert_eq!(read("a = \"b\" ; max-age=10"), Some(("a", Some("b"))));
        assert_eq!(read("JSESSIONID=; Path=/kylin"), Some(("JSESSIONID", None)));
        for gone in [
            "Max-Age=0",
            "max-age=-1",
            "Expires=Thu, 01-Jan-1970 00:00:10 GMT",
            "Expires=Thu, 01 Jan 1970 00:00:00 GMT",
            "expires=Thursday, 31-Dec-25 23:59:59 GMT",
            "expires=Wed Dec 31 23:59:59 2025",
            "Max-Age=0; Expires=Fri, 01 Jan 2100 00:00:00 GMT",
        ] {
            assert_eq!(read(&format!("a=b; {gone}")), Some(("a", None)), "{gone}");
        }
        for stays in [
            "Max-Age=1",
            "Max-Age=x",
            "Expires=nonsense",
            "Expires=Thu, 01 Jan 2026 00:00:01 GMT",
            "Max-Age=9; Expires=Thu, 01-Jan-1970 00:00:10 GMT",
        ] {
            assert_eq!(read(&format!("a=b; {stays}")), Some(("a", Some("b"))), "{stays}");
        }
        assert_eq!(read("no equals sign"), None);
    }

    #[test]
    fn dates_are_seconds_since_1970() {
        assert_eq!(date(b"Thu, 01 Jan 2026 00:00:00 GMT"), Some(NOW));
        assert_eq!(date(b"Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(date(b"Thu, 29-Feb-2024 12:00:00 GMT"), Some(1_709_208_000));
        assert_eq!(date(b"01 Jan 1601 00:00:00"), Some(0), "before 1970 is past enough");
        assert_eq!(date(b"32 Jan 2026 00:00:00"), None);
        assert_eq!(date(b"1 Jan 2026 24:00:00"), None);
    }

    #[test]
    fn finds_ids_in_paths() {
        assert_eq!(path_id("/kylin/login;jsessionid=A1.n1?x=1"), Some(&b"A1.n1"[..]));
        assert_eq!(path_id("/kylin/login;jsessionid=A1;x=y/z"), Some(&b"A1"[..]));
        assert_eq!(path_id("/kylin/login;jsessionid="), None);
        assert_eq!(path_id("/kylin/jsessionid=A1"), None);
    }

    #[test]
    fn takes_a_cookie_out_and_leaves_the_others() {
        let stripped = |line: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::COOKIE, line.parse().unwrap());
            strip(&mut headers, "lb");
            headers.get(header::COOKIE).map(|line| line.to_str().unwrap().to_owned())
        };
        assert_eq!(stripped("a=1; lb=x; b=2; lb=y").as_deref(), Some("a=1; b=2"));
        assert_eq!(stripped("lb=x"), None);
        assert_eq!(stripped("lbx=1;xlb=2").as_deref(), Some("lbx=1;xlb=2"));
    }

    proptest::proptest! {
        #[test]
        fn no_line_is_too_strange(line in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            if let Ok(line) = HeaderValue::from_bytes(&line) {
                let _ = set(&line, NOW);
                let mut headers = HeaderMap::new();
                headers.insert(header::COOKIE, line);
                proptest::prop_assert!(pairs(&headers).count() <= 200);
                strip(&mut headers, "a");
                proptest::prop_assert!(pairs(&headers).all(|(name, _)| name != b"a"));
            }
        }

        #[test]
        fn no_date_is_too_strange(text in "[ -~]{0,40}") {
            let _ = date(text.as_bytes());
            let _ = path_id(&text);
        }
    }
}
