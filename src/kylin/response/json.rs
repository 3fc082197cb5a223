//! The top-level members of a JSON object that may be truncated anywhere.
//!
//! A response is classified by the first kilobytes of its body. A parser that needs the whole body
//! cannot do that, and a text search would find text that a user wrote into a string. This parser
//! walks over the text once, allocates nothing, and stops at the truncation or at the first syntax
//! error.
//!
//! A `serde` visitor that keeps the members before the truncation would be shorter. But it can stop
//! early only with an error, which costs 2,000 instructions more for each result of a query:
//! benches/README.md.

use std::borrow::Cow;
use std::ops::ControlFlow;

use memchr::memchr2;

/// The depth of nested containers. Deeper ones end the walk.
const MAX_DEPTH: u32 = 64;

/// The level of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    /// In the outermost object.
    Top,
    /// In the object `data` of the outermost object: the envelope of Kylin 5.
    Data,
}

/// The value of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value<'b> {
    /// A string, up to the truncation.
    Text(Text<'b>),
    /// `true`, `false`, `null` or a number, as written.
    Bare(&'b str),
    /// An array, whose elements are not reported.
    Array {
        /// The array certainly has elements.
        filled: bool,
    },
    /// An object, whose members are reported only for `data`.
    Object,
}

/// A string as written. The visitor decodes only the strings that it needs, and so no stack traces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Text<'b> {
    bytes: &'b [u8],
    has_escapes: bool,
}

/// Calls `visit` with each member in the order of the text, until `visit` breaks. An array is
/// reported when it begins.
pub(super) fn members<'b>(text: &'b [u8], mut visit: impl FnMut(Level, &[u8], Value<'b>) -> ControlFlow<()>) {
    // Callers do not need to know why the walk ended.
    let _ = Walk { text, at: 0 }.document(&mut visit);
}

/// Calls `visit` like [`members`], and returns whether the text is one whole object.
pub(super) fn whole_members<'b>(
    text: &'b [u8],
    mut visit: impl FnMut(Level, &[u8], Value<'b>) -> ControlFlow<()>,
) -> bool {
    let mut walk = Walk { text, at: 0 };
    walk.document(&mut visit).is_some() && walk.peek().is_none()
}

/// `None` ends the walk: the visitor breaks, the text ends, or its syntax is wrong.
type Step<T = ()> = Option<T>;

struct Walk<'b> {
    text: &'b [u8],
    at: usize,
}

