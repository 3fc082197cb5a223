//! The members of the JSON body of a query.

use std::borrow::Cow;

use memchr::memchr2;
use serde::Deserialize;
use serde_json::value::RawValue;

/// The members that the crate reads. A duplicate member is an error, and all other members are
/// skipped.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Members<'b> {
    pub(super) sql: Option<Cow<'b, str>>,
    pub(super) project: Option<Cow<'b, str>>,
    /// The value as written; empty without the member. The same holds for the other members of this
    /// type.
    pub(super) offset: &'b str,
    pub(super) limit: &'b str,
    pub(super) accept_partial: &'b str,
    pub(super) execute_as: Option<Cow<'b, str>>,
    pub(super) query_id: &'b str,
    pub(super) stop_id: Option<Cow<'b, str>>,
    pub(super) params: &'b str,
    pub(super) backdoor_toggles: &'b str,
}

/// [`Members`], as serde reads them.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", bound(deserialize = "'de: 'b"))]
struct SerdeMembers<'b> {
    sql: Option<Text<'b>>,
    project: Option<Text<'b>>,
    offset: Option<&'b RawValue>,
    limit: Option<&'b RawValue>,
    accept_partial: Option<&'b RawValue>,
    execute_as: Option<Text<'b>>,
    query_id: Option<&'b RawValue>,
    stop_id: Option<Text<'b>>,
    params: Option<&'b RawValue>,
    backdoor_toggles: Option<&'b RawValue>,
}

/// A string that is borrowed if it has no escapes: serde does not borrow inside an `Option<Cow>`.
#[derive(Deserialize)]
pub(super) struct Text<'b>(#[serde(borrow)] pub(super) Cow<'b, str>);

impl<'b> From<SerdeMembers<'b>> for Members<'b> {
    fn from(members: SerdeMembers<'b>) -> Self {
        let text = |member: Option<Text<'b>>| member.map(|Text(text)| text);
        let raw = |member: Option<&'b RawValue>| member.map_or("", RawValue::get);
        Members {
            sql: text(members.sql),
            project: text(members.project),
            offset: raw(members.offset),
            limit: raw(members.limit),
            accept_partial: raw(members.accept_partial),
            execute_as: text(members.execute_as),
            query_id: raw(members.query_id),
            stop_id: text(members.stop_id),
            params: raw(members.params),
            backdoor_toggles: raw(members.backdoor_toggles),
        }
    }
}

impl<'b> Members<'b> {
    pub(super) fn read(body: &'b [u8]) -> serde_json::Result<Self> {
        // Checking the whole body for UTF-8 is faster than checking each string. If the body is not
        // UTF-8, serde reads only the members that it needs.
        match std::str::from_utf8(body) {
            Ok(text) => match Self::of_simple(text) {
                Some(members) => Ok(members),
                None => serde_json::from_str(text).map(SerdeMembers::into),
            },
            Err(_) => serde_json::from_slice(body).map(SerdeMembers::into),
        }
    }

    /// Reads an object of strings, integers and literals on one line, as most bodies are. `None`
    /// leaves the text to serde. Returns members only if serde would return the same ones.
    fn of_simple(text: &'b str) -> Option<Self> {
        let is_one_line = text.bytes().fold(u8::MAX, u8::min) >= b' ';
        let mut rest = after_blanks(after_blanks(text).strip_prefix('{').filter(|_| is_one_line)?);
        let (mut members, mut seen) = (Members::default(), 0_u16);
        loop {
            let name = take_name(&mut rest)?;
            rest = after_blanks(after_blanks(rest).strip_prefix(':')?);
            let (bit, slot) = members.slot(name);
            if seen & bit != 0 {
                return None;
            }
            seen |= bit;
            match (take_string(&mut rest), slot) {
                (Some(string), Slot::Text(slot)) => *slot = Some(string.decode()?),
                // Escapes may be invalid.
                (Some(JsonString { has_escapes: true, .. }), Slot::Raw(_) | Slot::Other) => return None,
                (Some(string), Slot::Raw(slot)) => *slot = string.quoted,
                (Some(_), Slot::Other) => {}
                (None, slot) => match (take_bare(&mut rest)?, slot) {
                    (_, Slot::Other) | ("null", Slot::Text(_) | Slot::Raw(_)) => {}
                    (bare, Slot::Raw(slot)) => *slot = bare,
                    (_, Slot::Text(_)) => return None,
                },
            }
            rest = after_blanks(rest);
            match rest.as_bytes().first()? {
                b',' => rest = after_blanks(&rest[1..]),
                b'}' => return after_blanks(&rest[1..]).is_empty().then_some(members),
                _ => return None,
            }
        }
    }

