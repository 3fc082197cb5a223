//! The fields at the top of a JSON object of which perhaps only the beginning is there.
//!
//! An answer is judged by the first kilobytes of its body; a parser that wants all of it cannot do that, and a search for text
//! would find what a user wrote into a string. This walks over the text once, holds nothing, and stops where it stops making
//! sense.

use std::borrow::Cow;
use std::ops::ControlFlow;

/// How deep containers may be nested; what is deeper is not looked at.
const MAX_DEPTH: u32 = 64;

/// Where a field stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    /// In the outermost object.
    Top,
    /// In the object `data` of the outermost object: the envelope of Kylin 5.
    Data,
}

/// The value of a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value<'b> {
    /// A string; where the text ends within it, what there is of it.
    Text(Cow<'b, str>),
    /// `true`, `false`, `null` or a number, as written.
    Bare(&'b str),
    /// An array. What is in it is not reported.
    Array {
        /// Is it certain that it has elements?
        filled: bool,
    },
    /// An object. What is in it is reported only for `data`.
    Object,
}

/// Calls `visit` with each field, in the order of the text. An array is reported when it begins.
pub(super) fn members<'b>(text: &'b [u8], mut visit: impl FnMut(Level, &str, Value<'b>) -> ControlFlow<()>) {
    // Nothing else matters where the walk ends.
    let _ = Walk { text, at: 0 }.document(&mut visit);
}

/// Stops for good: the visitor has enough, the text ends, or it is no JSON.
type Step<T = ()> = Option<T>;

struct Walk<'b> {
    text: &'b [u8],
    at: usize,
}

impl<'b> Walk<'b> {
    fn document(&mut self, visit: &mut impl FnMut(Level, &str, Value<'b>) -> ControlFlow<()>) -> Step {
        self.expect(b'{')?;
        self.object(Level::Top, visit)
    }

    /// The fields of an object behind its brace.
    fn object(&mut self, level: Level, visit: &mut impl FnMut(Level, &str, Value<'b>) -> ControlFlow<()>) -> Step {
        if self.peek()? == b'}' {
            self.at += 1;
            return Some(());
        }
        loop {
            self.expect(b'"')?;
            let (key, whole) = self.string();
            if !whole {
                return None;
            }
            self.expect(b':')?;
            match self.peek()? {
                b'"' => {
                    self.at += 1;
                    let (value, whole) = self.string();
                    go_on(visit(level, &key, Value::Text(value)))?;
                    whole.then_some(())?;
                }
                b'{' => {
                    go_on(visit(level, &key, Value::Object))?;
                    if level == Level::Top && key == "data" {
                        self.at += 1;
                        self.object(Level::Data, visit)?;
                    } else {
                        self.skip()?;
                    }
                }
                b'[' => {
                    let next = self.text[self.at + 1..].iter().find(|byte| !byte.is_ascii_whitespace());
                    go_on(visit(level, &key, Value::Array { filled: next.is_some_and(|&byte| byte != b']') }))?;
                    self.skip()?;
                }
                _ => {
                    let value = self.bare()?;
                    go_on(visit(level, &key, Value::Bare(value)))?;
                }
            }
            match self.peek()? {
                b',' => self.at += 1,
                b'}' => {
                    self.at += 1;
                    return Some(());
                }
                _ => return None,
            }
        }
    }

    /// Passes over a container, without recursion.
    fn skip(&mut self) -> Step {
        // One bit for each open container: is it an object? What stands between brackets is taken as it comes, for only
        // strings and brackets matter for finding the end.
        let (mut objects, mut depth) = (0_u64, 0);
        loop {
            let byte = self.peek()?;
            self.at += 1;
            match byte {
                b'{' | b'[' => {
                    if depth == MAX_DEPTH {
                        return None;
                    }
                    objects = objects << 1 | u64::from(byte == b'{');
                    depth += 1;
                }
                b'}' | b']' => {
                    if (objects & 1 == 1) != (byte == b'}') {
                        return None;
                    }
                    objects >>= 1;
                    depth -= 1;
                    if depth == 0 {
                        return Some(());
                    }
                }
                b'"' => self.skip_string()?,
                _ => {}
            }
        }
    }

    /// The end of a string's text, and whether its quote is there.
    fn string_end(&self) -> (usize, bool) {
        let mut at = self.at;
        while let Some(&byte) = self.text.get(at) {
            match byte {
                b'"' => return (at, true),
                b'\\' => at += 2,
                _ => at += 1,
            }
        }
        (self.text.len(), false)
    }

    fn skip_string(&mut self) -> Step {
        let (end, whole) = self.string_end();
        self.at = end + 1;
        whole.then_some(())
    }

    /// The string behind its quote, with escapes undone.
    fn string(&mut self) -> (Cow<'b, str>, bool) {
        let (end, whole) = self.string_end();
        let raw = &self.text[self.at..end];
        self.at = (end + 1).min(self.text.len());
        (unescape(raw), whole)
    }

    /// A value without quotes or brackets. Only one that something follows is whole.
    fn bare(&mut self) -> Step<&'b str> {
        let rest = &self.text[self.at..];
        let len = rest.iter().position(|byte| byte.is_ascii_whitespace() || b",}]".contains(byte))?;
        let word = std::str::from_utf8(&rest[..len]).ok()?;
        let number = word.starts_with(|c: char| c == '-' || c.is_ascii_digit());
        if !number && !matches!(word, "true" | "false" | "null") {
            return None;
        }
        self.at += len;
        Some(word)
    }

    /// The next byte that is no blank, not taken.
    fn peek(&mut self) -> Step<u8> {
        while self.text.get(self.at)?.is_ascii_whitespace() {
            self.at += 1;
        }
        self.text.get(self.at).copied()
    }

    fn expect(&mut self, byte: u8) -> Step {
        (self.peek()? == byte).then(|| self.at += 1)
    }
}

fn go_on(flow: ControlFlow<()>) -> Step {
    flow.is_continue().then_some(())
}

/// Undoes escapes; what is no valid escape or no UTF-8 becomes U+FFFD, for such a text only has to differ from all known ones.
fn unescape(raw: &[u8]) -> Cow<'_, str> {
    let text = String::from_utf8_lossy(raw);
    if !text.contains('\\') {
        return text;
    }
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        out.push(match chars.next() {
            Some('n') => '\n',
            Some('t') => '\t',
            Some('r') => '\r',
            Some('b') => '\u{8}',
            Some('f') => '\u{c}',
            Some('u') => {
                let Some(first) = unit(&mut chars) else {
                    out.push(char::REPLACEMENT_CHARACTER);
                    continue;
                };
                let mut ahead = chars.clone();
                let second = match (ahead.next(), ahead.next()) {
                    (Some('\\'), Some('u')) if (0xd800..0xdc00).contains(&first) => unit(&mut ahead),
                    _ => None,
                };
                match second.and_then(|second| char::decode_utf16([first, second]).next()) {
                    Some(Ok(pair)) => {
                        chars = ahead;
                        pair
                    }
                    _ => char::from_u32(first.into()).unwrap_or(char::REPLACEMENT_CHARACTER),
                }
            }
            Some(c @ ('"' | '\\' | '/')) => c,
            _ => char::REPLACEMENT_CHARACTER,
        });
    }
    Cow::Owned(out)
}

