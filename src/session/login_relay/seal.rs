//! How the content of a session is sealed before it goes to a store.
//!
//! XChaCha20-Poly1305 with a random nonce. The key is made of the host's secret *and* the session's id, which only the client
//! has: neither the store, nor the store and the secret together, yield a login without the cookie that belongs to it. The
//! session's key is associated data, so that a record that was moved to another session does not open there.
//!
//! | bytes | what |
//! |---|---|
//! | 1 | format, at present 1 |
//! | 1 | which secret, so that secrets can be rotated |
//! | 24 | nonce |
//! | n | content and padding, encrypted |
//! | 16 | tag |

use std::fmt;

use bytes::{Bytes, BytesMut};
use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use zeroize::Zeroizing;

use super::id::SessionId;
use crate::session::SessionKey;
use crate::session::secret::{Secret, Tagger};

const FORMAT: u8 = 1;
const HEAD: usize = 2 + NONCE;
const NONCE: usize = 24;
const TAG: usize = 16;
/// Contents are padded to a multiple of this, because the length of a password is nobody's business.
const BLOCK: usize = 64;

/// What a content may take unsealed, in bytes: sealed, and with a record around it, it still fits into every store.
pub(super) const MAX_CONTENT: usize = 12 * 1024;

/// What seals and opens: with the current secret what is new, with the previous ones what was sealed before they went.
#[derive(Clone)]
pub(super) struct Sealer(Vec<Master>);

#[derive(Clone)]
struct Master {
    /// Tells the secrets of a front end apart. Two may have the same by chance, so that both have to be tried.
    number: u8,
    tagger: Tagger,
}

/// The content of a sealed part.
pub(super) struct Unsealed {
    pub(super) content: Zeroizing<Vec<u8>>,
    /// Sealed with the newest secret? Otherwise it is to be sealed anew.
    pub(super) current: bool,
}

impl Sealer {
    pub(super) fn new(secret: &Secret) -> Self {
        let master = |tagger: &Tagger| Master { number: tagger.tag(&[b"number"])[0], tagger: tagger.clone() };
        Sealer(secret.taggers("login-relay").iter().map(master).collect())
    }

    /// Under what a session may be kept: a keyed hash of its id, by the secret that was current when the id was made.
    pub(super) fn keys(&self, id: &SessionId) -> impl Iterator<Item = SessionKey> {
        self.masters(id.secret()).map(|master| truncated(&master.tagger.tag(&[b"key\0", id.as_bytes()])))
    }

    /// A keyed hash of credentials, to know them again without keeping them.
    pub(super) fn fingerprint(&self, credentials: &[u8]) -> SessionKey {
        truncated(&self.0[0].tagger.tag(&[b"credentials\0", credentials]))
    }

    /// The number of the current secret.
    pub(super) fn number(&self) -> u8 {
        self.0[0].number
    }

    /// Seals `content` for the session of `id`, which is kept under `key`. None when the content is too long, or the
    /// operating system has no randomness to give.
    pub(super) fn seal(&self, id: &SessionId, key: &SessionKey, content: &[u8]) -> Option<Bytes> {
        let master = &self.0[0];
        if content.len() > MAX_CONTENT {
            return None;
        }
        let padded = (content.len() + 2).next_multiple_of(BLOCK);
        let mut nonce = XNonce::default();
        getrandom::fill(&mut nonce).ok()?;
        let mut sealed = BytesMut::with_capacity(HEAD + padded + TAG);
        sealed.extend_from_slice(&[FORMAT, master.number]);
        sealed.extend_from_slice(&nonce);
        // A content has at most 12 KiB.
        sealed.extend_from_slice(&(content.len() as u16).to_be_bytes());
        sealed.extend_from_slice(content);
        sealed.resize(HEAD + padded, 0);
        let cipher = master.cipher(id);
        let associated = associated(master.number, key);
        let tag = cipher.encrypt_inout_detached(&nonce, &associated, (&mut sealed[HEAD..]).into()).ok()?;
        sealed.extend_from_slice(&tag);
        Some(sealed.freeze())
    }

