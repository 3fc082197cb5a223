//! Finds a cookie or an argument by nginx's rules for where it begins and ends.
//!
//! The rules are nginx's own: names ignore case, and commas are separators. So a configuration sees
//! the values that it sees in nginx. The proxy itself reads cookies by RFC 6265.

/// Returns a cookie's value in one `Cookie` header, as `ngx_http_parse_multi_header_lines`. Names
/// ignore case.
pub(super) fn cookie<'l>(line: &'l [u8], name: &[u8]) -> Option<&'l [u8]> {
    let mut rest = line;
    while !rest.is_empty() {
        if rest.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name)) {
            rest = trim_spaces(&rest[name.len()..]);
            if let Some((b'=', value)) = rest.split_first() {
                return trim_spaces(value).split(|&byte| byte == b';').next();
            }
            // nginx has consumed the character where it expected `=`.
            rest = rest.get(1..).unwrap_or_default();
        }
        let end = rest.iter().position(|byte| matches!(byte, b';' | b','));
        rest = trim_spaces(end.map_or(&b""[..], |end| &rest[end + 1..]));
    }
    None
}

/// Returns an argument's value in a query, not decoded, as `ngx_http_arg`. Names ignore case.
pub(super) fn arg<'q>(query: &'q [u8], name: &[u8]) -> Option<&'q [u8]> {
    query.split(|&byte| byte == b'&').find_map(|pair| {
        let (start, value) = pair.split_at_checked(name.len())?;
        value.strip_prefix(b"=").filter(|_| start.eq_ignore_ascii_case(name))
    })
}

/// Removes leading spaces, but not tabs, which `trim_ascii_start` would remove.
fn trim_spaces(text: &[u8]) -> &[u8] {
    let start = text.iter().position(|&byte| byte != b' ').unwrap_or(text.len());
    &text[start..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_are_found_as_nginx_finds_them() {
        for (line, expected) in [
            ("sid=1", Some("1")),
            ("a=1; SID=2; sid=3", Some("2")),
            ("xsid=1; sid = 2 ;b", Some("2 ")),
            ("sidx=1;sid=2", Some("2")),
            ("a=1, sid=2", Some("2")),
            ("sid=", Some("")),
            ("a=sid=1", None),
            ("sid", None),
            ("sid; sid=2", None),
            ("", None),
        ] {
            assert_eq!(cookie(line.as_bytes(), b"sid"), expected.map(str::as_bytes), "{line}");
        }
    }

    #[test]
    fn arguments_are_found_as_nginx_finds_them() {
        for (query, expected) in
            [("a=1", Some("1")), ("b=2&A=1%20&a=3", Some("1%20")), ("aa=1&a", None), ("xa=1&a=", Some("")), ("", None)]
        {
            assert_eq!(arg(query.as_bytes(), b"a"), expected.map(str::as_bytes), "{query}");
        }
    }
}
