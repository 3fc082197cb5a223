//! The forms of a password in a file: those that `htpasswd` writes and nginx reads.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use sha_crypt::{Sha256Params, Sha512Params};
use sha1::{Digest as _, Sha1};

use super::md5_crypt;

/// Base64 with or without padding, which is often lost.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

const SHA1_BYTES: usize = 20;

const FORMS: [&str; 10] = ["$apr1$", "$1$", "$2a$", "$2b$", "$2y$", "$5$", "$6$", "{SHA}", "{SSHA}", "{PLAIN}"];

/// The number of rounds of SHA-crypt if a hash names none.
const SHA_CRYPT_ROUNDS: usize = 5000;

/// The maximum number of rounds of SHA-crypt, which take about a second. The process computes only
/// two hashes at a time, and cannot cancel them.
const MAX_SHA_CRYPT_ROUNDS: usize = 1_000_000;

/// The maximum cost of bcrypt, which takes some seconds.
const MAX_BCRYPT_COST: u32 = 16;

/// Returns whether a hash has a form that [`verify`] reads, and a cost that it accepts.
pub(super) fn is_known(hash: &str) -> bool {
    FORMS.iter().any(|form| hash.starts_with(form)) && !is_too_slow(hash)
}

fn is_too_slow(hash: &str) -> bool {
    let number_behind = |prefix: usize| hash.get(prefix..).and_then(|rest| rest.split('$').next());
    match hash.as_bytes() {
        [b'$', b'2', ..] => {
            number_behind(4).and_then(|cost| cost.parse().ok()).is_none_or(|cost: u32| cost > MAX_BCRYPT_COST)
        }
        [b'$', b'5' | b'6', b'$', ..] => number_behind(3)
            .and_then(|field| field.strip_prefix("rounds="))
            .is_some_and(|rounds| rounds.parse().ok().is_none_or(|rounds: usize| rounds > MAX_SHA_CRYPT_ROUNDS)),
        _ => false,
    }
}

/// Returns whether a password has this hash. This may take seconds by design, so it must be called
/// where blocking is allowed.
pub(super) fn verify(password: &[u8], hash: &str) -> bool {
    if is_too_slow(hash) {
        return false;
    }
    if let Some(plain) = hash.strip_prefix("{PLAIN}") {
        return is_equal(plain.as_bytes(), password);
    }
    // `{SHA}` has no salt.
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
    sha_crypt(password, hash).or_else(|| md5_crypt::verify(password, hash)).unwrap_or(false)
}

/// Verifies `$5$[rounds=N$]SALT$DIGEST` and `$6$...`, SHA-crypt of Linux. Returns `None` for
/// another form of hash.
fn sha_crypt(password: &[u8], hash: &str) -> Option<bool> {
    let is_long = hash.starts_with("$6$");
    let rest = hash.strip_prefix("$5$").or(hash.strip_prefix("$6$"))?;
    let (rounds, rest) = match rest.strip_prefix("rounds=") {
        Some(rest) => rest.split_once('$').and_then(|(rounds, rest)| Some((rounds.parse().ok()?, rest)))?,
        None => (SHA_CRYPT_ROUNDS, rest),
    };
    let (salt, digest) = rest.split_once('$')?;
    let found = match is_long {
        false => sha_crypt::sha256_crypt_b64(password, salt.as_bytes(), &Sha256Params::new(rounds).ok()?).ok()?,
        true => sha_crypt::sha512_crypt_b64(password, salt.as_bytes(), &Sha512Params::new(rounds).ok()?).ok()?,
    };
    Some(is_equal(found.as_bytes(), digest.as_bytes()))
}

/// Compares in a time that does not depend on the position of the first difference.
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
            // openssl passwd -5 and -6.
            ("$5$saltsalt$C6cRaDtcjZdV4RyPMcSsywAa2Oplw5Dp1g/wVaSgq33", "KYLIN"),
            (
                "$5$rounds=1500$abcdefghijklmnop$4VU0OFHa0in6azKQP43ckqJ39UFDMWnXh24q.Hbgvx1",
                "a password, longer than sixteen bytes, ü",
            ),
            (
                "$6$saltsalt$AdLUkyEeFyxyFwWnG0TZAR3dEwP8p36ypOtV3lewpfs7owfl/Rby2u9sKLdfubKlyzy0kpTRKaY3vCAgAw3iw.",
                "KYLIN",
            ),
            (
                "$6$rounds=1500$saltsalt$i93nKww0751nidgXbRHFlgBo88YJtnxORJEIPesvcDy4..oLr9TOu3JHYz3jVavb/N5LHcuJ3GzJON4/ulvIa1",
                "KYLIN",
            ),
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
    fn a_hash_that_would_take_minutes_is_not_computed() {
        let digest = "AdLUkyEeFyxyFwWnG0TZAR3dEwP8p36ypOtV3lewpfs7owfl/Rby2u9sKLdfubKlyzy0kpTRKaY3vCAgAw3iw.";
        for hash in [
            format!("$6$rounds=999999999$saltsalt${digest}"),
            format!("$5$rounds=1000001$saltsalt${digest}"),
            format!("$6$rounds=99999999999999999999$saltsalt${digest}"),
            "$2y$31$abcdefghijklmnopqrstuuMVExgjdH5.49L5YWlx8PMyh3He25e36".to_owned(),
            "$2b$17$abcdefghijklmnopqrstuuMVExgjdH5.49L5YWlx8PMyh3He25e36".to_owned(),
        ] {
            assert!(!is_known(&hash) && !verify(b"KYLIN", &hash), "{hash}");
        }
        assert!(is_known("$2y$16$") && is_known("$6$rounds=1000000$"));
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
            "$5$",
            "$6$salt",
            "$6$rounds=500$saltsalt$AdLUkyEeFyxy",
            "$5$rounds=x$saltsalt$AdLUkyEeFyxy",
            "rqXexS6ZhobKA",
        ] {
            assert!(!verify(b"KYLIN", hash) && !verify(b"", hash), "{hash}");
        }
        assert!(!is_known("rqXexS6ZhobKA") && !is_known("KYLIN"));
    }
}
