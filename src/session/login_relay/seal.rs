//! How the content of a session is sealed for a store.
//!
//! XChaCha20-Poly1305 with a random nonce. The key is derived from the front end's secret *and*
//! from the session's id, which only the client has. Neither the store, nor the store and the
//! secret together, yield credentials without the client's cookie. The key under which the session
//! is stored is associated data, so a record that was moved to another session does not open.
//!
//! | bytes | content |
//! |---|---|
//! | 1 | format, at present 1 |
//! | 1 | the number of the secret, for rotation |
//! | 24 | nonce |
//! | n | content and padding, encrypted |
//! | 16 | tag |

use std::fmt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use zeroize::Zeroizing;

use super::session_id::SessionId;
use crate::session::SessionKey;
use crate::session::cached::RecentKeys;
use crate::session::secret::{Secret, Tagger};

const FORMAT: u8 = 1;
const HEAD: usize = 2 + NONCE;
const NONCE: usize = 24;
const TAG: usize = 16;
/// The size of a padding block. Contents are padded to a multiple of it, which hides the length of
/// a password.
const BLOCK: usize = 64;

/// The maximum length of a content. Once sealed and put into a record, it fits into every store.
pub(super) const MAX_CONTENT: usize = 12 * 1024;

/// Seals with the current secret, and opens with the current and the previous ones.
#[derive(Clone)]
pub(super) struct Sealer {
    /// The secrets, the current one first.
    secrets: Vec<SealingSecret>,
    /// The keys of recent sessions.
    keys: Arc<RecentKeys>,
    fingerprints: Arc<RecentKeys>,
}

#[derive(Clone)]
struct SealingSecret {
    /// Identifies the secret. Two secrets may have the same number by chance; then both are tried.
    number: u8,
    tagger: Tagger,
}

/// The content of a sealed session.
pub(super) struct Unsealed {
    pub(super) content: Zeroizing<Vec<u8>>,
    /// Whether the content is sealed with the current secret.
    pub(super) is_current: bool,
}

impl Sealer {
    pub(super) fn new(secret: &Secret) -> Self {
        let sealing = |tagger: &Tagger| SealingSecret { number: tagger.tag(&[b"number"])[0], tagger: tagger.clone() };
        let secrets = secret.taggers("login-relay").iter().map(sealing).collect();
        Sealer { secrets, keys: Arc::new(RecentKeys::new()), fingerprints: Arc::new(RecentKeys::new()) }
    }

    /// Returns the keys under which a session may be stored. They are keyed hashes of its id, with
    /// the secret that was current when the id was made.
    pub(super) fn keys(&self, id: &SessionId) -> impl Iterator<Item = SessionKey> {
        let secrets = self.secrets.iter().filter(move |secret| secret.number == id.secret_number());
        secrets.enumerate().map(|(index, secret)| {
            let derive = || session_key(&secret.tagger.tag(&[b"key\0", id.as_bytes()]));
            // More than one key is rare.
            if index == 0 { self.keys.get(id.as_bytes(), derive) } else { derive() }
        })
    }

    /// Returns a keyed hash of credentials, which identifies them without storing them.
    pub(super) fn fingerprint(&self, credentials: &[u8]) -> SessionKey {
        let derive = || session_key(&self.secrets[0].tagger.tag(&[b"credentials\0", credentials]));
        self.fingerprints.get(credentials, derive)
    }

    /// Returns the key under which a login with the credentials of this fingerprint is claimed.
    pub(super) fn claim_key(&self, fingerprint: &SessionKey) -> SessionKey {
        session_key(&self.secrets[0].tagger.tag(&[b"login claim\0", fingerprint.as_bytes()]))
    }

    /// Returns the number of the current secret.
    pub(super) fn number(&self) -> u8 {
        self.secrets[0].number
    }

    /// Seals `content` for the session `id`, which is stored under `key`. Returns `None` if the
    /// content is too long, or the operating system has no random bytes.
    pub(super) fn seal(&self, id: &SessionId, key: &SessionKey, content: &[u8]) -> Option<Bytes> {
        let secret = &self.secrets[0];
        if content.len() > MAX_CONTENT {
            return None;
        }
        let padded = (content.len() + 2).next_multiple_of(BLOCK);
        let mut nonce = XNonce::default();
        getrandom::fill(&mut nonce).ok()?;
        let mut sealed = BytesMut::with_capacity(HEAD + padded + TAG);
        sealed.extend_from_slice(&[FORMAT, secret.number]);
        sealed.extend_from_slice(&nonce);
        // `MAX_CONTENT` fits into 16 bits.
        sealed.extend_from_slice(&(content.len() as u16).to_be_bytes());
        sealed.extend_from_slice(content);
        sealed.resize(HEAD + padded, 0);
        let associated = associated_data(secret.number, key);
        let encrypted = (&mut sealed[HEAD..]).into();
        let tag = secret.cipher(id).encrypt_inout_detached(&nonce, &associated, encrypted).ok()?;
        sealed.extend_from_slice(&tag);
        Some(sealed.freeze())
    }

