//! The commands, and the script that compares and sets.

use std::sync::LazyLock;
use std::time::Duration;

use redis::{Cmd, Script, cmd};

use crate::session::store::remote::MAX_VALUE_LEN;

/// KEYS: the key of the record. ARGV: the new version, the new record, its time to live in ms, what
/// to compare (`version` or `value`), and the value to compare with.
///
/// Returns 1 if the record was written, even by an earlier request whose response was lost;
/// otherwise the value under the key. A value that is not a string counts as missing. The script
/// reads one byte more than the longest value of this store.
static SAVE: LazyLock<String> = LazyLock::new(|| {
    format!(
        "local found = redis.pcall('GETRANGE', KEYS[1], 0, {MAX_VALUE_LEN})
        if type(found) == 'table' then
            if string.sub(found.err or '', 1, 9) ~= 'WRONGTYPE' then return found end
            found = ''
        end
        local version = string.sub(found, 1, 8)
        if version == ARGV[1] then return 1 end
        local same
        if ARGV[4] == 'version' then same = version == ARGV[5] else same = found == ARGV[5] end
        if not same then return found end
        redis.call('SET', KEYS[1], ARGV[1] .. ARGV[2], 'PX', ARGV[3])
        return 1"
    )
});

/// The hash by which servers know the script.
static SAVE_HASH: LazyLock<String> = LazyLock::new(|| Script::new(&SAVE).get_hash().to_owned());

/// The maximum time to live, in ms: a hundred years, far below the limit of Redis.
const MAX_TTL: u128 = 100 * 365 * 86_400_000;

/// The value under a key that a write requires.
pub(super) enum RequiredValue {
    /// A value with this version.
    Version(u64),
    /// Exactly this value; empty for none.
    Value(Vec<u8>),
}

/// How a request names the script.
#[derive(Clone, Copy)]
pub(super) enum Call {
    /// By its hash, which is enough for a server that has seen the script.
    ByHash,
    /// By its text, after which the server knows the hash.
    ByText,
}

/// A write by the script: the new record, and the required value under its key.
pub(super) struct Write<'a> {
    pub(super) key: &'a [u8],
    pub(super) version: u64,
    pub(super) record: &'a [u8],
    pub(super) ttl: Duration,
    pub(super) expected: RequiredValue,
}

impl Write<'_> {
    /// Makes the command that writes the record if the value under the key is the expected one.
    pub(super) fn command(&self, call: Call) -> Cmd {
        let (name, script) = match call {
            Call::ByHash => ("EVALSHA", &*SAVE_HASH),
            Call::ByText => ("EVAL", &*SAVE),
        };
        let mut command = cmd(name);
        let version = &self.version.to_be_bytes()[..];
        command.arg(script).arg(1).arg(self.key).arg(version).arg(self.record).arg(milliseconds(self.ttl));
        match &self.expected {
            RequiredValue::Version(version) => command.arg("version").arg(&version.to_be_bytes()[..]),
            RequiredValue::Value(value) => command.arg("value").arg(&value[..]),
        };
        command
    }
}

/// Makes the command that reads a value. It reads only enough to show that a value is too long.
pub(super) fn get_range(key: &[u8]) -> Cmd {
    Cmd::getrange(key, 0, MAX_VALUE_LEN as isize)
}

/// Makes the command that sets a new time to live.
pub(super) fn expire(key: &[u8], ttl: Duration) -> Cmd {
    Cmd::pexpire(key, milliseconds(ttl))
}

fn milliseconds(ttl: Duration) -> i64 {
    ttl.as_millis().clamp(1, MAX_TTL) as i64
}
