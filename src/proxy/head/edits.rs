use std::fmt;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

pub(super) const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
pub(super) const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Edits to the headers of one request, which the proxy applies after its own. The application adds
/// the value to the request's extensions.
///
/// Edits of headers that belong to the connection or frame the body have no effect: see
/// [`allows`](Self::allows).
///
/// ```
/// use http::header::{HOST, HeaderValue};
/// use kylin_lb::proxy::HeaderEdits;
///
/// let mut request = http::Request::get("/kylin/api/projects").body(())?;
/// let edits = HeaderEdits::default().set(HOST, HeaderValue::from_static("kylin.example")).remove("x-debug".parse()?);
/// request.extensions_mut().insert(edits);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Default)]
#[must_use]
pub struct HeaderEdits(Vec<(HeaderName, Edit)>);

#[derive(Clone)]
enum Edit {
    Set(HeaderValue),
    Append(HeaderValue),
    Remove,
}

impl HeaderEdits {
    /// Sets `name` to `value`, which replaces all its values.
    pub fn set(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.push((name, Edit::Set(value)));
        self
    }

    /// Appends a header line `name` with `value` after the existing lines.
    pub fn append(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.push((name, Edit::Append(value)));
        self
    }

    /// Removes `name`.
    pub fn remove(mut self, name: HeaderName) -> Self {
        self.0.push((name, Edit::Remove));
        self
    }

    /// Returns whether there are no edits.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether `name` may be edited. Edits of a header that frames the body or belongs to
    /// the connection have no effect. A program that reads header names from its configuration can
    /// refuse such names with this method.
    pub fn allows(name: &HeaderName) -> bool {
        !is_framing(name)
    }

    pub(crate) fn apply(self, headers: &mut HeaderMap) {
        for (name, edit) in self.0 {
            if is_framing(&name) {
                continue;
            }
            match edit {
                Edit::Set(value) => _ = headers.insert(name, value),
                Edit::Append(value) => _ = headers.append(name, value),
                Edit::Remove => _ = headers.remove(name),
            }
        }
    }
}

impl fmt::Debug for HeaderEdits {
    /// Shows the names only; a value may be a credential.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

/// Returns whether a header frames the message or belongs to one connection. Edits of it would
/// split the message.
fn is_framing(name: &HeaderName) -> bool {
    static FRAMING: [HeaderName; 9] = [
        header::CONNECTION,
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        header::TE,
        header::TRAILER,
        KEEP_ALIVE,
        PROXY_CONNECTION,
        header::EXPECT,
    ];
    FRAMING.contains(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(headers: &[(&'static str, &'static str)]) -> HeaderMap {
        let header = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        headers.iter().map(header).collect()
    }

    #[test]
    fn edits_cannot_touch_framing() {
        let mut headers = map(&[("content-length", "3"), ("x-a", "1"), ("x-b", "1")]);
        HeaderEdits::default()
            .set(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"))
            .remove(header::CONTENT_LENGTH)
            .set(HeaderName::from_static("x-a"), HeaderValue::from_static("2"))
            .append(header::CONTENT_LENGTH, HeaderValue::from_static("4"))
            .append(HeaderName::from_static("x-a"), HeaderValue::from_static("3"))
            .remove(HeaderName::from_static("x-b"))
            .apply(&mut headers);
        assert_eq!(headers, map(&[("content-length", "3"), ("x-a", "2"), ("x-a", "3")]));
    }
}