    /// Opens a content that was sealed for this session. Returns `None` for any other bytes.
    pub(super) fn open(&self, id: &SessionId, key: &SessionKey, sealed: &[u8]) -> Option<Unsealed> {
        let (head, rest) = sealed.split_at_checked(HEAD)?;
        let (&[FORMAT, number], nonce) = head.split_first_chunk::<2>()? else { return None };
        let (encrypted, tag) = rest.split_last_chunk::<TAG>()?;
        if encrypted.len() > (MAX_CONTENT + 2).next_multiple_of(BLOCK) {
            return None;
        }
        let nonce = XNonce::try_from(nonce).ok()?;
        let associated = associated_data(number, key);
        for (age, secret) in self.secrets.iter().enumerate().filter(|(_, secret)| secret.number == number) {
            let mut content = Zeroizing::new(encrypted.to_vec());
            let buffer = content.as_mut_slice().into();
            if secret.cipher(id).decrypt_inout_detached(&nonce, &associated, buffer, &(*tag).into()).is_ok() {
                let length = usize::from(u16::from_be_bytes(*content.first_chunk::<2>()?));
                if length > content.len() - 2 {
                    return None;
                }
                content.drain(..2);
                content.truncate(length);
                return Some(Unsealed { content, is_current: age == 0 });
            }
        }
        None
    }
}

impl SealingSecret {
    fn cipher(&self, id: &SessionId) -> XChaCha20Poly1305 {
        let key = Zeroizing::new(self.tagger.tag(&[b"seal\0", id.as_bytes()]));
        XChaCha20Poly1305::new((&*key).into())
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer").field("secrets", &self.secrets.len()).finish_non_exhaustive()
    }
}

fn associated_data(number: u8, key: &SessionKey) -> [u8; 18] {
    let mut data = [FORMAT; 18];
    data[1] = number;
    data[2..].copy_from_slice(key.as_bytes());
    data
}

