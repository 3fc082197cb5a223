//! The names and values in `Cookie` and `Set-Cookie`, and which of them are Kylin's.

/// Is a cookie of this name a session of a Kylin node? `JSESSIONID` of 2.x-4.x; Kylin 5 names its cookie by a digest of its
/// metastore (BootstrapServer.java).
pub(super) fn is_kylins(name: &[u8]) -> bool {
    name == b"JSESSIONID" || (name.len() == 64 && name.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')))
}

/// The pair that a `Set-Cookie` begins with.
pub(super) fn first_part(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii()
}

/// Name and value of a pair.
pub(super) fn cut(pair: &[u8]) -> (&[u8], &[u8]) {
    match pair.iter().position(|byte| *byte == b'=') {
        Some(at) => (pair[..at].trim_ascii(), pair[at + 1..].trim_ascii()),
        None => (pair, b""),
    }
}

#[cfg(feature = "login-relay")]
pub(super) fn unquoted(value: &[u8]) -> &[u8] {
    value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value)
}

/// Does this `Set-Cookie` delete? `Max-Age` of nothing, or the epoch that servlet containers write.
pub(super) fn expires_at_once(field: &[u8]) -> bool {
    field.split(|byte| *byte == b';').skip(1).any(|attribute| {
        let (name, value) = cut(attribute.trim_ascii());
        match name.to_ascii_lowercase().as_slice() {
            b"max-age" => {
                std::str::from_utf8(value).ok().and_then(|age| age.parse().ok()).is_some_and(|age: i64| age <= 0)
            }
            b"expires" => value.windows(4).any(|year| year == b"1970"),
            _ => false,
        }
    })
}
