//! The forms of a password in a file: those that `htpasswd` writes and nginx reads.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use sha1::{Digest as _, Sha1};

use super::md5_crypt;

/// Padding is often lost.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

const SHA1_BYTES: usize = 20;

/// Returns whether a hash has a form that [`verify`] reads.
pub(super) fn is_known(hash: &str) -> bool {
    ["$apr1$", "$1$", "$2a$", "$2b$", "$2y$", "{SHA}", "{SSHA}", "{PLAIN}"].iter().any(|form| hash.starts_with(form))
}

/// Returns whether a password has a hash. It takes as long as its author wished: call it where it may block.
pub(super) fn verify(password: &[u8], hash: &str) -> bool {
    if let Some(plain) = hash.strip_prefix("{PLAIN}") {
        return is_equal(plain.as_bytes(), password);
    }
    // `{SHA}` is the same without a salt.
    if let Some(encoded) = hash.strip_prefix("{SSHA}").or(hash.strip_prefix("{SHA}")) {
        let Ok(decoded) = BASE64.decode(encoded) else { return false };
        let Some((digest, salt)) = decoded.split_at_checked(SHA1_BYTES) else { return false };
        let has_salt = hash.starts_with("{SSHA}");
        let found = Sha1::new().chain_update(password).chain_update(if has_salt { salt } else { b"" }).finalize();
        return is_equal(digest, &found) && (has_salt || salt.is_empty());
    }
    if hash.starts_with("$2") {
        return bcrypt::verify(password, hash).unwrap_or(false);
    }
    md5_crypt::verify(password, hash).unwrap_or(false)
}

/// Compares in a time that does not depend on where the first difference is.
fn is_equal(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |found, (a, b)| found | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_of_htpasswd_and_openssl_are_verified() {
        for (hash, password) in [
            // openssl passwd -apr1 and -1.
            ("$apr1$TqI9WECO$HZpuYZtWZ5dDKyNqLBmIY/", "amanda"),
            ("$apr1$saltsalt$Bm5nQ0.KFtQ/VuLcOsUAD.", "KYLIN"),
            ("$apr1$saltsalt$A7NzetRBPnh16WMccQV.p.", "a password longer than sixteen bytes, with ü"),
            ("$apr1$saltsalt$a8ml/vK5HEjiZ5oypDWA7/", ""),
            ("$1$saltsalt$vaqe9WebxC6SY8P3TCbOR0", "KYLIN"),
            // crypt of libxcrypt, and SHA-1 of Python.
            ("$2y$05$abcdefghijklmnopqrstuuMVExgjdH5.49L5YWlx8PMyh3He25e36", "KYLIN"),
            ("{SHA}jnHSX49f9qVc+kdK+xOdCZmKxtk=", "KYLIN"),
            ("{SSHA}y4uJhtrWe/IrZq5hiyjIusqcn/RhYmNk", "KYLIN"),
            ("{PLAIN}KY:LIN", "KY:LIN"),
        ] {
            assert!(is_known(hash) && verify(password.as_bytes(), hash), "{hash}");
            assert!(!verify(format!("{password}x").as_bytes(), hash), "{hash}");
            assert!(!verify(b"kylin", hash), "{hash}");
        }
    }

    #[test]
    fn what_is_no_hash_verifies_nothing() {
        for hash in [
            "",
            "KYLIN",
            "{SHA}",
            "{SHA}!",
            "{SSHA}AAAA",
            "$apr1$",
            "$apr1$salt",
            "$2y$05$short",
            "$2y$99$",
            "rqXexS6ZhobKA",
        ] {
            assert!(!verify(b"KYLIN", hash) && !verify(b"", hash), "{hash}");
        }
        assert!(!is_known("rqXexS6ZhobKA") && !is_known("KYLIN"));
    }
}
