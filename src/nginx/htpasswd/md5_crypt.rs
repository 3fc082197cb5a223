//! MD5-crypt: `$apr1$`, which `htpasswd` and `openssl passwd -apr1` write, and `$1$` of older
//! systems.
//!
//! The algorithm is that of Poul-Henning Kamp's `crypt` for FreeBSD. No maintained crate has it.

use md5::{Digest as _, Md5};

/// The digits of crypt's variant of Base64.
const DIGITS: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The maximum length of a salt in bytes. crypt ignores the rest.
const MAX_SALT: usize = 8;

/// Returns whether a password has this hash, of the form `$apr1$SALT$DIGEST`; `None` if it is not a
/// hash of MD5-crypt.
pub(super) fn verify(password: &[u8], hash: &str) -> Option<bool> {
    let magic = ["$apr1$", "$1$"].into_iter().find(|magic| hash.starts_with(magic))?;
    let (salt, digest) = hash[magic.len()..].split_once('$')?;
    let salt = &salt.as_bytes()[..salt.len().min(MAX_SALT)];
    Some(encode(&crypt(password, salt, magic.as_bytes())).as_bytes() == digest.as_bytes())
}

fn crypt(password: &[u8], salt: &[u8], magic: &[u8]) -> [u8; 16] {
    let inner: [u8; 16] = Md5::new().chain_update(password).chain_update(salt).chain_update(password).finalize().into();
    let mut md5 = Md5::new().chain_update(password).chain_update(magic).chain_update(salt);
    for start in (0..password.len()).step_by(inner.len()) {
        md5.update(&inner[..inner.len().min(password.len() - start)]);
    }
    let mut bits = password.len();
    while bits > 0 {
        let first = password.get(..1).unwrap_or_default();
        md5.update(if bits & 1 == 1 { &[0] } else { first });
        bits >>= 1;
    }
    let mut digest: [u8; 16] = md5.finalize().into();
    for round in 0..1000 {
        let mut md5 = Md5::new();
        let is_odd = round % 2 == 1;
        md5.update(if is_odd { password } else { &digest });
        if round % 3 != 0 {
            md5.update(salt);
        }
        if round % 7 != 0 {
            md5.update(password);
        }
        md5.update(if is_odd { &digest } else { password });
        digest = md5.finalize().into();
    }
    digest
}

/// Writes a digest in crypt's order of bytes.
fn encode(digest: &[u8; 16]) -> String {
    let groups = [[0, 6, 12], [1, 7, 13], [2, 8, 14], [3, 9, 15], [4, 10, 5]];
    let groups =
        groups.map(|[high, middle, low]| (u32::from_be_bytes([0, digest[high], digest[middle], digest[low]]), 4));
    let mut text = String::with_capacity(22);
    for (mut value, digits) in groups.into_iter().chain([(u32::from(digest[11]), 2)]) {
        for _ in 0..digits {
            text.push(char::from(DIGITS[(value & 63) as usize]));
            value >>= 6;
        }
    }
    text
}
