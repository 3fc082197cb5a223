use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use zeroize::Zeroizing;

/// The id of a session, which is the value of the front end's cookie.
///
/// It has 192 random bits, preceded by the number of the secret that was current when it was made.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct SessionId(Zeroizing<[u8; 25]>);

impl SessionId {
    /// Makes a new id. Returns `None` if the operating system has no random bytes.
    pub(super) fn random(secret_number: u8) -> Option<Self> {
        let mut bytes = Zeroizing::new([secret_number; 25]);
        getrandom::fill(&mut bytes[1..]).ok()?;
        Some(SessionId(bytes))
    }

    /// Parses the value of a cookie. Returns `None` for a value that no front end has made.
    pub(super) fn parse(value: &[u8]) -> Option<Self> {
        let mut bytes = Zeroizing::new([0; 25]);
        // 25 bytes are 34 characters. The decoder rejects spare bits in the last one, so each id
        // has one form.
        (value.len() == 34 && BASE64.decode_slice(value, &mut bytes[..]).ok()? == 25).then_some(SessionId(bytes))
    }

    /// Returns the value of the cookie.
    pub(super) fn text(&self) -> Zeroizing<String> {
        Zeroizing::new(BASE64.encode(&self.0[..]))
    }

    pub(super) fn secret_number(&self) -> u8 {
        self.0[0]
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0[..]
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionId(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_random_and_parses_from_its_text() {
        let (one, two) = (SessionId::random(3).unwrap(), SessionId::random(3).unwrap());
        assert_ne!(one, two);
        assert_eq!(one.secret_number(), 3);
        assert_eq!(SessionId::parse(one.text().as_bytes()), Some(one.clone()));
        assert_eq!(format!("{one:?}"), "SessionId(..)");
    }

    proptest::proptest! {
        #[test]
        fn an_id_has_one_text_only(text in proptest::collection::vec(0_u8.., 0..50)) {
            if let Some(id) = SessionId::parse(&text) {
                let again = id.text();
                proptest::prop_assert_eq!(again.as_bytes(), &text[..]);
            }
        }

        #[test]
        fn a_changed_character_makes_another_id_or_none(at in 0_usize..34, letter in "[A-Za-z0-9_-]") {
            let id = SessionId::random(1).unwrap();
            let mut text = id.text().as_bytes().to_vec();
            let same = text[at] == letter.as_bytes()[0];
            text[at] = letter.as_bytes()[0];
            proptest::prop_assert_eq!(SessionId::parse(&text) == Some(id), same);
        }
    }
}
