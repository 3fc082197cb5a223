//! `auth_basic_user_file`: users and hashes of their passwords (`ngx_http_auth_basic_module`).
//!
//! Computing a hash may take seconds by design, so it runs outside the threads that serve requests,
//! and only a few run at a time. The last correct password of each user is remembered for a while,
//! as a keyed hash.

#[cfg(feature = "htpasswd")]
mod hash;
mod hashing;
#[cfg(feature = "htpasswd")]
mod md5_crypt;

use std::collections::HashMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use hmac::{Hmac, Mac as _};
use parking_lot::Mutex;
use sha2::Sha256;
use tokio::sync::Semaphore;

use self::hashing::Hashing;
use crate::clock::{Clock, SystemClock};
use crate::proxy::BasicCredentials;

#[cfg(not(feature = "htpasswd"))]
mod hash {
    /// Returns false, so that a configuration that needs the feature is refused.
    pub(super) fn is_known(_hash: &str) -> bool {
        false
    }

    pub(super) fn verify(_password: &[u8], _hash: &str) -> bool {
        false
    }
}

/// The time for which a correct password is remembered.
const REMEMBERED: Duration = Duration::from_secs(300);

/// The time for which a file counts as unchanged.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

const MAX_FILE_BYTES: u64 = 4 << 20;

/// A file of passwords, which is read again when it has changed.
pub(crate) struct PasswordFile {
    path: PathBuf,
    /// The key of [`PasswordFile::digest`], which differs in each process.
    key: [u8; 32],
    hashing: Hashing,
    /// Lets one request at a time check whether the file has changed.
    looking: Arc<Semaphore>,
    content: Mutex<Content>,
}

#[derive(Default)]
struct Content {
    /// The time at which the file was last checked; `None` before the first check.
    checked: Option<Instant>,
    stamp: Option<Stamp>,
    /// The users by name.
    users: Users,
    /// The error, if the file could not be read.
    error: Option<io::ErrorKind>,
}

type Users = Arc<HashMap<String, Arc<User>>>;

/// The modification time and length of a file, by which a change is recognised.
type Stamp = (Option<SystemTime>, u64);

struct User {
    hash: String,
    /// The digest of the last correct password, and the time at which it was verified.
    verified: Mutex<Option<([u8; 32], Instant)>>,
}

/// The result of checking credentials against a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PasswordCheck {
    Right,
    /// The user is unknown, or the password is wrong.
    Wrong,
    /// The file does not exist; nginx responds with 403.
    NoFile,
    /// The file cannot be read; nginx responds with 500.
    Unreadable,
    /// Too many requests already wait for their passwords to be verified.
    Busy,
}