/// Truncates a keyed hash to a key.
fn session_key(hash: &[u8; 32]) -> SessionKey {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash[..16]);
    SessionKey::from_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealer() -> Sealer {
        Sealer::new(&Secret::new([7; 32]))
    }

    fn session(sealer: &Sealer) -> (SessionId, SessionKey) {
        let id = SessionId::random(sealer.number()).unwrap();
        let key = sealer.keys(&id).next().unwrap();
        (id, key)
    }

    fn content(unsealed: Option<Unsealed>) -> Option<Vec<u8>> {
        unsealed.map(|unsealed| unsealed.content.to_vec())
    }

    #[test]
    fn a_sealed_content_opens_for_its_session_only() {
        let sealer = sealer();
        let (id, key) = session(&sealer);
        let sealed = sealer.seal(&id, &key, b"a login").unwrap();
        assert_eq!(content(sealer.open(&id, &key, &sealed)).as_deref(), Some(&b"a login"[..]));

        let (other, other_key) = session(&sealer);
        assert!(sealer.open(&other, &other_key, &sealed).is_none(), "moved to another session");
        assert!(sealer.open(&id, &other_key, &sealed).is_none(), "under another key");
        assert!(sealer.open(&other, &key, &sealed).is_none(), "with another id");
        assert!(Sealer::new(&Secret::new([8; 32])).open(&id, &key, &sealed).is_none(), "with another secret");
    }

    /// Stores keep sessions across an upgrade. The value was made in Python, with `hmac`, and
    /// `ChaCha20Poly1305` under a key of HChaCha20 (draft-irtf-cfrg-xchacha).
    #[test]
    fn a_seal_of_format_1_is_found_and_opened() {
        let sealer = Sealer::new(&Secret::new(std::array::from_fn(|index| index as u8)));
        let id = SessionId::parse(b"pQABAgMEBQYHCAkKCwwNDg8QERITFBUWFw").unwrap();
        let key = sealer.keys(&id).next().unwrap();
        assert_eq!(key.to_hex(), "8bb2f02ce08bf48b0deddcf50a326c1f");
        let sealed =
            b"\x01\xa5\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f\x70\x71\x72\x73\x74\x75\x76\x77\x78\x79\x7a\x7b\
            \xe3\x47\x3d\x21\x57\x5e\x91\x0b\x9c\x29\x0b\x86\xf8\x68\xc2\x7d\xa8\x86\xb0\x98\xd1\x4e\x72\x24\x5d\xe0\
            \xac\x5e\x35\x27\xc5\x01\x7f\xaa\xa3\xd4\x09\x47\x93\xf3\xb6\xa3\xda\x0c\x6a\x6e\x41\xa0\xf0\x9c\x43\xa2\
            \x92\x61\x78\x43\x8a\xf0\x1c\xd2\xdb\x77\xab\x9c\x4b\x34\x78\xfc\x05\xe9\x6f\x3a\x83\x01\x38\x5f\x05\xa5\
            \x21\xd8";
        let content = content(sealer.open(&id, &key, sealed)).unwrap();
        let session = super::super::record::RelayedSession::decode(&content).unwrap();
        assert_eq!(session.credentials.as_bytes(), b"Basic QURNSU46S1lMSU4=");
        let cookies = session.cookies.all().iter().map(|(id, cookie)| (id.as_str(), cookie.pair()));
        let expected = [("q1", &b"JSESSIONID=A1"[..]), ("q2", b"JSESSIONID=B2")];
        assert_eq!(cookies.collect::<Vec<_>>(), expected);
        assert_eq!(session.encode()[..], content[..], "it is written as it was");
    }

    #[test]
    fn a_seal_shows_neither_equal_contents_nor_their_length() {
        let sealer = sealer();
        let (id, key) = session(&sealer);
        let (one, two) = (sealer.seal(&id, &key, b"secret").unwrap(), sealer.seal(&id, &key, b"secret").unwrap());
        assert_ne!(one[HEAD..], two[HEAD..]);
        assert_eq!(one.len(), sealer.seal(&id, &key, b"a longer secret").unwrap().len());
    }

    #[test]
    fn every_truncation_and_every_flipped_bit_is_rejected() {
        let sealer = sealer();
        let (id, key) = session(&sealer);
        let sealed = sealer.seal(&id, &key, &[9; 100]).unwrap();
        for length in 0..sealed.len() {
            assert!(sealer.open(&id, &key, &sealed[..length]).is_none());
        }
        for bit in 0..sealed.len() * 8 {
            let mut altered = sealed.to_vec();
            altered[bit / 8] ^= 1 << (bit % 8);
            assert!(sealer.open(&id, &key, &altered).is_none(), "bit {bit}");
        }
    }

    #[test]
    fn after_a_rotation_old_seals_open_and_the_new_secret_seals() {
        let before = sealer();
        let (id, key) = session(&before);
        let old = before.seal(&id, &key, b"a login").unwrap();

        let after = Sealer::new(&Secret::new([9; 32]).with_previous(Secret::new([7; 32])));
        assert!(after.keys(&id).any(|known| known == key), "the session is found under its old key");
        let unsealed = after.open(&id, &key, &old).unwrap();
        assert!(!unsealed.is_current);
        let new = after.seal(&id, &key, &unsealed.content).unwrap();
        assert!(after.open(&id, &key, &new).unwrap().is_current);
        assert!(before.open(&id, &key, &new).is_none());

        let without_old = Sealer::new(&Secret::new([9; 32]));
        assert!(without_old.open(&id, &key, &old).is_none());
    }

    #[test]
    fn the_length_of_a_content_is_bounded() {
        let sealer = sealer();
        let (id, key) = session(&sealer);
        let longest = sealer.seal(&id, &key, &vec![1; MAX_CONTENT]).unwrap();
        assert_eq!(content(sealer.open(&id, &key, &longest)).unwrap().len(), MAX_CONTENT);
        assert!(sealer.seal(&id, &key, &vec![1; MAX_CONTENT + 1]).is_none());
        let record = crate::session::SessionRecord::default().with_sealed(longest);
        assert!(record.encode().len() <= crate::session::SessionRecord::MAX_LEN);
    }

    proptest::proptest! {
        #[test]
        fn no_other_bytes_open(bytes in proptest::collection::vec(0_u8.., 0..200)) {
            let sealer = sealer();
            let (id, key) = session(&sealer);
            proptest::prop_assert!(sealer.open(&id, &key, &bytes).is_none());
        }

        #[test]
        fn every_content_opens_unchanged(bytes in proptest::collection::vec(0_u8.., 0..300)) {
            let sealer = sealer();
            let (id, key) = session(&sealer);
            let sealed = sealer.seal(&id, &key, &bytes).unwrap();
            proptest::prop_assert_eq!(content(sealer.open(&id, &key, &sealed)), Some(bytes));
        }
    }
}
