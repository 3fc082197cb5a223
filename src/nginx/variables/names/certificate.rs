//! The parts of a certificate that variables show (RFC 5280), in OpenSSL's form.
//!
//! A crate for certificates would bring about ten others, and has the names of RFC 4514, which
//! differ from OpenSSL's. The handshake has verified the certificate before.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

const INTEGER: u8 = 2;
const OBJECT_IDENTIFIER: u8 = 6;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
/// The tag of a certificate's version, which the first version does not have.
const VERSION: u8 = 0xa0;

/// Object identifiers in DER, and the short names that OpenSSL has for them.
static ATTRIBUTES: &[(&[u8], &str)] = &[
    (&[0x55, 4, 3], "CN"),
    (&[0x55, 4, 4], "SN"),
    (&[0x55, 4, 5], "serialNumber"),
    (&[0x55, 4, 6], "C"),
    (&[0x55, 4, 7], "L"),
    (&[0x55, 4, 8], "ST"),
    (&[0x55, 4, 9], "street"),
    (&[0x55, 4, 10], "O"),
    (&[0x55, 4, 11], "OU"),
    (&[0x55, 4, 12], "title"),
    (&[0x55, 4, 13], "description"),
    (&[0x55, 4, 15], "businessCategory"),
    (&[0x55, 4, 17], "postalCode"),
    (&[0x55, 4, 41], "name"),
    (&[0x55, 4, 42], "GN"),
    (&[0x55, 4, 43], "initials"),
    (&[0x55, 4, 46], "dnQualifier"),
    (&[0x55, 4, 65], "pseudonym"),
    (&[0x55, 4, 97], "organizationIdentifier"),
    (&[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 1], "UID"),
    (&[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 25], "DC"),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1], "emailAddress"),
];

/// A certificate in DER, of which only these parts are read.
pub(super) struct Certificate<'d> {
    serial: &'d [u8],
    issuer: &'d [u8],
    subject: &'d [u8],
}

impl<'d> Certificate<'d> {
    /// Parses a certificate in DER; `None` if the bytes are not a certificate.
    pub(super) fn parse(der: &'d [u8]) -> Option<Self> {
        let mut whole = Elements(Elements(der).of(SEQUENCE)?);
        let mut signed = Elements(whole.of(SEQUENCE)?);
        let first = signed.next()?;
        let serial = if first.tag == VERSION { signed.next()? } else { first };
        let _algorithm = signed.of(SEQUENCE)?;
        let issuer = signed.of(SEQUENCE)?;
        let _validity = signed.of(SEQUENCE)?;
        let subject = signed.of(SEQUENCE)?;
        (serial.tag == INTEGER).then_some(Certificate { serial: serial.content, issuer, subject })
    }

    /// Returns `$ssl_client_serial`.
    pub(super) fn serial(&self) -> String {
        // A leading zero byte keeps a number positive.
        let number = self.serial.strip_prefix(&[0]).filter(|rest| !rest.is_empty()).unwrap_or(self.serial);
        hex(number)
    }

    /// Returns `$ssl_client_i_dn`.
    pub(super) fn issuer(&self) -> String {
        distinguished_name(self.issuer).unwrap_or_default()
    }

    /// Returns `$ssl_client_s_dn`.
    pub(super) fn subject(&self) -> String {
        distinguished_name(self.subject).unwrap_or_default()
    }
}

/// Returns `$ssl_client_escaped_cert`: the certificate in PEM, escaped for a URI.
pub(super) fn escaped_pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    let pem = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"));
    let mut escaped = String::with_capacity(2 * pem.len());
    for character in pem.chars() {
        match character {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '-' => escaped.push(character),
            other => _ = write!(escaped, "%{:02X}", u32::from(other)),
        }
    }
    escaped
}

/// Returns a name in the form of RFC 2253, with the last part first; `None` if it is malformed.
fn distinguished_name(name: &[u8]) -> Option<String> {
    let mut parts = Vec::new();
    let mut sets = Elements(name);
    while !sets.0.is_empty() {
        let (mut attributes, mut set) = (Elements(sets.of(SET)?), Vec::new());
        while !attributes.0.is_empty() {
            let mut attribute = Elements(attributes.of(SEQUENCE)?);
            set.push(attribute_text(attribute.of(OBJECT_IDENTIFIER)?, attribute.next()?));
        }
        set.reverse();
        parts.push(set.join("+"));
    }
    parts.reverse();
    Some(parts.join(","))
}

fn attribute_text(identifier: &[u8], value: Element<'_>) -> String {
    let dump = || format!("#{}", hex(value.whole));
    let Some((_, name)) = ATTRIBUTES.iter().find(|(known, _)| *known == identifier) else {
        return format!("{}={}", dotted(identifier), dump());
    };
    format!("{name}={}", value.text().map_or_else(dump, |text| escape(&text)))
}