/// Four hexadecimal digits.
fn unit(chars: &mut std::str::Chars<'_>) -> Option<u16> {
    (0..4).try_fold(0, |unit, _| Some(unit << 4 | chars.next()?.to_digit(16)? as u16))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value as Json, json};

    use super::*;

    fn all(text: &[u8]) -> Vec<(Level, String, Value<'_>)> {
        let mut found = Vec::new();
        members(text, |level, key, value| {
            found.push((level, key.to_owned(), value));
            ControlFlow::Continue(())
        });
        found
    }

    #[test]
    fn finds_fields_at_the_top_and_in_the_envelope_only() {
        let text = br#" { "code" : "0\u0030\n0", "data":{"isException":true,"results":[["\"msg\":\"x"]],"x":{"msg":"no"},"e":[ ]},
            "m\u0073g":"\ud83d\ude00\/", "n": -1.5e3 ,"deep":{"msg":"no","data":{"msg":"no"}},"last":null} trailing"#;
        use Level::*;
        let text_of = |text: &str| Value::Text(Cow::Owned(text.to_owned()));
        assert_eq!(
            all(text),
            [
                (Top, "code".to_owned(), text_of("00\n0")),
                (Top, "data".to_owned(), Value::Object),
                (Data, "isException".to_owned(), Value::Bare("true")),
                (Data, "results".to_owned(), Value::Array { filled: true }),
                (Data, "x".to_owned(), Value::Object),
                (Data, "e".to_owned(), Value::Array { filled: false }),
                (Top, "msg".to_owned(), text_of("😀/")),
                (Top, "n".to_owned(), Value::Bare("-1.5e3")),
                (Top, "deep".to_owned(), Value::Object),
                (Top, "last".to_owned(), Value::Bare("null")),
            ]
        );
    }

    #[test]
    fn an_envelope_in_an_envelope_is_not_opened() {
        let found: Vec<(Level, String)> = all(br#"{"data":{"data":{"msg":"no"},"msg":"x"}}"#)
            .into_iter()
            .map(|(level, key, _)| (level, key))
            .collect();
        let field = |level, key: &str| (level, key.to_owned());
        assert_eq!(found, [field(Level::Top, "data"), field(Level::Data, "data"), field(Level::Data, "msg")]);
    }

    #[test]
    fn stops_where_it_is_no_json() {
        assert_eq!(all(b"<html>"), []);
        assert_eq!(all(b"[{\"a\":1}]"), []);
        assert_eq!(all(b"{\"a\":1 \"b\":2}").len(), 1);
        assert_eq!(all(b"{\"a\":x,\"b\":2}").len(), 0);
        assert_eq!(all(b"{\"a\":[}],\"b\":2}").len(), 1);
        assert_eq!(all(b"{\"a\":tru").len(), 0);
        assert_eq!(all(b"{\"a\":\"cut"), [(Level::Top, "a".to_owned(), Value::Text("cut".into()))]);
        assert_eq!(all(b"{\"a\":\"cut\\"), [(Level::Top, "a".to_owned(), Value::Text("cut\u{fffd}".into()))]);
        let deep = format!("{{\"a\":{}1{},\"b\":1}}", "[".repeat(1000), "]".repeat(1000));
        assert_eq!(all(deep.as_bytes()).len(), 1);
    }

    fn any_json() -> impl Strategy<Value = Json> {
        let leaf = prop_oneof![
            Just(Json::Null),
            any::<bool>().prop_map(Json::from),
            any::<i32>().prop_map(Json::from),
            ".{0,8}".prop_map(Json::from),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Json::from),
                prop::collection::btree_map("data|msg|code|.{0,3}", inner, 0..4)
                    .prop_map(|map| Json::Object(map.into_iter().collect())),
            ]
        })
    }

    /// What serde_json, which reads all of the text, says that should be found.
    fn expected(object: &Map<String, Json>, level: Level) -> Vec<(Level, String, Json)> {
        let mut found = Vec::new();
        for (key, value) in object {
            let seen = match value {
                Json::Array(items) => json!(["array", !items.is_empty()]),
                Json::Object(_) => json!(["object"]),
                other => other.clone(),
            };
            found.push((level, key.clone(), seen));
            if let (Json::Object(inner), Level::Top, "data") = (value, level, &**key) {
                found.extend(expected(inner, Level::Data));
            }
        }
        found
    }

    fn as_json(value: &Value<'_>) -> Json {
        match value {
            Value::Text(text) => json!(text),
            Value::Bare(word) => serde_json::from_str(word).unwrap(),
            Value::Array { filled } => json!(["array", filled]),
            Value::Object => json!(["object"]),
        }
    }

    proptest! {
        #[test]
        fn sees_what_a_whole_parser_sees(object in any_json(), pretty: bool) {
            let text = if pretty { serde_json::to_string_pretty(&object) } else { serde_json::to_string(&object) }.unwrap();
            let found: Vec<_> = all(text.as_bytes()).iter().map(|(level, key, value)| (*level, key.clone(), as_json(value))).collect();
            let map = object.as_object().cloned().unwrap_or_default();
            prop_assert_eq!(found, expected(&map, Level::Top));
        }

        #[test]
        fn a_beginning_shows_the_beginning(object in any_json(), cut in 0.0..1.0_f64) {
            let text = serde_json::to_string(&json!({"data": object, "msg": "x"})).unwrap();
            let whole = all(text.as_bytes());
            let cut = (text.len() as f64 * cut) as usize;
            let part = all(&text.as_bytes()[..cut]);
            prop_assert!(part.len() <= whole.len());
            for (at, (part_of, of)) in part.iter().zip(&whole).enumerate() {
                let last = at + 1 == part.len();
                prop_assert_eq!((&part_of.0, &part_of.1), (&of.0, &of.1));
                let may_differ = last || matches!(of.2, Value::Array { .. });
                prop_assert!(may_differ || part_of.2 == of.2);
            }
        }

        #[test]
        fn any_bytes_do(text in prop::collection::vec(any::<u8>(), 0..60), json in "[{}\\[\\]\",:\\\\a1tu ]{0,40}") {
            all(&text);
            all(json.as_bytes());
            all(["{", &json].concat().as_bytes());
        }
    }
}