    /// Returns the place of the member `name`, and its bit in a set of members.
    fn slot(&mut self, name: &str) -> (u16, Slot<'_, 'b>) {
        match name {
            "sql" => (1, Slot::Text(&mut self.sql)),
            "project" => (2, Slot::Text(&mut self.project)),
            "offset" => (4, Slot::Raw(&mut self.offset)),
            "limit" => (8, Slot::Raw(&mut self.limit)),
            "acceptPartial" => (16, Slot::Raw(&mut self.accept_partial)),
            "executeAs" => (32, Slot::Text(&mut self.execute_as)),
            "stopId" => (64, Slot::Text(&mut self.stop_id)),
            "params" => (128, Slot::Raw(&mut self.params)),
            "backdoorToggles" => (256, Slot::Raw(&mut self.backdoor_toggles)),
            "queryId" => (512, Slot::Raw(&mut self.query_id)),
            _ => (0, Slot::Other),
        }
    }
}

enum Slot<'m, 'b> {
    Text(&'m mut Option<Cow<'b, str>>),
    Raw(&'m mut &'b str),
    Other,
}

fn after_blanks(mut text: &str) -> &str {
    while let Some(rest) = text.strip_prefix(' ') {
        text = rest;
    }
    text
}

/// A string as written.
struct JsonString<'b> {
    quoted: &'b str,
    has_escapes: bool,
}

impl<'b> JsonString<'b> {
    /// Returns the text; `None` if it has escapes.
    fn plain(&self) -> Option<&'b str> {
        if self.has_escapes { None } else { Some(&self.quoted[1..self.quoted.len() - 1]) }
    }

    fn decode(&self) -> Option<Cow<'b, str>> {
        self.plain().map(Cow::Borrowed).or_else(|| serde_json::from_str(self.quoted).ok().map(Cow::Owned))
    }
}

/// Takes the name of a member from the beginning of `rest`; `None` if it has escapes. Names are too
/// short for [`memchr2`] to pay off.
fn take_name<'b>(rest: &mut &'b str) -> Option<&'b str> {
    let text = rest.strip_prefix('"')?;
    let end = text.bytes().position(|byte| matches!(byte, b'"' | b'\\'))?;
    let (name, behind) = text.split_at(end);
    *rest = behind.strip_prefix('"')?;
    Some(name)
}

/// Takes a string from the beginning of `rest`.
fn take_string<'b>(rest: &mut &'b str) -> Option<JsonString<'b>> {
    let (mut at, mut has_escapes) = (1, false);
    rest.strip_prefix('"')?;
    loop {
        at += memchr2(b'"', b'\\', rest.as_bytes().get(at..)?)?;
        if rest.as_bytes()[at] == b'"' {
            break;
        }
        has_escapes = true;
        at += 2;
    }
    let (quoted, behind) = rest.split_at(at + 1);
    *rest = behind;
    Some(JsonString { quoted, has_escapes })
}

/// Takes an integer or a literal from the beginning of `rest`.
fn take_bare<'b>(rest: &mut &'b str) -> Option<&'b str> {
    let end = rest.bytes().position(|byte| matches!(byte, b',' | b'}' | b' '))?;
    let (value, behind) = rest.split_at(end);
    let is_integer = match value.strip_prefix('-').unwrap_or(value).as_bytes() {
        [b'0'] => true,
        [b'1'..=b'9', digits @ ..] => digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    *rest = behind;
    (is_integer || matches!(value, "true" | "false" | "null")).then_some(value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn by_serde(body: &str) -> Members<'_> {
        serde_json::from_str(body).map(SerdeMembers::into).unwrap()
    }

    #[test]
    fn the_bodies_of_clients_are_simple() {
        for body in [
            r#"{"sql":"select 1","project":"p","offset":0,"limit":50000,"acceptPartial":true}"#,
            r#" { "limit" : "10" , "sql" : "select \"a\"\nfrom t" , "project" : null , "other" : "x" } "#,
        ] {
            assert_eq!(Members::of_simple(body), Some(by_serde(body)), "{body}");
        }
        for body in [
            "",
            "{}",
            r#"{"sql":1}"#,
            r#"{"sql":"a","sql":"b"}"#,
            r#"{"sql":"a",}"#,
            r#"{"sql":"a"} x"#,
            r#"{"sql":"a"#,
            r#"{"sql":"a\"#,
            r#"{"sql":"\ud800"}"#,
            r#"{"s\u0071l":"a"}"#,
            "{\"sql\":\"a\nb\"}",
            r#"{"limit":01}"#,
            r#"{"limit":1e3}"#,
            r#"{"params":[1]}"#,
        ] {
            assert_eq!(Members::of_simple(body), None, "{body}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn simple_members_are_those_of_serde(
            members in prop::collection::vec(
                "[ ]{0,1}\"(sql|project|offset|limit|acceptPartial|executeAs|queryId|stopId|params|backdoorToggles|x|s\\\\u0071l)\"[ ]{0,1}:[ ]{0,1}\
                 (\"([a-z' é]|\\\\[nu\"\\\\]|\\\\u00e9|\\\\ud83d|\t){0,4}\"|-?[01]{0,3}|1e5|1\\.5|true|false|null|nul|\\[\\]|\\{\\}|x)",
                0..5,
            ),
            separator in "(,|, |,|,,)",
            end in "(}|}|} |}}|,}|)",
        ) {
            let body = format!("{{{}{end}", members.join(&separator));
            if let Some(members) = Members::of_simple(&body) {
                prop_assert_eq!(members, by_serde(&body));
            }
        }
    }
}
