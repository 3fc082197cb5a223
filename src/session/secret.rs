//! The secret that front ends share, and the keys derived from it.
//!
//! One secret serves several purposes (session keys, signatures, seals), and the key for one
//! purpose must reveal nothing about the key for another. So each purpose has its own key:
//! HMAC-SHA-256 of the purpose's name under the secret, which is the expand step of HKDF (RFC 5869,
//! 2.3) for one block. Rotation keeps the previous secrets for reading; only the current one
//! writes.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hmac::{Hmac, Mac as _};
use sha2::Sha256;

/// A secret of 32 bytes that all front ends of one cluster share, with the previous secrets.
///
/// ```
/// use kylin_lb::session::Secret;
///
/// // From `openssl rand -base64 32` or `openssl rand -hex 32`, kept where only the application can read it.
/// let secret = Secret::parse("q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA=")?;
/// // After a rotation, sessions from before it stay valid until they expire.
/// let rotated = Secret::new([7; 32]).with_previous(secret);
/// assert_eq!(format!("{rotated:?}"), "Secret(1 previous)");
/// # Ok::<(), kylin_lb::session::InvalidSecret>(())
/// ```
#[derive(Clone)]
pub struct Secret {
    /// The current key comes first.
    keys: Arc<[[u8; 32]]>,
    /// Identifies the user of a random secret, which never leaves the process. See [`SecretUse`].
    #[cfg_attr(not(feature = "login-relay"), allow(dead_code, reason = "only the login relay asks who uses a secret"))]
    user: Option<Arc<AtomicU64>>,
}

impl Secret {
    /// Returns a secret of these bytes, which must be random. A password is not random enough.
    pub fn new(bytes: [u8; 32]) -> Self {
        Secret { keys: Arc::new([bytes]), user: None }
    }

    /// Returns a random secret for a single front end. Sessions and cookies that use it end with
    /// the process.
    ///
    /// # Errors
    /// [`InvalidSecret`] if the operating system has no random bytes.
    pub fn random() -> Result<Self, InvalidSecret> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(|_| InvalidSecret)?;
        Ok(Secret { user: Some(Arc::default()), ..Secret::new(bytes) })
    }

    /// Parses 32 bytes, written as 64 hexadecimal digits or in base64 (either alphabet).
    /// Surrounding white space is ignored.
    ///
    /// # Errors
    /// [`InvalidSecret`] if `text` has neither form, or another length.
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

    /// Adds a `previous` secret, which is accepted but not used for anything new.
    #[must_use]
    pub fn with_previous(self, previous: Secret) -> Self {
        Secret { keys: self.keys.iter().chain(previous.keys.iter()).copied().collect(), user: None }
    }

    /// Records that the [`Sessions`](super::Sessions) with this number, which is not 0, use the
    /// secret.
    #[cfg(feature = "login-relay")]
    pub(crate) fn used_by(&self, number: u64) -> SecretUse {
        if let Some(user) = &self.user
            && user.compare_exchange(0, number, Ordering::SeqCst, Ordering::SeqCst).is_err_and(|other| other != number)
        {
            user.store(SEVERAL_USERS, Ordering::SeqCst);
        }
        SecretUse { user: self.user.clone(), number }
    }

    /// Derives a key for `purpose` from each secret, the current one first. The name of a purpose
    /// never changes.
    pub(crate) fn derive(&self, purpose: &'static str) -> impl ExactSizeIterator<Item = [u8; 32]> + '_ {
        self.keys.iter().map(move |key| Tagger::new(key).tag(&[b"kylin-lb/v1/", purpose.as_bytes()]))
    }

    /// Derives a [`Tagger`] for `purpose` from each secret, the current one first.
    pub(crate) fn taggers(&self, purpose: &'static str) -> Arc<[Tagger]> {
        self.derive(purpose).map(|key| Tagger::new(&key)).collect()
    }
}

/// One use of a secret. If it is the only one, no other front end can have the same sessions.
#[derive(Debug)]
pub(crate) struct SecretUse {
    user: Option<Arc<AtomicU64>>,
    number: u64,
}

#[cfg(feature = "login-relay")]
const SEVERAL_USERS: u64 = u64::MAX;

impl SecretUse {
    /// Returns whether the secret is random and nothing else uses it.
    pub(crate) fn is_only(&self) -> bool {
        self.user.as_ref().is_some_and(|user| user.load(Ordering::SeqCst) == self.number)
    }
}

/// Compares the secrets, including previous ones, in constant time.
impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        let bits = |of: &Self| of.keys.iter().flatten().copied().collect::<Vec<u8>>();
        let (own, other) = (bits(self), bits(other));
        own.len() == other.len() && own.iter().zip(&other).fold(0, |differing, (a, b)| differing | (a ^ b)) == 0
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({} previous)", self.keys.len() - 1)
    }
}

/// HMAC-SHA-256 under one key, with the key-dependent work done in advance.
#[derive(Clone)]
pub(crate) struct Tagger(Hmac<Sha256>);

impl Tagger {
    pub(crate) fn new(key: &[u8; 32]) -> Self {
        // RFC 2104, 2: a key that is shorter than a block is padded with zeros.
        let mut block = [0; 64];
        block[..32].copy_from_slice(key);
        Tagger(Hmac::new(&block.into()))
    }

    /// Returns the tag of the concatenated `parts`. A part of variable length must begin with its
    /// length.
    pub(crate) fn tag(&self, parts: &[&[u8]]) -> [u8; 32] {
        self.mac_of(parts).finalize().into_bytes().into()
    }

    /// Returns whether the tag of `parts` begins with `tag`, in constant time. Always false for
    /// less than 16 bytes.
    pub(crate) fn verifies(&self, parts: &[&[u8]], tag: &[u8]) -> bool {
        tag.len() >= 16 && self.mac_of(parts).verify_truncated_left(tag).is_ok()
    }

    fn mac_of(&self, parts: &[&[u8]]) -> Hmac<Sha256> {
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

/// The text is not a secret, or the operating system has no random bytes. The error does not show
/// the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a secret: expected 32 random bytes as 64 hexadecimal digits or in base64")]
pub struct InvalidSecret;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_hexadecimal_and_both_alphabets_of_base64() {
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

    /// Values from another implementation. If they changed, front ends could not read what they
    /// wrote earlier.
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
    fn a_tag_verifies_whole_or_truncated_to_16_bytes_and_not_shorter() {
        let tagger = Tagger::new(&[3; 32]);
        let tag = tagger.tag(&[b"a", b"b"]);
        assert!(tagger.verifies(&[b"ab"], &tag) && tagger.verifies(&[b"ab"], &tag[..16]));
        assert!(!tagger.verifies(&[b"ab"], &tag[..15]) && !tagger.verifies(&[b"ab"], &[]));
        assert!(!tagger.verifies(&[b"ac"], &tag));
        assert!(!tagger.verifies(&[b"ab"], &[0; 16]));
    }
}
