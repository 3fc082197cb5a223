use http::StatusCode;
use serde_json::Value;

/// Matches the responses that show a healthy node: by status and, optionally, by the body.
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
    conditions: Vec<BodyCondition>,
}

#[derive(Debug, Clone)]
enum BodyCondition {
    Contains(Box<[u8]>),
    /// The JSON value at a pointer (RFC 6901); `None` matches any value except null.
    Json(String, Option<Value>),
    JsonObject,
}

impl ResponseMatcher {
    /// Matches responses with this status, regardless of the body.
    pub fn status(status: StatusCode) -> Self {
        ResponseMatcher { statuses: vec![status], conditions: Vec::new() }
    }

    /// Accepts another status.
    pub fn or_status(mut self, status: StatusCode) -> Self {
        self.statuses.push(status);
        self
    }

    /// Requires that the body contains `text`.
    pub fn contains(mut self, text: &str) -> Self {
        self.conditions.push(BodyCondition::Contains(text.as_bytes().into()));
        self
    }

    /// Requires that the body is JSON with something other than null at `pointer` (RFC 6901:
    /// `/data/status`, or an empty pointer for the whole).
    pub fn json_has(self, pointer: &str) -> Self {
        self.json(pointer, None)
    }

    /// Requires that the body is JSON with this text at `pointer`.
    pub fn json_text(self, pointer: &str, text: &str) -> Self {
        self.json(pointer, Some(text.into()))
    }

    /// Requires that the body is JSON with this boolean at `pointer`.
    pub fn json_bool(self, pointer: &str, value: bool) -> Self {
        self.json(pointer, Some(value.into()))
    }

    /// Requires that the body is a JSON object, which may be empty.
    pub(super) fn json_object(mut self) -> Self {
        self.conditions.push(BodyCondition::JsonObject);
        self
    }

    fn json(mut self, pointer: &str, value: Option<Value>) -> Self {
        self.conditions.push(BodyCondition::Json(pointer.to_owned(), value));
        self
    }

    pub(super) fn matches_status(&self, status: StatusCode) -> bool {
        self.statuses.contains(&status)
    }

    /// Returns whether the body matches. `body` is `None` if it is too long to be read.
    pub(super) fn matches_body(&self, body: Option<&[u8]>) -> bool {
        if self.conditions.is_empty() {
            return true;
        }
        let Some(body) = body else { return false };
        let needs_json = self.conditions.iter().any(|condition| !matches!(condition, BodyCondition::Contains(_)));
        let json: Option<Value> = needs_json.then(|| serde_json::from_slice(body).ok()).flatten();
        self.conditions.iter().all(|condition| match condition {
            BodyCondition::Contains(text) => contains(body, text),
            BodyCondition::JsonObject => json.as_ref().is_some_and(Value::is_object),
            BodyCondition::Json(pointer, expected) => {
                let value = json.as_ref().and_then(|json| json.pointer(pointer));
                value.is_some_and(|value| expected.as_ref().map_or(!value.is_null(), |expected| value == expected))
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

    fn matches(expected: &ResponseMatcher, body: &str) -> bool {
        expected.matches_body(Some(body.as_bytes()))
    }

    #[test]
    fn json_is_compared_by_value_and_not_as_text() {
        let up = ResponseMatcher::status(StatusCode::OK).json_text("/status", "UP");
        assert!(matches(&up, r#"{"components":{"x":{"status":"DOWN"}},"status":"UP"}"#));
        assert!(!matches(&up, r#"{"status":"DOWN","note":"\"status\":\"UP\""}"#));
        assert!(!matches(&up, "<html>UP</html>") && !matches(&up, ""));
        let bare = ResponseMatcher::status(StatusCode::OK).json_bool("", true);
        assert!(matches(&bare, " true\n") && !matches(&bare, "false") && !matches(&bare, "\"true\""));
        let any = ResponseMatcher::status(StatusCode::OK).json_has("/kylin.version");
        assert!(matches(&any, r#"{"kylin.version":"3.1.3"}"#) && !matches(&any, r#"{"kylin.version":null}"#));
    }

    #[test]
    fn every_condition_must_hold_and_the_body_must_not_be_too_long() {
        let both = ResponseMatcher::status(StatusCode::OK).contains("one").contains("two");
        assert!(matches(&both, "two, one") && !matches(&both, "one"));
        assert!(!both.matches_body(None));
        assert!(ResponseMatcher::status(StatusCode::OK).matches_body(None), "the body does not matter");
    }

    proptest::proptest! {
        #[test]
        fn no_body_makes_it_panic(body in proptest::collection::vec(proptest::num::u8::ANY, 0..200), deep in 0_usize..5000) {
            let expected = ResponseMatcher::status(StatusCode::OK).contains("x").json_has("/a/0/b").json_bool("", true);
            expected.matches_body(Some(&body));
            expected.matches_body(Some("[".repeat(deep).as_bytes()));
        }
    }
}