impl PasswordFile {
    pub(crate) fn new(path: PathBuf) -> Self {
        let mut key = [0; 32];
        // A weaker key is enough if the system has no random bytes, because digests are kept in
        // memory only.
        if getrandom::fill(&mut key).is_err() {
            fastrand::fill(&mut key);
        }
        PasswordFile {
            path,
            key,
            hashing: Hashing::of_process(),
            looking: Arc::new(Semaphore::new(1)),
            content: Mutex::default(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the users whose hash has an unsupported form.
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

    /// Checks credentials. It waits for the hash if the password is not remembered.
    pub(crate) async fn verify(self: Arc<Self>, credentials: BasicCredentials) -> PasswordCheck {
        let users = match self.known_users() {
            Some(known) => known,
            None => self.look().await,
        };
        let users = match users {
            Ok(users) => users,
            Err(io::ErrorKind::NotFound) => return PasswordCheck::NoFile,
            Err(_) => return PasswordCheck::Unreadable,
        };
        let Some(user) = users.get(&credentials.user) else { return PasswordCheck::Wrong };
        let (digest, now) = (self.digest(&credentials), SystemClock.now());
        if user.remembers(&digest, now) {
            return PasswordCheck::Right;
        }
        let user = Arc::clone(user);
        let hash = move || {
            // Another request may have verified the same password meanwhile.
            if user.remembers(&digest, now) {
                return true;
            }
            let is_right = hash::verify(&credentials.password, &user.hash);
            if is_right {
                *user.verified.lock() = Some((digest, now));
            }
            is_right
        };
        match self.hashing.run(hash).await {
            Some(true) => PasswordCheck::Right,
            Some(false) => PasswordCheck::Wrong,
            None => PasswordCheck::Busy,
        }
    }

    /// Returns the users as of the last check of the file, unless the check is too old.
    fn known_users(&self) -> Option<Result<Users, io::ErrorKind>> {
        let content = self.content.lock();
        let is_fresh = |at| SystemClock.now().saturating_duration_since(at) < CHECK_INTERVAL;
        content.checked.is_some_and(is_fresh).then(|| content.users())
    }

    /// Checks whether the file has changed, outside the threads that serve requests. Requests that
    /// wait meanwhile get the same result.
    async fn look(self: &Arc<Self>) -> Result<Users, io::ErrorKind> {
        // The semaphore is never closed, and the closure does not panic.
        let Ok(looking) = Arc::clone(&self.looking).acquire_owned().await else { return Err(io::ErrorKind::Other) };
        if let Some(users) = self.known_users() {
            return users;
        }
        let file = Arc::clone(self);
        let look = move || {
            let _looking = looking;
            file.look_now()
        };
        tokio::task::spawn_blocking(look).await.unwrap_or(Err(io::ErrorKind::Other))
    }

    fn look_now(&self) -> Result<Users, io::ErrorKind> {
        let stamp = fs::metadata(&self.path).map(|file| (file.modified().ok(), file.len())).ok();
        let has_changed = {
            let content = self.content.lock();
            stamp.is_none() || stamp != content.stamp || content.error.is_some()
        };
        let read = has_changed.then(|| read(&self.path));
        let mut content = self.content.lock();
        match read {
            None => {}
            Some(Ok(users)) => (content.users, content.error) = (Arc::new(users), None),
            Some(Err(error)) => {
                if content.error != Some(error.kind()) {
                    tracing::error!(file = %self.path.display(), %error, "passwords cannot be read");
                }
                (content.users, content.error) = (Arc::default(), Some(error.kind()));
            }
        }
        (content.stamp, content.checked) = (stamp, Some(SystemClock.now()));
        content.users()
    }

    fn digest(&self, credentials: &BasicCredentials) -> [u8; 32] {
        let mut block = [0; 64];
        block[..32].copy_from_slice(&self.key);
        let mut mac = Hmac::<Sha256>::new(&block.into());
        mac.update(&credentials.password);
        mac.finalize().into_bytes().into()
    }
}

impl fmt::Debug for PasswordFile {
    /// Leaves the hashes out, because a hash of the form `{PLAIN}` is the password itself.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PasswordFile").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Content {
    fn users(&self) -> Result<Users, io::ErrorKind> {
        match self.error {
            None => Ok(Arc::clone(&self.users)),
            Some(error) => Err(error),
        }
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
fn read(path: &Path) -> io::Result<HashMap<String, Arc<User>>> {
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
            users.entry(name.to_owned()).or_insert_with(|| Arc::new(user));
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

    #[tokio::test]
    async fn a_right_password_is_remembered_and_a_changed_file_forgets_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        let file = Arc::new(PasswordFile { hashing: Hashing::new(), ..PasswordFile::new(path.clone()) });
        let verify = |user: &str, password: &str| {
            // The last check of the file was then long ago.
            file.content.lock().checked = None;
            Arc::clone(&file).verify(credentials(user, password))
        };
        assert_eq!(verify("a", "right").await, PasswordCheck::NoFile);
        fs::write(&path, "# remark:{PLAIN}x\n\n:{PLAIN}empty\na:{PLAIN}right:a remark\na:{PLAIN}second\r\nb:plain\n")
            .unwrap();
        for (user, password, expected) in [
            ("a", "right", PasswordCheck::Right),
            ("a", "second", PasswordCheck::Wrong),
            ("a", "", PasswordCheck::Wrong),
            ("b", "plain", PasswordCheck::Wrong),
            ("# remark", "x", PasswordCheck::Wrong),
        ] {
            assert_eq!(verify(user, password).await, expected, "{user} {password}");
        }
        let now = SystemClock.now();
        let users = file.content.lock().users().unwrap();
        let remembers =
            |user: &str, password, now| users[user].remembers(&file.digest(&credentials(user, password)), now);
        assert!(remembers("a", "right", now));
        assert!(!remembers("a", "second", now) && !remembers("b", "plain", now));
        assert!(!remembers("a", "right", now + REMEMBERED));
        assert_eq!(file.unknown_forms().unwrap(), ["b"]);
        assert_eq!(format!("{file:?}"), format!("PasswordFile {{ path: {path:?}, .. }}"));
        fs::write(&path, "a:{PLAIN}another\n").unwrap();
        assert_eq!(verify("a", "right").await, PasswordCheck::Wrong);
        assert_eq!(verify("a", "another").await, PasswordCheck::Right);
        file.hashing.close();
        assert_eq!(verify("a", "wrong").await, PasswordCheck::Busy);
        assert_eq!(verify("a", "another").await, PasswordCheck::Right, "it needs no hash");
        fs::remove_file(&path).unwrap();
        assert_eq!(verify("a", "another").await, PasswordCheck::NoFile);
    }
}