    /// The content of what was sealed for this very session; none for anything else.
    pub(super) fn open(&self, id: &SessionId, key: &SessionKey, sealed: &[u8]) -> Option<Unsealed> {
        let (head, rest) = sealed.split_at_checked(HEAD)?;
        let (&[FORMAT, number], nonce) = head.split_first_chunk::<2>()? else { return None };
        let (encrypted, tag) = rest.split_last_chunk::<TAG>()?;
        if encrypted.len() > (MAX_CONTENT + 2).next_multiple_of(BLOCK) {
            return None;
        }
        let nonce = XNonce::try_from(nonce).ok()?;
        let masters = self.0.iter().enumerate().filter(|(_, master)| master.number == number);
        for (age, master) in masters {
            let mut content = Zeroizing::new(encrypted.to_vec());
            let opened = master.cipher(id).decrypt_inout_detached(
                &nonce,
                &associated(number, key),
                content.as_mut_slice().into(),
                &(*tag).into(),
            );
            if opened.is_ok() {
                let length = usize::from(u16::from_be_bytes(*content.first_chunk::<2>()?));
                if length > content.len() - 2 {
                    return None;
                }
                content.drain(..2);
                content.truncate(length);
                return Some(Unsealed { content, current: age == 0 });
            }
        }
        None
    }

    fn masters(&self, number: u8) -> impl Iterator<Item = &Master> {
        self.0.iter().filter(move |master| master.number == number)
    }
}

impl Master {
    fn cipher(&self, id: &SessionId) -> XChaCha20Poly1305 {
        let key = Zeroizing::new(self.tagger.tag(&[b"seal\0", id.as_bytes()]));
        XChaCha20Poly1305::new((&*key).into())
    }
}

fn associated(number: u8, key: &SessionKey) -> [u8; 18] {
    let mut associated = [FORMAT; 18];
    associated[1] = number;
    associated[2..].copy_from_slice(key.as_bytes());
    associated
}

fn truncated(hash: &[u8; 32]) -> SessionKey {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash[..16]);
    SessionKey::from_bytes(bytes)
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer").field("secrets", &self.0.len()).finish()
    }
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
    fn what_is_sealed_opens_for_its_session_only() {
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

    #[test]
    fn sealing_twice_shows_neither_that_the_contents_are_alike_nor_their_length() {
        let sealer = sealer();
        let (id, key) = session(&sealer);
        let (one, two) = (sealer.seal(&id, &key, b"secret").unwrap(), sealer.seal(&id, &key, b"secret").unwrap());
        assert_ne!(one[HEAD..], two[HEAD..]);
        assert_eq!(one.len(), sealer.seal(&id, &key, b"a longer secret").unwrap().len());
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_noticed() {
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
    fn after_a_rotation_the_old_opens_and_the_new_seals() {
        let before = sealer();
        let (id, key) = session(&before);
        let old = before.seal(&id, &key, b"a login").unwrap();

        let after = Sealer::new(&Secret::new([9; 32]).with_previous(Secret::new([7; 32])));
        assert!(after.keys(&id).any(|known| known == key), "the session is found under its old key");
        let unsealed = after.open(&id, &key, &old).unwrap();
        assert!(!unsealed.current);
        let new = after.seal(&id, &key, &unsealed.content).unwrap();
        assert!(after.open(&id, &key, &new).unwrap().current);
        assert!(before.open(&id, &key, &new).is_none());

        let without_old = Sealer::new(&Secret::new([9; 32]));
        assert!(without_old.open(&id, &key, &old).is_none());
    }

    #[test]
    fn contents_are_bounded() {
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
        fn no_bytes_are_too_strange(bytes in proptest::collection::vec(0_u8.., 0..200)) {
            let sealer = sealer();
            let (id, key) = session(&sealer);
            proptest::prop_assert!(sealer.open(&id, &key, &bytes).is_none());
        }

        #[test]
        fn every_content_comes_back(bytes in proptest::collection::vec(0_u8.., 0..300)) {
            let sealer = sealer();
            let (id, key) = session(&sealer);
            let sealed = sealer.seal(&id, &key, &bytes).unwrap();
            proptest::prop_assert_eq!(content(sealer.open(&id, &key, &sealed)), Some(bytes));
        }
    }
}
