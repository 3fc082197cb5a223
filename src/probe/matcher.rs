//! What a good answer to a probe is. Pure: it looks at a status and at bytes.

use http::StatusCode;
use serde_json::Value;

/// An answer that speaks for a node: one of some statuses and, where asked for, something in the body.
///
/// ```
/// use http::StatusCode;
/// use kylin_lb::probe::ResponseMatcher;
///
/// let up = ResponseMatcher::status(StatusCode::OK).json_text("/status", "UP");
/// # let _ = up;
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct ResponseMatcher {
    statuses: Vec<StatusCode>,
    body: Vec<Find>,
}

/// Something that must be in a body.
#[derive(Debug, Clone)]
enum Find {
    Text(Box<[u8]>),
    /// A JSON value at a pointer (RFC 6901); none is any but null.
    Json(String, Option<Value>),
}

impl ResponseMatcher {
    /// An answer of this status, whatever its body.
    pub fn status(status: StatusCode) -> Self {
        ResponseMatcher { statuses: vec![status], body: Vec::new() }
    }

    /// This status is as good.
    pub fn or_status(mut self, status: StatusCode) -> Self {
        self.statuses.push(status);
        self
    }

    /// The body must contain `text`.
    pub fn contains(mut self, text: &str) -> Self {
        self.body.push(Find::Text(text.as_bytes().into()));
        self
    }

    /// The body must be JSON with something other than null at `pointer` (RFC 6901: `/data/status`, `` for the whole).
    pub fn json_has(self, pointer: &str) -> Self {
        self.json(pointer, None)
    }

    /// The body must be JSON with this text at `pointer`.
    pub fn json_text(self, pointer: &str, text: &str) -> Self {
        self.json(pointer, Some(text.into()))
    }

    /// The body must be JSON with this truth value at `pointer`.
    pub fn json_bool(self, pointer: &str, value: bool) -> Self {
        self.json(pointer, Some(value.into()))
    }

    fn json(mut self, pointer: &str, value: Option<Value>) -> Self {
        self.body.push(Find::Json(pointer.to_owned(), value));
        self
    }

    pub(super) fn takes_status(&self, status: StatusCode) -> bool {
        self.statuses.contains(&status)
    }

    /// `body` is none when it is longer than what is read of a body.
    pub(super) fn takes_body(&self, body: Option<&[u8]>) -> bool {
        if self.body.is_empty() {
            return true;
        }
        let Some(body) = body else { return false };
        let json = self.body.iter().any(|find| matches!(find, Find::Json(..)));
        let json: Option<Value> = json.then(|| serde_json::from_slice(body).ok()).flatten();
        self.body.iter().all(|find| match find {
            Find::Text(text) => contains(body, text),
            Find::Json(pointer, expected) => {
                let found = json.as_ref().and_then(|json| json.pointer(pointer));
                found.is_some_and(|found| expected.as_ref().map_or(!found.is_null(), |expected| found == expected))
            }
        })
    }
}

fn contains(body: &[u8], text: &[u8]) -> bool {
    text.is_empty() || body.windows(text.len()).any(|window| window == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn takes(expected: &ResponseMatcher, body: &str) -> bool {
        expected.takes_body(Some(body.as_bytes()))
    }

    #[test]
    fn a_json_field_is_looked_at_and_not_the_text() {
        let up = ResponseMatcher::status(StatusCode::OK).json_text("/status", "UP");
        assert!(takes(&up, r#"{"components":{"x":{"status":"DOWN"}},"status":"UP"}"#));
        assert!(!takes(&up, r#"{"status":"DOWN","note":"\"status\":\"UP\""}"#));
        assert!(!takes(&up, "<html>UP</html>") && !takes(&up, ""));
        let bare = ResponseMatcher::status(StatusCode::OK).json_bool("", true);
        assert!(takes(&bare, " true\n") && !takes(&bare, "false") && !takes(&bare, "\"true\""));
        let any = ResponseMatcher::status(StatusCode::OK).json_has("/kylin.version");
        assert!(takes(&any, r#"{"kylin.version":"3.1.3"}"#) && !takes(&any, r#"{"kylin.version":null}"#));
    }

    #[test]
    fn all_that_is_asked_for_must_be_there_and_the_body_not_too_long() {
        let both = ResponseMatcher::status(StatusCode::OK).contains("one").contains("two");
        assert!(takes(&both, "two, one") && !takes(&both, "one"));
        assert!(!both.takes_body(None));
        assert!(ResponseMatcher::status(StatusCode::OK).takes_body(None), "nothing is asked of the body");
    }

    proptest::proptest! {
        #[test]
        fn no_body_brings_it_down(body in proptest::collection::vec(proptest::num::u8::ANY, 0..200), deep in 0_usize..5000) {
            let expected = ResponseMatcher::status(StatusCode::OK).contains("x").json_has("/a/0/b").json_bool("", true);
            expected.takes_body(Some(&body));
            expected.takes_body(Some("[".repeat(deep).as_bytes()));
        }
    }
}
