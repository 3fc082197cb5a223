//! The headers that events show. They are collected in the same pass over all headers that checks
//! them.

use http::header::{self, HeaderName, HeaderValue};

use crate::basic_auth;

pub(super) static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The headers of a request that events show, borrowed from its head. If several have one name, the
/// first counts.
#[derive(Default)]
pub(crate) struct BorrowedHeaders<'h> {
    authorization: Option<&'h HeaderValue>,
    request_id: Option<&'h HeaderValue>,
    request_ids: usize,
    traceparent: Option<&'h HeaderValue>,
    referer: Option<&'h HeaderValue>,
    user_agent: Option<&'h HeaderValue>,
}

/// The headers of a request that events show.
#[derive(Default)]
pub(crate) struct ShownHeaders {
    /// The user name of Basic credentials.
    pub(super) user: Option<Box<str>>,
    /// The id that the client sent, if it may be passed on.
    pub(super) request_id: Option<HeaderValue>,
    pub(super) traceparent: Option<HeaderValue>,
    pub(super) referer: Option<HeaderValue>,
    pub(super) user_agent: Option<HeaderValue>,
}

impl<'h> BorrowedHeaders<'h> {
    /// Records a header if events show it.
    #[inline]
    pub(crate) fn note(&mut self, name: &HeaderName, value: &'h HeaderValue) {
        match *name {
            header::AUTHORIZATION => _ = self.authorization.get_or_insert(value),
            header::REFERER => _ = self.referer.get_or_insert(value),
            header::USER_AGENT => _ = self.user_agent.get_or_insert(value),
            // The length is matched first, so that most names need no comparison.
            _ => match name.as_str().len() {
                11 if *name == TRACEPARENT => _ = self.traceparent.get_or_insert(value),
                12 if *name == X_REQUEST_ID => {
                    (self.request_id, self.request_ids) = (Some(value), self.request_ids + 1)
                }
                _ => {}
            },
        }
    }

    pub(crate) fn to_owned(&self) -> ShownHeaders {
        let is_id = |id: &&&HeaderValue| self.request_ids == 1 && is_request_id(id.as_bytes());
        ShownHeaders {
            user: self.authorization.and_then(user),
            request_id: self.request_id.as_ref().filter(is_id).copied().cloned(),
            traceparent: self.traceparent.filter(|value| is_traceparent(value.as_bytes())).cloned(),
            referer: self.referer.cloned(),
            user_agent: self.user_agent.cloned(),
        }
    }
}

/// Returns the user name of Basic credentials.
fn user(authorization: &HeaderValue) -> Option<Box<str>> {
    let mut decoded = [0; 96];
    let name = match authorization.len() {
        // The capacity, as a length in base64.
        ..=128 => Box::from(basic_auth::user_in(authorization, &mut decoded)?),
        _ => basic_auth::user(authorization)?.into_boxed_slice(),
    };
    String::from_utf8(name.into_vec()).ok().map(String::into_boxed_str)
}

/// The maximum length of an `x-request-id` that is passed on, in bytes.
const MAX_REQUEST_ID: usize = 128;

/// Returns whether `id` can be written to logs and traces unchanged.
pub(super) fn is_request_id(id: &[u8]) -> bool {
    (1..=MAX_REQUEST_ID).contains(&id.len())
        && id.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:+/=@".contains(byte))
}

/// Returns whether `value` is a `traceparent`: `VERSION-TRACE-PARENT-FLAGS` in lower-case
/// hexadecimal digits.
fn is_traceparent(value: &[u8]) -> bool {
    let hex = |part: &[u8]| part.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let zero = |part: &[u8]| part.iter().all(|byte| *byte == b'0');
    let mut parts = value.splitn(5, |byte| *byte == b'-');
    let (Some(version), Some(trace), Some(parent), Some(flags)) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    let lengths = (version.len(), trace.len(), parent.len(), flags.len()) == (2, 32, 16, 2);
    // Later versions may add parts; version 0 has none, and 255 is not allowed.
    let is_ended = parts.next().is_none() || version != b"00";
    lengths
        && is_ended
        && version != b"ff"
        && [version, trace, parent, flags].into_iter().all(hex)
        && !zero(trace)
        && !zero(parent)
        && value.len() <= 512
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_could_forge_a_log_line_are_not_taken() {
        for good in ["a", "0af7651916cd43dd8448eb211c80319c", "req-1.2:3", &"x".repeat(128)] {
            assert!(is_request_id(good.as_bytes()), "{good}");
        }
        for bad in ["", "a b", "a\"b", "a\tb", "é", "<x>", &"x".repeat(129)] {
            assert!(!is_request_id(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn a_traceparent_has_the_form_of_w3c() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert!(is_traceparent(good.as_bytes()));
        assert!(is_traceparent(b"01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more"));
        for bad in [
            "",
            "00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
        ] {
            assert!(!is_traceparent(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn users_of_all_lengths_are_read() {
        for length in [1, 5, 80, 90, 100, 200, 1000] {
            let name = "u".repeat(length);
            let value = basic_auth::authorization(&name, "secret").unwrap();
            assert_eq!(user(&value).as_deref(), Some(&*name));
        }
        assert_eq!(user(&HeaderValue::from_static("Bearer x")), None);
        assert_eq!(user(&HeaderValue::from_static("Basic /zpw")), None, "not UTF-8");
    }
}
