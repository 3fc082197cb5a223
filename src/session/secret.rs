//! The secret that front ends share, and what is derived from it.
//!
//! One secret serves many purposes (keys of sessions, signatures, seals), and no purpose may learn anything of another's key.
//! So each gets a key of its own: HMAC-SHA-256 of the purpose's name under the secret, which is the expand step of HKDF
//! (RFC 5869, 2.3) for one block. Rotation keeps the previous secrets for reading; only the current one writes.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hmac::{Hmac, Mac as _};
use sha2::Sha256;

/// 32 secret bytes that all front ends of one address have in common, and those that were in use before.
///
/// ```
/// use kylin_lb::session::Secret;
///
/// // From `openssl rand -base64 32` or `openssl rand -hex 32`, kept where only the host can read it.
/// let secret = Secret::parse("q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA=")?;
/// // When it is replaced, what was made under the old one stays valid until it expires.
/// let rotated = Secret::new([7; 32]).with_previous(secret);
/// assert_eq!(format!("{rotated:?}"), "Secret(1 previous)");
/// # Ok::<(), kylin_lb::session::InvalidSecret>(())
/// ```
#[derive(Clone)]
pub struct Secret {
    /// The current one first.
    keys: Arc<[[u8; 32]]>,
}

impl Secret {
    /// The secret made of these bytes, which must be random: a password will not do.
    pub fn new(bytes: [u8; 32]) -> Self {
        Secret { keys: Arc::new([bytes]) }
    }

    /// A secret that nobody else has, from the operating system: for a front end that is alone. What it protects ends with
    /// the process.
    ///
    /// # Errors
    /// [`InvalidSecret`] when the operating system has no random bytes to give.
    pub fn random() -> Result<Self, InvalidSecret> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(|_| InvalidSecret)?;
        Ok(Secret::new(bytes))
    }

    /// Reads 32 bytes written as 64 hexadecimal digits or in base64 (either alphabet). Space around them is ignored.
    ///
    /// # Errors
    /// [`InvalidSecret`] when `text` is neither, or is of another length.
    pub fn parse(text: &str) -> Result<Self, InvalidSecret> {
        let text = text.trim();
        let bytes = match text.len() {
            64 => hex(text),
            44 => STANDARD.decode(text).ok(),
            _ => URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok(),
        };
        let bytes = bytes.or_else(|| URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok());
        bytes.and_then(|bytes| bytes.try_into().ok()).map(Secret::new).ok_or(InvalidSecret)
    }

    /// This secret for all that is new, and `previous` for reading what was made before it came.
    #[must_use]
    pub fn with_previous(self, previous: Secret) -> Self {
        Secret { keys: self.keys.iter().chain(previous.keys.iter()).copied().collect() }
    }

    /// A key for `purpose` from each secret, the current one first. Purposes have names that never change.
    pub(crate) fn derive(&self, purpose: &'static str) -> impl ExactSizeIterator<Item = [u8; 32]> + '_ {
        self.keys.iter().map(move |key| Tagger::new(key).tag(&[b"kylin-lb/v1/", purpose.as_bytes()]))
    }

    /// The same as [`Tagger`]s, the current one first.
    pub(crate) fn taggers(&self, purpose: &'static str) -> Arc<[Tagger]> {
        self.derive(purpose).map(|key| Tagger::new(&key)).collect()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({} previous)", self.keys.len() - 1)
    }
}

/// HMAC-SHA-256 under one key, with the work that depends on the key alone done beforehand.
#[derive(Clone)]
pub(crate) struct Tagger(Hmac<Sha256>);

impl Tagger {
    pub(crate) fn new(key: &[u8; 32]) -> Self {
        // A key of half a block fills the block up with zeros, as RFC 2104 has it.
        let mut block = [0; 64];
        block[..32].copy_from_slice(key);
        Tagger(Hmac::new(&block.into()))
    }

    /// The tag of `parts` put together. Where parts can vary in length, let them begin with it.
    pub(crate) fn tag(&self, parts: &[&[u8]]) -> [u8; 32] {
        self.over(parts).finalize().into_bytes().into()
    }

    /// Is `tag` the beginning of the tag of `parts`? Takes the same time whatever differs. Tags of less than 16 bytes never
    /// fit.
    pub(crate) fn verifies(&self, parts: &[&[u8]], tag: &[u8]) -> bool {
        tag.len() >= 16 && self.over(parts).verify_truncated_left(tag).is_ok()
    }

    fn over(&self, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        for part in parts {
            mac.update(part);
        }
        mac
    }
}

impl fmt::Debug for Tagger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tagger")
    }
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digit = |digit: u8| char::from(digit).to_digit(16).map(|value| value as u8);
    text.as_bytes().chunks(2).map(|pair| Some(digit(pair[0])? << 4 | digit(*pair.get(1)?)?)).collect()
}

/// A text that is not a secret, or no random bytes to make one of. Does not show the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a secret: expected 32 random bytes as 64 hexadecimal digits or in base64")]
pub struct InvalidSecret;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_hexadecimal_and_both_alphabets_of_base64() {
        let bytes: [u8; 32] = std::array::from_fn(|n| 255 - n as u8);
        let hex: String = bytes.iter().map(|byte| format!("{byte:02X}")).collect();
        let standard = STANDARD.encode(bytes);
        let url = URL_SAFE_NO_PAD.encode(bytes);
        for text in [hex, standard, url.clone(), format!(" {url}\n")] {
            assert_eq!(Secret::parse(&text).unwrap().keys[0], bytes, "{text}");
        }
        for text in ["", "secret", &"x".repeat(64), &"0".repeat(62), &"A".repeat(42), &"é".repeat(32)] {
            assert!(Secret::parse(text).is_err(), "{text}");
        }
    }

    /// Values computed with another implementation: a change would lock every front end out of what it has written.
    #[test]
    fn derived_keys_never_change() {
        let secret = Secret::new([1; 32]).with_previous(Secret::new([2; 32]));
        let keys: Vec<String> = secret
            .derive("test")
            .map(|key| key.iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}")))
            .collect();
        assert_eq!(
            keys,
            [
                "0614584fa357626993d30091d029f0c3c7e52f7c730c59d5be87365fd21ff892",
                "71b8f2d04c1a463373b17c61ef3bfc1d97cf7beac924b01483be27335cf5c470",
            ]
        );
    }

    #[test]
    fn a_tag_verifies_whole_or_cut_to_16_bytes_and_no_further() {
        let tagger = Tagger::new(&[3; 32]);
        let tag = tagger.tag(&[b"a", b"b"]);
        assert!(tagger.verifies(&[b"ab"], &tag) && tagger.verifies(&[b"ab"], &tag[..16]));
        assert!(!tagger.verifies(&[b"ab"], &tag[..15]) && !tagger.verifies(&[b"ab"], &[]));
        assert!(!tagger.verifies(&[b"ac"], &tag));
        assert!(!tagger.verifies(&[b"ab"], &[0; 16]));
    }
}
