//! Where clients log in and out. What is not recognised is passed on like any other request, and costs comfort, not safety.

use bytes::Bytes;
use http::{HeaderMap, Method, header};
use zeroize::Zeroizing;

use super::record::Login;

/// What a request asks for, as far as sessions go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// To be logged in with its `Authorization`.
    Login,
    /// To be logged in with the form in its body.
    Form,
    /// To be told who is logged in: nobody is an answer of 200 there, not of 401 (UserController.java).
    WhoAmI,
    /// To be logged out.
    Logout,
    /// Anything else.
    Other,
}

/// Where the front end itself logs in.
pub(super) const LOGIN: &str = "/kylin/api/user/authentication";

impl Kind {
    pub(super) fn of(method: &Method, path: &str) -> Self {
        // `;parameters` are cut off as by a servlet container.
        let path = path.split(';').next().unwrap_or_default();
        let path = if path.len() > 1 { path.trim_end_matches('/') } else { path };
        match (method, path) {
            (&Method::POST, LOGIN) => Kind::Login,
            (&Method::GET, LOGIN) => Kind::WhoAmI,
            (&Method::DELETE, LOGIN) => Kind::Logout,
            (
                &Method::POST,
                "/kylin/login" | "/kylin/j_spring_security_check" | "/kylin/api/j_spring_security_check",
            ) => Kind::Form,
            (
                &Method::GET | &Method::POST,
                "/kylin/logout"
                | "/kylin/api/logout"
                | "/kylin/j_spring_security_logout"
                | "/kylin/api/j_spring_security_logout",
            ) => Kind::Logout,
            _ => Kind::Other,
        }
    }
}

/// The login in a form of Spring Security: `username` and `password`, in its older versions with `j_` before them.
pub(super) fn login_of_form(headers: &HeaderMap, body: &Bytes) -> Option<Login> {
    let is_form = headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().to_ascii_lowercase().starts_with(b"application/x-www-form-urlencoded"));
    if !is_form || body.len() > 8192 {
        return None;
    }
    let (mut name, mut password) = (None, None);
    for pair in body.split(|byte| *byte == b'&') {
        let at = pair.iter().position(|byte| *byte == b'=').unwrap_or(pair.len());
        let value = pair.get(at + 1..).unwrap_or_default();
        match &pair[..at] {
            b"username" | b"j_username" => name = Some(decode(value)?),
            b"password" | b"j_password" => password = Some(decode(value)?),
            _ => {}
        }
    }
    Login::new(&name?, &password?)
}

fn decode(text: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let mut decoded = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut rest = text.iter();
    while let Some(byte) = rest.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || char::from(*rest.next()?).to_digit(16);
                (digit()? << 4 | digit()?) as u8
            }
            byte => *byte,
        });
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logins_and_logouts_of_both_generations_are_known() {
        let kind = |method: &str, path: &str| Kind::of(&method.parse().unwrap(), path);
        assert_eq!(kind("POST", "/kylin/api/user/authentication"), Kind::Login);
        assert_eq!(kind("POST", "/kylin/api/user/authentication/"), Kind::Login);
        assert_eq!(kind("GET", "/kylin/api/user/authentication;x=1"), Kind::WhoAmI);
        assert_eq!(kind("DELETE", "/kylin/api/user/authentication"), Kind::Logout);
        assert_eq!(kind("GET", "/kylin/j_spring_security_logout"), Kind::Logout);
        assert_eq!(kind("POST", "/kylin/api/j_spring_security_logout"), Kind::Logout);
        assert_eq!(kind("GET", "/kylin/logout"), Kind::Logout);
        assert_eq!(kind("POST", "/kylin/login"), Kind::Form);
        assert_eq!(kind("GET", "/kylin/login"), Kind::Other);
        assert_eq!(kind("POST", "/kylin/api/query"), Kind::Other);
        assert_eq!(kind("GET", "/"), Kind::Other);
    }

    #[test]
    fn a_form_is_read_as_the_basic_login_of_the_same_user() {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, "application/x-www-form-urlencoded; charset=UTF-8".parse().unwrap());
        let read = |body: &'static str| login_of_form(&headers, &Bytes::from_static(body.as_bytes()));
        let admin = Login::from_authorization(b"Basic QURNSU46S1lMSU4=");
        assert_eq!(read("username=ADMIN&password=KYLIN"), admin);
        assert_eq!(read("j_password=K%59LIN&remember=1&j_username=ADMIN"), admin);
        assert_eq!(read("username=a+b&password=%25"), Login::new(b"a b", b"%"));
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
        assert_eq!(login_of_form(&HeaderMap::new(), &Bytes::from_static(b"username=ADMIN&password=KYLIN")), None);
    }
}
