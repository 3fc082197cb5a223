use std::fmt::Write as _;
use std::time::Duration;

/// The requests to which browsers add a cookie (RFC 6265bis, 4.1.2.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SameSite {
    /// Requests from pages of the same site.
    Strict,
    /// Requests from pages of the same site, and navigation through links from other sites.
    Lax,
    /// All requests. Browsers require `Secure` with it.
    None,
}

/// The error for a text that cannot be part of a `Set-Cookie` header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} cannot be the {part} of a cookie")]
pub struct InvalidCookie {
    text: String,
    part: &'static str,
}

impl InvalidCookie {
    pub(crate) fn new(text: impl Into<String>, part: &'static str) -> Self {
        InvalidCookie { text: text.into(), part }
    }

    /// Returns the invalid part of the cookie: `name`, `path` or `domain`.
    pub fn part(&self) -> &'static str {
        self.part
    }
}

/// The name and the attributes of one of the front end's own cookies.
#[derive(Debug, Clone)]
pub(crate) struct Attributes {
    name: String,
    path: String,
    domain: Option<String>,
    pub(crate) secure: bool,
    pub(crate) http_only: bool,
    pub(crate) same_site: Option<SameSite>,
}

impl Attributes {
    /// Returns a cookie with `HttpOnly; SameSite=Lax`.
    pub(crate) fn new(name: &str, path: &str) -> Self {
        let (name, path) = (name.to_owned(), path.to_owned());
        Attributes { name, path, domain: None, secure: false, http_only: true, same_site: Some(SameSite::Lax) }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn set_name(&mut self, name: String) -> Result<(), InvalidCookie> {
        self.name = named(name)?;
        Ok(())
    }

    pub(crate) fn set_path(&mut self, path: String) -> Result<(), InvalidCookie> {
        if !path.starts_with('/') || !is_attribute(&path) {
            return Err(InvalidCookie::new(path, "path"));
        }
        self.path = path;
        Ok(())
    }

    pub(crate) fn set_domain(&mut self, domain: String) -> Result<(), InvalidCookie> {
        if domain.is_empty() || domain.contains(' ') || !is_attribute(&domain) {
            return Err(InvalidCookie::new(domain, "domain"));
        }
        self.domain = Some(domain);
        Ok(())
    }

    /// Appends the `Set-Cookie` value that sets the cookie to `value`.
    pub(crate) fn write(&self, value: &str, max_age: Option<Duration>, line: &mut String) {
        let _ = write!(line, "{}={value}; Path={}", self.name, self.path);
        if let Some(domain) = &self.domain {
            let _ = write!(line, "; Domain={domain}");
        }
        if let Some(max_age) = max_age {
            let _ = write!(line, "; Max-Age={}", max_age.as_secs());
        }
        for (is_set, attribute) in [(self.http_only, "; HttpOnly"), (self.secure, "; Secure")] {
            line.push_str(if is_set { attribute } else { "" });
        }
        if let Some(same_site) = self.same_site {
            let _ = write!(line, "; SameSite={same_site:?}");
        }
    }
}

/// Returns `name`, or an error if it is not a token (RFC 6265, 4.1.1), so that no cookie can have
/// it.
pub(crate) fn named(name: String) -> Result<String, InvalidCookie> {
    let is_token = |byte: u8| byte.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?={}".contains(&byte);
    if name.is_empty() || !name.bytes().all(is_token) {
        return Err(InvalidCookie::new(name, "name"));
    }
    Ok(name)
}

/// Returns whether `text` may be the value of an attribute.
fn is_attribute(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b';')
}
