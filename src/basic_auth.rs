//! HTTP Basic credentials (RFC 7617).

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderValue, header};

/// The maximum length of a token in base64. Longer ones are not decoded.
pub(crate) const MAX_TOKEN: usize = 4096;

/// Returns the base64 token of `Basic` credentials in an `Authorization` value. The scheme may be
/// in any case.
pub(crate) fn token(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_first_chunk::<6>()?;
    (scheme == b"Basic " || scheme.eq_ignore_ascii_case(b"basic ")).then(|| token.trim_ascii())
}

/// Returns the user name of Basic credentials: the text before the first colon. `None` if the
/// `Authorization` header has no such credentials, they cannot be decoded, or the name is empty.
pub(crate) fn user(authorization: &HeaderValue) -> Option<Vec<u8>> {
    let length = token(authorization.as_bytes()).map(<[u8]>::len).filter(|length| *length <= MAX_TOKEN)?;
    let mut decoded = vec![0; length];
    let user = user_in(authorization, &mut decoded)?.len();
    decoded.truncate(user);
    Some(decoded)
}

/// Returns the [`user`] of Basic credentials as text. Also `None` if the name is not UTF-8.
pub(crate) fn user_name(authorization: &HeaderValue) -> Option<String> {
    String::from_utf8(user(authorization)?).ok()
}

/// Returns the user name of Basic credentials, which are decoded into `decoded`. Also returns
/// `None` if `decoded` is too short.
pub(crate) fn user_in<'d>(authorization: &HeaderValue, decoded: &'d mut [u8]) -> Option<&'d mut [u8]> {
    let length = STANDARD.decode_slice(token(authorization.as_bytes())?, decoded).ok()?;
    let colon = decoded[..length].iter().position(|byte| *byte == b':').filter(|colon| *colon > 0)?;
    Some(&mut decoded[..colon])
}

/// User and password of a request, for an application that checks them before it forwards the
/// request.
///
/// ```
/// use http::HeaderMap;
/// use kylin_lb::proxy::BasicCredentials;
///
/// let mut headers = HeaderMap::new();
/// headers.insert("authorization", "Basic QURNSU46S1lMSU4=".parse()?);
/// let credentials = BasicCredentials::of(&headers).unwrap();
/// assert_eq!((&*credentials.user, &*credentials.password), ("ADMIN", &b"KYLIN"[..]));
/// # Ok::<(), http::header::InvalidHeaderValue>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BasicCredentials {
    /// The user. It is not empty and has no colon.
    pub user: String,
    /// The password, in the client's encoding.
    pub password: Vec<u8>,
}

impl BasicCredentials {
    /// Returns the Basic credentials in the headers of a request (RFC 7617), which are not
    /// verified. Returns `None` if there are none, if they cannot be decoded, or if the user is
    /// empty or not UTF-8.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let value = headers.get(header::AUTHORIZATION)?;
        let token = token(value.as_bytes()).filter(|token| token.len() <= MAX_TOKEN)?;
        let mut decoded = STANDARD.decode(token).ok()?;
        let colon = decoded.iter().position(|byte| *byte == b':').filter(|colon| *colon > 0)?;
        let password = decoded.split_off(colon + 1);
        decoded.pop();
        Some(BasicCredentials { user: String::from_utf8(decoded).ok()?, password })
    }
}

/// Shows no password.
impl fmt::Debug for BasicCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BasicCredentials").field("user", &self.user).finish_non_exhaustive()
    }
}

/// Returns the `Authorization` value for these credentials, marked as sensitive; `None` if the user
/// has a colon.
pub(crate) fn authorization(user: &str, password: &str) -> Option<HeaderValue> {
    if user.contains(':') {
        return None;
    }
    let mut value = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user_of(value: &str) -> Option<String> {
        user(&value.parse().unwrap()).map(|user| String::from_utf8(user).unwrap())
    }

    #[test]
    fn reads_the_user_before_the_first_colon() {
        let value = authorization("ADMIN", "KY:LIN").unwrap();
        assert!(value.is_sensitive());
        let value = value.to_str().unwrap();
        assert_eq!(user_of(value).as_deref(), Some("ADMIN"));
        assert_eq!(user_of(&value.replace("Basic ", "BASIC  ")).as_deref(), Some("ADMIN"));
        assert_eq!(authorization("a:b", "c"), None);
    }

    #[test]
    fn other_credentials_name_no_user() {
        let long = format!("Basic {}", STANDARD.encode("x".repeat(MAX_TOKEN)));
        let (no_colon, empty) = (STANDARD.encode("nocolon"), STANDARD.encode(":pw"));
        for value in [
            "Basic",
            "Basic ",
            "Bearer QURNSU46",
            "Basic !!!",
            &format!("Basic {no_colon}"),
            &format!("Basic {empty}"),
            &long,
        ] {
            assert_eq!(user_of(value), None, "{value}");
        }
    }
}