impl<'b> Walk<'b> {
    fn document(&mut self, visit: &mut impl FnMut(Level, &[u8], Value<'b>) -> ControlFlow<()>) -> Step {
        self.expect(b'{')?;
        self.object(Level::Top, visit)
    }

    /// Walks over the members of an object after its brace.
    fn object(&mut self, level: Level, visit: &mut impl FnMut(Level, &[u8], Value<'b>) -> ControlFlow<()>) -> Step {
        if self.peek()? == b'}' {
            self.at += 1;
            return Some(());
        }
        loop {
            self.expect(b'"')?;
            let (name, is_complete) = self.string();
            is_complete.then_some(())?;
            let name = name.bytes();
            let mut report = |value| visit(level, &name, value).is_continue().then_some(());
            self.expect(b':')?;
            match self.peek()? {
                b'"' => {
                    self.at += 1;
                    let (value, is_complete) = self.string();
                    report(Value::Text(value))?;
                    is_complete.then_some(())?;
                }
                b'{' => {
                    report(Value::Object)?;
                    if level == Level::Top && *name == *b"data" {
                        self.at += 1;
                        self.object(Level::Data, visit)?;
                    } else {
                        self.skip()?;
                    }
                }
                b'[' => {
                    let next = self.text[self.at + 1..].iter().find(|byte| !byte.is_ascii_whitespace());
                    report(Value::Array { filled: next.is_some_and(|&byte| byte != b']') })?;
                    self.skip()?;
                }
                _ => {
                    let value = self.bare()?;
                    report(Value::Bare(value))?;
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

    /// Skips a container without recursion.
    fn skip(&mut self) -> Step {
        // One bit per open container: 1 for an object. Only strings and brackets matter for the end
        // of the container.
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
                b'"' => self.string().1.then_some(())?,
                _ => {}
            }
        }
    }

    /// Takes the string after its opening quote, and returns whether its closing quote is there.
    fn string(&mut self) -> (Text<'b>, bool) {
        let (rest, mut at, mut has_escapes) = (&self.text[self.at..], 0, false);
        while let Some(found) = rest.get(at..).and_then(|rest| memchr2(b'"', b'\\', rest)) {
            at += found;
            if rest[at] == b'"' {
                self.at += at + 1;
                return (Text { bytes: &rest[..at], has_escapes }, true);
            }
            has_escapes = true;
            at += 2;
        }
        self.at = self.text.len();
        (Text { bytes: rest, has_escapes }, false)
    }

    /// Takes a value without quotes or brackets. It is complete only if something follows.
    fn bare(&mut self) -> Step<&'b str> {
        let rest = &self.text[self.at..];
        let len = rest.iter().position(|byte| byte.is_ascii_whitespace() || b",}]".contains(byte))?;
        let word = std::str::from_utf8(&rest[..len]).ok()?;
        let is_number = word.starts_with(|c: char| c == '-' || c.is_ascii_digit());
        if !is_number && !matches!(word, "true" | "false" | "null") {
            return None;
        }
        self.at += len;
        Some(word)
    }

    /// Returns the next byte that is not a blank, without taking it.
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

impl<'b> Text<'b> {
    /// Returns the bytes of the decoded text.
    fn bytes(self) -> Cow<'b, [u8]> {
        if self.has_escapes { Cow::Owned(self.decode().into_owned().into_bytes()) } else { Cow::Borrowed(self.bytes) }
    }

    /// Decodes the escapes. An invalid escape or invalid UTF-8 becomes U+FFFD, because such a text
    /// only has to differ from known ones.
    pub(super) fn decode(self) -> Cow<'b, str> {
        let text = String::from_utf8_lossy(self.bytes);
        if !self.has_escapes {
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
                Some('u') => unicode_escape(&mut chars),
                Some(c @ ('"' | '\\' | '/')) => c,
                _ => char::REPLACEMENT_CHARACTER,
            });
        }
        Cow::Owned(out)
    }
}

/// Decodes an escape after its `\u`, and the second half of a surrogate pair.
fn unicode_escape(chars: &mut std::str::Chars<'_>) -> char {
    let Some(first) = code_unit(chars) else { return char::REPLACEMENT_CHARACTER };
    let mut ahead = chars.clone();
    let second = match (ahead.next(), ahead.next()) {
        (Some('\\'), Some('u')) if (0xd800..0xdc00).contains(&first) => code_unit(&mut ahead),
        _ => None,
    };
    match second.and_then(|second| char::decode_utf16([first, second]).next()) {
        Some(Ok(pair)) => {
            *chars = ahead;
            pair
        }
        _ => char::from_u32(first.into()).unwrap_or(char::REPLACEMENT_CHARACTER),
    }
}

