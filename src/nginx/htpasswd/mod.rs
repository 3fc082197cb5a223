//! `auth_basic_user_file`: users and hashes of their passwords (`ngx_http_auth_basic_module`).
//!
//! A hash takes as long as its author wished, up to seconds, so it is computed off the threads that serve requests, by few at a time.
//! The last right password of each user is remembered for a while, as a keyed hash of it.

#[cfg(feature = "htpasswd")]
mod hash;
#[cfg(feature = "htpasswd")]
mod md5_crypt;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use hmac::{Hmac, Mac as _};
use parking_lot::Mutex;
use sha2::Sha256;
use tokio::sync::Semaphore;

use crate::clock::{Clock, SystemClock};
use crate::proxy::BasicCredentials;

#[cfg(not(feature = "htpasswd"))]
mod hash {
    /// A configuration that needs the feature is an error.
    pub(super) fn is_known(_hash: &str) -> bool {
        false
    }

    pub(super) fn verify(_password: &[u8], _hash: &str) -> bool {
        false
    }
}

/// The time for which a right password is remembered.
const REMEMBERED: Duration = Duration::from_secs(300);

/// The time for which a file is taken for unchanged.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// How many hashes of a file are computed at a time. More would leave no core for the requests of others.
const MAX_HASHING: usize = 2;

const MAX_FILE_BYTES: u64 = 4 << 20;

/// One file of passwords, which is read again when it has changed.
#[derive(Debug)]
pub(crate) struct PasswordFile {
    path: PathBuf,
    /// Of [`PasswordFile::digest`]; it differs in each process.
    key: [u8; 32],
    hashing: Semaphore,
    content: Mutex<Content>,
}

#[derive(Debug, Default)]
struct Content {
    /// The time at which the file was last looked at; `None`: never.
    checked: Option<Instant>,
    stamp: Option<Stamp>,
    /// By name.
    users: Arc<HashMap<String, User>>,
    /// The file could not be read.
    error: Option<io::ErrorKind>,
}

/// By what a change of a file is seen.
type Stamp = (Option<SystemTime>, u64);

#[derive(Debug)]
struct User {
    hash: String,
    /// The digest of the last right password, and when it was verified.
    verified: Mutex<Option<([u8; 32], Instant)>>,
}

/// What a file says of credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PasswordCheck {
    Right,
    /// The user is unknown, or the password is wrong.
    Wrong,
    /// There is no such file; nginx responds with 403.
    NoFile,
    /// The file cannot be read; nginx responds with 500.
    Unreadable,
}

