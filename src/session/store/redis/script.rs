//! The commands, and the script that compares and sets.

use std::sync::LazyLock;
use std::time::Duration;

use redis::{Cmd, Script, Value, cmd};

use super::faults::{Verdict, nonsense};
use super::link::Link;
use crate::session::StoreError;
use crate::session::store::remote::LONGEST;

/// KEYS: the record's. ARGV: the new version, the new record, its time to live in ms, what is compared, with what.
///
/// Answers 1 when the write was done - also when it had been done before, by a request whose answer was lost -, otherwise with
/// what is there. A value of another type than string counts as nothing, as does a missing one. No value is read further than
/// one byte past the longest that may be ours.
static SAVE: LazyLock<String> = LazyLock::new(|| {
    format!(
        "local found = redis.pcall('GETRANGE', KEYS[1], 0, {LONGEST})
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

/// What the server knows the script by.
static SAVE_HASH: LazyLock<String> = LazyLock::new(|| Script::new(&SAVE).get_hash().to_owned());

/// The longest time to live that is asked for, in ms: a hundred years, far below where Redis refuses.
const LONGEST_TTL: u128 = 100 * 365 * 86_400_000;

/// What a writer compares with.
pub(super) enum Believed {
    /// No value.
    Absent,
    /// A value with this version.
    Version(u64),
    /// Exactly this value.
    Bytes(Vec<u8>),
}

/// What became of a write.
pub(super) enum Outcome {
    /// It is there.
    Done,
    /// This value is; empty when none.
    Found(Vec<u8>),
}

/// Writes the record if what is there is what is `believed`.
pub(super) async fn save(
    link: &Link,
    key: &[u8],
    version: u64,
    record: &[u8],
    believed: &Believed,
    ttl: Duration,
) -> Result<Outcome, StoreError> {
    let call = |name, script: &[u8]| {
        let mut command = cmd(name);
        command.arg(script).arg(1).arg(key).arg(&version.to_be_bytes()[..]).arg(record).arg(milliseconds(ttl));
        match believed {
            Believed::Absent => command.arg("value").arg(""),
            Believed::Version(version) => command.arg("version").arg(&version.to_be_bytes()[..]),
            Believed::Bytes(bytes) => command.arg("value").arg(&bytes[..]),
        };
        command
    };
    let answer = match link.ask(&call("EVALSHA", SAVE_HASH.as_bytes()), key).await {
        // A server that has not seen the script yet, or lost it in a restart.
        Err(Verdict::NoScript) => link.ask(&call("EVAL", SAVE.as_bytes()), key).await,
        answer => answer,
    };
    match answer? {
        Value::Int(1) => Ok(Outcome::Done),
        Value::BulkString(bytes) => Ok(Outcome::Found(bytes)),
        _ => Err(nonsense().into()),
    }
}

/// Reads a value, or as much of it as shows that it is too long.
pub(super) fn get_range(key: &[u8]) -> Cmd {
    let mut command = cmd("GETRANGE");
    command.arg(key).arg(0).arg(LONGEST);
    command
}

/// Gives a key a new time to live.
pub(super) fn expire(key: &[u8], ttl: Duration) -> Cmd {
    let mut command = cmd("PEXPIRE");
    command.arg(key).arg(milliseconds(ttl));
    command
}

/// Removes a key.
pub(super) fn unlink(key: &[u8]) -> Cmd {
    let mut command = cmd("UNLINK");
    command.arg(key);
    command
}

fn milliseconds(ttl: Duration) -> u64 {
    ttl.as_millis().clamp(1, LONGEST_TTL) as u64
}
