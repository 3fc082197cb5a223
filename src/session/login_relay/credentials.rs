use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::{HeaderMap, HeaderValue, header};
use percent_encoding::percent_decode;
use zeroize::Zeroizing;

use crate::basic_auth;
use crate::percent::has_valid_escapes;

/// The maximum length of an `Authorization` value.
const MAX_LEN: usize = 4096;
const MAX_FORM_LEN: usize = 8192;

/// The Basic credentials of a session: the value of `Authorization` with which the relay logs in.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Credentials(Zeroizing<Vec<u8>>);

impl Credentials {
    /// Reads an `Authorization` value. Returns `None` if the scheme is not Basic or the value is
    /// too long.
    pub(super) fn from_authorization(value: &[u8]) -> Option<Self> {
        let token = basic_auth::token(value)?;
        let fits = (1..MAX_LEN - 6).contains(&token.len()) && token.iter().all(u8::is_ascii_graphic);
        fits.then(|| Credentials(Zeroizing::new([b"Basic ", token].concat())))
    }

    /// Reads a login form of Spring Security: `username` and `password`, with the prefix `j_` in
    /// its older versions.
    pub(super) fn from_form(headers: &HeaderMap, body: &[u8]) -> Option<Self> {
        const FORM: &[u8] = b"application/x-www-form-urlencoded";
        let kind = headers.get(header::CONTENT_TYPE)?.as_bytes();
        if !kind.get(..FORM.len())?.eq_ignore_ascii_case(FORM) || body.len() > MAX_FORM_LEN {
            return None;
        }
        let (mut user, mut password) = (None, None);
        for pair in body.split(|byte| *byte == b'&') {
            let equals = pair.iter().position(|byte| *byte == b'=').unwrap_or(pair.len());
            let value = pair.get(equals + 1..).unwrap_or_default();
            match &pair[..equals] {
                b"username" | b"j_username" => user = Some(form_decode(value)?),
                b"password" | b"j_password" => password = Some(form_decode(value)?),
                _ => {}
            }
        }
        Credentials::new(&user?, &password?)
    }

    /// Creates the credentials of a user. Returns `None` for a name that Basic cannot express.
    fn new(user: &[u8], password: &[u8]) -> Option<Self> {
        if user.is_empty() || user.contains(&b':') || user.len() + password.len() > MAX_LEN / 2 {
            return None;
        }
        let plain = Zeroizing::new([user, b":", password].concat());
        let value = Zeroizing::new(format!("Basic {}", *Zeroizing::new(BASE64.encode(&*plain))));
        Credentials::from_authorization(value.as_bytes())
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the `Authorization` value.
    pub(super) fn authorization(&self) -> Option<HeaderValue> {
        let mut value = HeaderValue::from_bytes(&self.0).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(..)")
    }
}

/// Decodes a value of a form. Returns `None` for an invalid escape.
fn form_decode(value: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    if !has_valid_escapes(value) {
        return None;
    }
    let spaced = Zeroizing::new(value.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect::<Vec<u8>>());
    // The capacity avoids reallocations, which would leave copies in memory.
    let mut decoded = Zeroizing::new(Vec::with_capacity(value.len()));
    decoded.extend(percent_decode(&spaced));
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials(text: &str) -> Credentials {
        Credentials::from_authorization(text.as_bytes()).unwrap()
    }

    #[test]
    fn only_basic_credentials_of_limited_length_are_read() {
        for text in
            ["", "Basic", "Basic ", "Bearer x", "Basic a b", "Basic \u{e9}", &format!("Basic {}", "x".repeat(5000))]
        {
            assert!(Credentials::from_authorization(text.as_bytes()).is_none(), "{text}");
        }
        assert_eq!(credentials("BASIC  eA== "), credentials("Basic eA=="));
    }

    #[test]
    fn a_form_is_read_as_the_basic_credentials_of_the_same_user() {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, "application/x-www-form-urlencoded; charset=UTF-8".parse().unwrap());
        let read = |body: &str| Credentials::from_form(&headers, body.as_bytes());
        let admin = Credentials::from_authorization(b"Basic QURNSU46S1lMSU4=");
        assert_eq!(read("username=ADMIN&password=KYLIN"), admin);
        assert_eq!(read("j_password=K%59LIN&remember=1&j_username=ADMIN"), admin);
        assert_eq!(read("username=a+b&password=%25"), Credentials::new(b"a b", b"%"));
        for body in [
            "",
            "username=ADMIN",
            "password=x",
            "username=%4&password=x",
            "username=%zz&password=x",
            "username=a:b&password=c",
        ] {
            assert_eq!(read(body), None, "{body}");
        }
        assert_eq!(Credentials::from_form(&HeaderMap::new(), b"username=ADMIN&password=KYLIN"), None);
    }

    #[test]
    fn debug_shows_no_credentials() {
        assert_eq!(format!("{:?}", credentials("Basic eA==")), "Credentials(..)");
        assert!(credentials("Basic eA==").authorization().unwrap().is_sensitive());
    }
}
