//! The canonical form of a query's body, which has the same bytes for identical queries.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::members::Text;

/// The members with which a client names its query, to stop it: `queryId` (2.x-5) and `stopId` (5).
const IDS: [&str; 2] = ["queryId", "stopId"];

/// Returns the members of a body in the order of their names, without the ids of the query and
/// without whitespace between tokens. Returns `None` if the body is not a JSON object.
///
/// Members that the crate does not know stay, and so does the order of duplicate members. Two
/// bodies with the same canonical form are the same query. The same query may have several forms,
/// for example if members below the first level have another order.
pub(crate) fn canonical(body: &[u8]) -> Option<Box<[u8]>> {
    let Members(mut members) = serde_json::from_slice(body).ok()?;
    members.retain(|(name, _)| !IDS.contains(&&**name));
    members.sort_by(|(one, _), (other, _)| one.cmp(other));
    let mut form = Vec::with_capacity(body.len());
    for (name, value) in members {
        serde_json::to_writer(&mut form, &name).ok()?;
        form.push(b':');
        match serde_json::from_str::<Text<'_>>(value.get()) {
            Ok(Text(text)) => serde_json::to_writer(&mut form, &text).ok()?,
            Err(_) => compact(value.get(), &mut form),
        }
        form.push(b',');
    }
    Some(form.into_boxed_slice())
}

/// Appends valid JSON without the whitespace between its tokens.
fn compact(json: &str, form: &mut Vec<u8>) {
    let (mut in_text, mut is_escaped) = (false, false);
    for byte in json.bytes() {
        if in_text || !byte.is_ascii_whitespace() {
            form.push(byte);
        }
        in_text ^= byte == b'"' && !is_escaped;
        is_escaped = in_text && byte == b'\\' && !is_escaped;
    }
}

/// The members of an object, in the order in which they are written.
struct Members<'b>(Vec<(Cow<'b, str>, &'b RawValue)>);

impl<'de: 'b, 'b> Deserialize<'de> for Members<'b> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some((Text(name), value)) = map.next_entry()? {
                    members.push((name, value));
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ids_order_whitespace_and_escapes_do_not_matter() {
        let base = canonical(br#"{"sql":"select 'a b'","project":"p","x":[1, {"y":"\" {"}]}"#).unwrap();
        for same in [
            r#" { "project" : "p", "sql" : "select 'a b'", "x":[1,{"y":"\" {"}] } "#,
            r#"{"queryId":"q","stopId":null,"x":[1, {"y" : "\" {"}],"project":"\u0070","sql":"select 'a\u0020b'"}"#,
        ] {
            assert_eq!(canonical(same.as_bytes()).unwrap(), base, "{same}");
        }
        for other in [
            r#"{"sql":"select 'a  b'","project":"p","x":[1,{"y":"\" {"}]}"#,
            r#"{"sql":"select 'a b'","project":"P","x":[1,{"y":"\" {"}]}"#,
            r#"{"sql":"select 'a b'","project":"p","x":[1,{"y":"\"{"}]}"#,
            r#"{"sql":"select 'a b'","project":"p","x":[1,{"y":"\" {"}],"executeAs":"MARY"}"#,
            r#"{"sql":"select 'a b'","project":"p","x":[1,{"y":"\" {"}],"X":1}"#,
            r#"{"sql":"select 'a b'","project":"p"}"#,
            r#"{"sql":"select 'a b'","project":"p","x":[1.0,{"y":"\" {"}]}"#,
        ] {
            assert_ne!(canonical(other.as_bytes()).unwrap(), base, "{other}");
        }
        let twice = |body: &str| canonical(body.as_bytes()).unwrap();
        assert_ne!(twice(r#"{"x":1,"x":2}"#), twice(r#"{"x":2,"x":1}"#), "the reader decides which counts");
        for no_object in ["", "[]", "1", "{", r#"{"sql":"x"} {}"#] {
            assert_eq!(canonical(no_object.as_bytes()), None, "{no_object}");
        }
    }
}
