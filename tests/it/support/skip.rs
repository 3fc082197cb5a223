//! Skips a test if the server that it needs is not installed.

use std::fs::OpenOptions;
use std::io::Write;

/// Returns whether a test that needs `what` can run. If it is not `present`, reports that
/// prominently.
///
/// # Panics
/// Panics if it is not present and the environment has `CI=true`, where a skipped test is a failed
/// one.
pub(crate) fn installed(what: &str, present: bool) -> bool {
    if present {
        return true;
    }
    let thread = std::thread::current();
    let line = format!("{}: {what} is not installed", thread.name().unwrap_or("a test"));
    let ci = std::env::var("CI").is_ok_and(|value| value == "true");
    assert!(!ci, "{line}, and with CI=true no test may be skipped");
    announce(&line);
    false
}

/// Bypasses the capture of test output (which only affects print macros), and writes to the list
/// that `tests/run` shows.
fn announce(line: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED {line}");
    if let Some(list) = std::env::var_os("KYLIN_LB_SKIPPED") {
        let mut list = OpenOptions::new().create(true).append(true).open(list).expect("the list of skipped tests");
        list.write_all(format!("{line}\n").as_bytes()).expect("the list of skipped tests");
    }
}