/// Decodes four hexadecimal digits.
fn code_unit(chars: &mut std::str::Chars<'_>) -> Option<u16> {
    (0..4).try_fold(0, |unit, _| Some(unit << 4 | chars.next()?.to_digit(16)? as u16))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value as Json, json};

    use super::*;

    /// Returns the members: strings decoded, an array as `["array", filled]`, an object as
    /// `["object"]`.
    fn all(text: &[u8]) -> Vec<(Level, String, Json)> {
        let mut all = Vec::new();
        members(text, |level, name, value| {
            let value = match value {
                Value::Text(text) => json!(text.decode()),
                Value::Bare(word) => serde_json::from_str(word).unwrap_or(json!(word)),
                Value::Array { filled } => json!(["array", filled]),
                Value::Object => json!(["object"]),
            };
            all.push((level, String::from_utf8_lossy(name).into_owned(), value));
            ControlFlow::Continue(())
        });
        all
    }

    #[test]
    fn reports_members_at_the_top_and_in_the_envelope_only() {
        let text = br#" { "code" : "0\u0030\n0", "data":{"isException":true,"results":[["\"msg\":\"x"]],"x":{"msg":"no"},"e":[ ]},
            "m\u0073g":"\ud83d\ude00\/", "n": -1.5e3 ,"deep":{"msg":"no","data":{"msg":"no"}},"last":null} trailing"#;
        use Level::*;
        assert_eq!(
            all(text),
            [
                (Top, "code".to_owned(), json!("00\n0")),
                (Top, "data".to_owned(), json!(["object"])),
                (Data, "isException".to_owned(), json!(true)),
                (Data, "results".to_owned(), json!(["array", true])),
                (Data, "x".to_owned(), json!(["object"])),
                (Data, "e".to_owned(), json!(["array", false])),
                (Top, "msg".to_owned(), json!("😀/")),
                (Top, "n".to_owned(), json!(-1.5e3)),
                (Top, "deep".to_owned(), json!(["object"])),
                (Top, "last".to_owned(), Json::Null),
            ]
        );
    }

    #[test]
    fn a_nested_envelope_is_not_opened() {
        let found: Vec<(Level, String)> = all(br#"{"data":{"data":{"msg":"no"},"msg":"x"}}"#)
            .into_iter()
            .map(|(level, key, _)| (level, key))
            .collect();
        let field = |level, key: &str| (level, key.to_owned());
        assert_eq!(found, [field(Level::Top, "data"), field(Level::Data, "data"), field(Level::Data, "msg")]);
    }

    #[test]
    fn stops_at_a_syntax_error() {
        assert_eq!(all(b"<html>"), []);
        assert_eq!(all(b"[{\"a\":1}]"), []);
        assert_eq!(all(b"{\"a\":1 \"b\":2}").len(), 1);
        assert_eq!(all(b"{\"a\":x,\"b\":2}").len(), 0);
        assert_eq!(all(b"{\"a\":[}],\"b\":2}").len(), 1);
        assert_eq!(all(b"{\"a\":tru").len(), 0);
        assert_eq!(all(b"{\"a\":\"cut"), [(Level::Top, "a".to_owned(), json!("cut"))]);
        assert_eq!(all(b"{\"a\":\"cut\\"), [(Level::Top, "a".to_owned(), json!("cut\u{fffd}"))]);
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

    /// Returns the expected members according to serde_json, which parses the whole text.
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

    proptest! {
        #[test]
        fn reports_what_a_full_parser_finds(object in any_json(), pretty: bool) {
            let text = if pretty { serde_json::to_string_pretty(&object) } else { serde_json::to_string(&object) }.unwrap();
            let found = all(text.as_bytes());
            let map = object.as_object().cloned().unwrap_or_default();
            prop_assert_eq!(found, expected(&map, Level::Top));
        }

        #[test]
        fn a_cut_text_reports_its_beginning(object in any_json(), cut in 0.0..1.0_f64) {
            let text = serde_json::to_string(&json!({"data": object, "msg": "x"})).unwrap();
            let whole = all(text.as_bytes());
            let cut = (text.len() as f64 * cut) as usize;
            let part = all(&text.as_bytes()[..cut]);
            prop_assert!(part.len() <= whole.len());
            for (at, (part_of, of)) in part.iter().zip(&whole).enumerate() {
                let last = at + 1 == part.len();
                prop_assert_eq!((&part_of.0, &part_of.1), (&of.0, &of.1));
                let may_differ = last || of.2.is_array();
                prop_assert!(may_differ || part_of.2 == of.2);
            }
        }

        #[test]
        fn no_bytes_panic(text in prop::collection::vec(any::<u8>(), 0..60), json in "[{}\\[\\]\",:\\\\a1tu ]{0,40}") {
            all(&text);
            all(json.as_bytes());
            all(["{", &json].concat().as_bytes());
        }
    }
}
