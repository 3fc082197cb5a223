//! Percent-encoding (RFC 3986, section 2.1), in addition to the crate `percent-encoding`, which
//! leaves invalid escapes as they are.

/// Returns whether each `%` is followed by two hexadecimal digits.
pub(crate) fn has_valid_escapes(text: &[u8]) -> bool {
    text.split(|byte| *byte == b'%').skip(1).all(starts_with_digits)
}

/// Returns whether the text contains an escape.
pub(crate) fn has_escape(text: &[u8]) -> bool {
    text.split(|byte| *byte == b'%').skip(1).any(starts_with_digits)
}

fn starts_with_digits(rest: &[u8]) -> bool {
    rest.get(..2).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_percent_sign_needs_two_digits() {
        for valid in ["", "a", "%41", "a%2f%2Fb"] {
            assert!(has_valid_escapes(valid.as_bytes()), "{valid}");
        }
        for invalid in ["%", "%4", "%4g", "%%41", "a%41%"] {
            assert!(!has_valid_escapes(invalid.as_bytes()), "{invalid}");
        }
        assert!(has_escape(b"%%41") && !has_escape(b"%4g") && !has_escape(b"41"));
    }
}