/// Escapes the characters that RFC 2253 escapes, control characters, and bytes that are not ASCII.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    let last = text.len().wrapping_sub(1);
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' => escaped.extend(['\\', char::from(byte)]),
            b'#' if index == 0 => escaped.push_str("\\#"),
            b' ' if index == 0 || index == last => escaped.push_str("\\ "),
            b' '..=b'~' => escaped.push(char::from(byte)),
            other => _ = write!(escaped, "\\{other:02X}"),
        }
    }
    escaped
}

fn dotted(identifier: &[u8]) -> String {
    let (mut text, mut number) = (String::new(), 0_u64);
    for byte in identifier {
        number = number << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 != 0 {
            continue;
        }
        match text.is_empty() {
            true => {
                let first = (number / 40).min(2);
                _ = write!(text, "{first}.{}", number - 40 * first);
            }
            false => _ = write!(text, ".{number}"),
        }
        number = 0;
    }
    text
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}

/// A tag and its content (X.690).
#[derive(Clone, Copy)]
struct Element<'d> {
    tag: u8,
    content: &'d [u8],
    whole: &'d [u8],
}

impl Element<'_> {
    /// Returns a string of one of the types that names use; `None` for another type.
    fn text(&self) -> Option<String> {
        let wide = |size: usize| {
            let character = |bytes: &[u8]| bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte));
            let characters = self.content.chunks(size).map(|bytes| char::from_u32(character(bytes)));
            characters.collect::<Option<String>>()
        };
        match self.tag {
            // UTF8String
            12 => Some(String::from_utf8_lossy(self.content).into_owned()),
            // NumericString, PrintableString, T61String, IA5String, VisibleString
            18 | 19 | 20 | 22 | 26 => wide(1),
            // UniversalString, BMPString
            28 => wide(4),
            30 => wide(2),
            _ => None,
        }
    }
}

/// The consecutive elements in some bytes.
struct Elements<'d>(&'d [u8]);

impl<'d> Elements<'d> {
    /// Returns the next element; `None` if there is none, or it is malformed.
    fn next(&mut self) -> Option<Element<'d>> {
        let (&[tag, length], rest) = self.0.split_first_chunk()?;
        let (length, rest) = match length {
            0..=0x7f => (usize::from(length), rest),
            0x81..=0x83 => {
                let (length, rest) = rest.split_at_checked(usize::from(length - 0x80))?;
                (length.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)), rest)
            }
            _ => return None,
        };
        let (content, after) = rest.split_at_checked(length)?;
        let whole = &self.0[..self.0.len() - after.len()];
        self.0 = after;
        Some(Element { tag, content, whole })
    }

    /// Returns the content of the next element if it has this tag.
    fn of(&mut self, tag: u8) -> Option<&'d [u8]> {
        self.next().filter(|element| element.tag == tag).map(|element| element.content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A certificate for `C=DE, O="Ä, B+C" + OU=#x, CN=two words , 1.2.3.4=y`, with the parts that
    /// are read.
    fn certificate() -> Vec<u8> {
        let element = |tag: u8, content: &[u8]| [&[tag, content.len() as u8], content].concat();
        let attribute = |oid: &[u8], tag, text: &str| {
            element(SEQUENCE, &[element(OBJECT_IDENTIFIER, oid), element(tag, text.as_bytes())].concat())
        };
        let name = [
            element(SET, &attribute(&[0x55, 4, 6], 19, "DE")),
            element(SET, &[attribute(&[0x55, 4, 10], 12, "Ä, B+C"), attribute(&[0x55, 4, 11], 19, "#x")].concat()),
            element(SET, &attribute(&[0x55, 4, 3], 12, "two words ")),
            element(SET, &attribute(&[0x2a, 3, 4], 12, "y")),
        ];
        let name = element(SEQUENCE, &name.concat());
        let empty = element(SEQUENCE, &[]);
        let version = element(VERSION, &element(INTEGER, &[2]));
        let parts = [version, element(INTEGER, &[0, 0x8a, 1]), empty.clone(), empty.clone(), empty, name];
        element(SEQUENCE, &element(SEQUENCE, &parts.concat()))
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200), at in 0_usize..200) {
            let mut der = certificate();
            let at = at % der.len();
            for (changed, byte) in der[at..].iter_mut().zip(&bytes) {
                *changed = *byte;
            }
            for der in [der, bytes.clone()] {
                if let Some(parsed) = Certificate::parse(&der) {
                    _ = (parsed.serial(), parsed.issuer(), parsed.subject());
                }
            }
            _ = distinguished_name(&bytes);
        }
    }

    #[test]
    fn names_and_numbers_are_written_as_openssl_does() {
        let der = certificate();
        let parsed = Certificate::parse(&der).unwrap();
        assert_eq!(parsed.serial(), "8A01");
        assert_eq!(parsed.issuer(), "");
        assert_eq!(parsed.subject(), "1.2.3.4=#0C0179,CN=two words\\ ,OU=\\#x+O=\\C3\\84\\, B\\+C,C=DE");
        for cut in 0..der.len() {
            assert!(Certificate::parse(&der[..cut]).is_none(), "{cut}");
        }
    }
}
