//! A cache of recently opened sessions. Opening a session takes longer than all other work of the
//! relay for a request.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::record::NodeCookies;
use crate::session::SessionKey;

/// The number of sessions that are kept. If more sessions are in use, some are opened again.
const SLOTS: usize = 4096;
/// The maximum length of a sealed session that is kept. It has space for about twenty nodes.
const MAX_SEALED: usize = 2048;

/// The content of a sealed session without its credentials, which are opened only when they are
/// sent.
#[derive(Debug, Clone)]
pub(super) struct Content {
    pub(super) cookies: Arc<NodeCookies>,
    /// Identifies the credentials.
    pub(super) fingerprint: SessionKey,
    /// Whether the session is sealed with the current secret.
    pub(super) is_current: bool,
}

/// The content of recently opened sessions.
pub(super) struct RecentlyOpened(Box<[Mutex<Option<Slot>>]>);

struct Slot {
    key: SessionKey,
    sealed: Bytes,
    content: Content,
}

impl RecentlyOpened {
    pub(super) fn new() -> Self {
        RecentlyOpened((0..SLOTS).map(|_| Mutex::new(None)).collect())
    }

    /// Returns the content of the session that is stored as `sealed` under `key`; calls `open` if
    /// it is not cached. The caller must have derived the key from the id of the session. The call
    /// never waits for another thread.
    pub(super) fn get(
        &self,
        key: &SessionKey,
        sealed: &Bytes,
        open: impl FnOnce() -> Option<Content>,
    ) -> Option<Content> {
        let Some(mut slot) = self.slot(key).try_lock() else { return open() };
        if let Some(known) = &*slot
            && known.key == *key
            && known.sealed == *sealed
        {
            return Some(known.content.clone());
        }
        let content = open()?;
        if sealed.len() <= MAX_SEALED {
            *slot = Some(Slot { key: *key, sealed: sealed.clone(), content: content.clone() });
        }
        Some(content)
    }

    /// Forgets a session that has ended.
    pub(super) fn forget(&self, key: &SessionKey) {
        self.slot(key).lock().take_if(|slot| slot.key == *key);
    }

    /// Keys are keyed hashes, so no client can aim at a slot.
    fn slot(&self, key: &SessionKey) -> &Mutex<Option<Slot>> {
        let [low, high, ..] = *key.as_bytes();
        &self.0[usize::from(u16::from_le_bytes([low, high])) % SLOTS]
    }
}

impl fmt::Debug for RecentlyOpened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecentlyOpened")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(number: u8) -> Content {
        Content { cookies: Arc::default(), fingerprint: key(number, number), is_current: true }
    }

    fn key(first: u8, last: u8) -> SessionKey {
        SessionKey::from_bytes([first, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last])
    }

    #[test]
    fn a_session_is_opened_once_and_again_when_it_has_changed_or_ended() {
        let opened = RecentlyOpened::new();
        let open = |key: &SessionKey, sealed: &'static [u8], number: Option<u8>| {
            let open = || Some(content(number.expect("it is kept")));
            opened.get(key, &Bytes::from_static(sealed), open).unwrap().fingerprint
        };
        // Two sessions with one slot.
        let (one, two) = (key(1, 1), key(1, 2));
        assert_eq!(open(&one, b"first", Some(1)), content(1).fingerprint);
        assert_eq!(open(&one, b"first", None), content(1).fingerprint);
        assert_eq!(open(&one, b"later", Some(2)), content(2).fingerprint);
        assert_eq!(open(&two, b"later", Some(3)), content(3).fingerprint);
        assert_eq!(open(&one, b"later", Some(4)), content(4).fingerprint);
        opened.forget(&two);
        assert_eq!(open(&one, b"later", None), content(4).fingerprint);
        opened.forget(&one);
        assert_eq!(open(&one, b"later", Some(5)), content(5).fingerprint);
    }

    #[test]
    fn what_does_not_open_and_what_is_long_is_not_kept() {
        let opened = RecentlyOpened::new();
        assert!(opened.get(&key(1, 1), &Bytes::from_static(b"damaged"), || None).is_none());
        let long = Bytes::from(vec![0; MAX_SEALED + 1]);
        for number in [1, 2] {
            let opened = opened.get(&key(2, 2), &long, || Some(content(number)));
            assert_eq!(opened.unwrap().fingerprint, content(number).fingerprint);
        }
    }
}