impl PasswordFile {
    pub(crate) fn new(path: PathBuf) -> Self {
        let mut key = [0; 32];
        // Without randomness of the system nothing is remembered across processes either.
        if getrandom::fill(&mut key).is_err() {
            fastrand::fill(&mut key);
        }
        PasswordFile { path, key, hashing: Semaphore::new(MAX_HASHING), content: Mutex::default() }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the users whose hash has a form that is not verified here.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(crate) fn unknown_forms(&self) -> io::Result<Vec<String>> {
        let users = read(&self.path)?;
        let mut unknown: Vec<_> =
            users.into_iter().filter(|(_, user)| !hash::is_known(&user.hash)).map(|(name, _)| name).collect();
        unknown.sort();
        Ok(unknown)
    }

    /// Checks credentials. It waits for the hash of a password that is not remembered.
    pub(crate) async fn verify(self: Arc<Self>, credentials: BasicCredentials) -> PasswordCheck {
        if self.remembers(&credentials, SystemClock.now()) {
            return PasswordCheck::Right;
        }
        let file = Arc::clone(&self);
        // The semaphore is never closed, and the closure does not panic.
        let Ok(_permit) = self.hashing.acquire().await else { return PasswordCheck::Unreadable };
        tokio::task::spawn_blocking(move || file.verify_now(&credentials)).await.unwrap_or(PasswordCheck::Unreadable)
    }

    fn remembers(&self, credentials: &BasicCredentials, now: Instant) -> bool {
        let users = {
            let content = self.content.lock();
            let is_fresh =
                content.checked.is_some_and(|checked| now.saturating_duration_since(checked) < CHECK_INTERVAL);
            if !is_fresh || content.error.is_some() {
                return false;
            }
            Arc::clone(&content.users)
        };
        users.get(&credentials.user).is_some_and(|user| user.remembers(&self.digest(credentials), now))
    }

    /// Reads the file if it has changed, and checks credentials by it.
    fn verify_now(&self, credentials: &BasicCredentials) -> PasswordCheck {
        let users = match self.users() {
            Ok(users) => users,
            Err(io::ErrorKind::NotFound) => return PasswordCheck::NoFile,
            Err(_) => return PasswordCheck::Unreadable,
        };
        let Some(user) = users.get(&credentials.user) else { return PasswordCheck::Wrong };
        let (digest, now) = (self.digest(credentials), SystemClock.now());
        if user.remembers(&digest, now) {
            return PasswordCheck::Right;
        }
        if !hash::verify(&credentials.password, &user.hash) {
            return PasswordCheck::Wrong;
        }
        *user.verified.lock() = Some((digest, now));
        PasswordCheck::Right
    }

    fn users(&self) -> Result<Arc<HashMap<String, User>>, io::ErrorKind> {
        let mut content = self.content.lock();
        let now = SystemClock.now();
        if content.checked.is_none_or(|checked| now.saturating_duration_since(checked) >= CHECK_INTERVAL) {
            let stamp = fs::metadata(&self.path).map(|file| (file.modified().ok(), file.len())).ok();
            if stamp.is_none() || stamp != content.stamp || content.error.is_some() {
                match read(&self.path) {
                    Ok(users) => (content.users, content.error) = (Arc::new(users), None),
                    Err(error) => {
                        if content.error != Some(error.kind()) {
                            tracing::error!(file = %self.path.display(), %error, "passwords cannot be read");
                        }
                        (content.users, content.error) = (Arc::default(), Some(error.kind()));
                    }
                }
                content.stamp = stamp;
            }
            content.checked = Some(now);
        }
        match content.error {
            None => Ok(Arc::clone(&content.users)),
            Some(error) => Err(error),
        }
    }

    fn digest(&self, credentials: &BasicCredentials) -> [u8; 32] {
        let mut block = [0; 64];
        block[..32].copy_from_slice(&self.key);
        let mut mac = Hmac::<Sha256>::new(&block.into());
        mac.update(&credentials.password);
        mac.finalize().into_bytes().into()
    }
}

impl User {
    fn remembers(&self, digest: &[u8; 32], now: Instant) -> bool {
        self.verified
            .lock()
            .is_some_and(|(right, at)| right == *digest && now.saturating_duration_since(at) < REMEMBERED)
    }
}

/// Reads lines of `NAME:HASH[:REMARK]`. The first line of a name counts, and `#` begins a remark.
fn read(path: &Path) -> io::Result<HashMap<String, User>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "more than 4 MiB of passwords"));
    }
    let mut users = HashMap::new();
    for line in String::from_utf8_lossy(&bytes).split(['\n', '\r']) {
        let mut parts = line.splitn(3, ':');
        if let (Some(name), Some(hash)) = (parts.next(), parts.next())
            && !name.is_empty()
            && !name.starts_with('#')
        {
            let user = User { hash: hash.to_owned(), verified: Mutex::default() };
            users.entry(name.to_owned()).or_insert(user);
        }
    }
    Ok(users)
}

#[cfg(feature = "htpasswd")]
#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use http::{HeaderMap, header};

    fn credentials(user: &str, password: &str) -> BasicCredentials {
        let token = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
        let headers = HeaderMap::from_iter([(header::AUTHORIZATION, format!("Basic {token}").parse().unwrap())]);
        BasicCredentials::of(&headers).unwrap()
    }

    #[test]
    fn a_right_password_is_remembered_and_a_changed_file_forgets_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        let file = PasswordFile::new(path.clone());
        assert_eq!(file.verify_now(&credentials("a", "right")), PasswordCheck::NoFile);
        fs::write(&path, "# remark:{PLAIN}x\n\n:{PLAIN}empty\na:{PLAIN}right:a remark\na:{PLAIN}second\r\nb:plain\n")
            .unwrap();
        let again = |file: &PasswordFile| file.content.lock().checked = None;
        again(&file);
        for (user, password, expected) in [
            ("a", "right", PasswordCheck::Right),
            ("a", "second", PasswordCheck::Wrong),
            ("a", "", PasswordCheck::Wrong),
            ("b", "plain", PasswordCheck::Wrong),
            ("# remark", "x", PasswordCheck::Wrong),
        ] {
            assert_eq!(file.verify_now(&credentials(user, password)), expected, "{user} {password}");
        }
        let now = SystemClock.now();
        file.content.lock().checked = Some(now);
        assert!(file.remembers(&credentials("a", "right"), now));
        assert!(!file.remembers(&credentials("a", "second"), now) && !file.remembers(&credentials("b", "plain"), now));
        assert!(!file.remembers(&credentials("a", "right"), now + CHECK_INTERVAL), "the file may have changed");
        assert!(!format!("{file:?}").contains("114, 105, 103, 104, 116"), "the password is kept nowhere");
        assert_eq!(file.unknown_forms().unwrap(), ["b"]);
        fs::write(&path, "a:{PLAIN}another\n").unwrap();
        again(&file);
        assert_eq!(file.verify_now(&credentials("a", "right")), PasswordCheck::Wrong);
        assert_eq!(file.verify_now(&credentials("a", "another")), PasswordCheck::Right);
        fs::remove_file(&path).unwrap();
        again(&file);
        assert_eq!(file.verify_now(&credentials("a", "another")), PasswordCheck::NoFile);
    }
}
