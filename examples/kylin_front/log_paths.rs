//! Checks the paths of logs: `--check` reports a log that could not be written, and no two logs may
//! be the same file.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use kylin_lb::nginx::Config;

use crate::args::Args;
use crate::say;

/// The name of standard output.
const STDOUT: &str = "-";

/// Whether a log is written to standard output, so that other lines must not go there.
static IS_STDOUT_TAKEN: AtomicBool = AtomicBool::new(false);

/// Returns whether a log is written to standard output.
pub fn is_stdout_taken() -> bool {
    IS_STDOUT_TAKEN.load(Ordering::Relaxed)
}

/// Records whether a log of the options is written to standard output.
pub fn take_stdout(args: &Args) {
    for (_, path) in options(args) {
        match path {
            STDOUT => IS_STDOUT_TAKEN.store(true, Ordering::Relaxed),
            path => take_if_stdout(Path::new(path)),
        }
    }
}

/// Records whether the log at `path` is standard output.
pub fn take_if_stdout(path: &Path) {
    if are_same(path, file(STDOUT)) {
        IS_STDOUT_TAKEN.store(true, Ordering::Relaxed);
    }
}

/// Checks that the logs of the options could be written.
pub fn check(args: &Args) -> Result<(), String> {
    let mut files = options(args).filter(|(_, path)| *path != STDOUT);
    files.try_for_each(|(option, path)| check_path(Path::new(path)).map_err(|error| format!("{option}: {error}")))
}

/// Checks that no access log of a configuration is the log of an option. Reports those that could
/// not be written; a front end that starts serves without them.
pub fn check_config(args: &Args, config: &Config) -> Result<(), String> {
    for path in config.access_logs() {
        check_apart(args, config, path)?;
        if let Err(error) = check_path(path) {
            say(format_args!("note: {}: access_log: {error}: requests are served without it\n", place(config, path)));
        }
    }
    Ok(())
}

/// Checks that the logs of the options are distinct files, because a file must not have lines of
/// two formats.
pub fn check_distinct(args: &Args) -> Result<(), String> {
    let (Some(access), Some(query)) = (&args.access_log, &args.query_log) else { return Ok(()) };
    match access == query && access == STDOUT || are_same(file(access), file(query)) {
        true => {
            Err(format!("--access-log {access} and --query-log {query} are one file: their lines have two formats"))
        }
        false => Ok(()),
    }
}

/// Checks that an access log of a configuration is not the log of an option.
pub fn check_apart(args: &Args, config: &Config, path: &Path) -> Result<(), String> {
    let is_same = |(_, other): &(&str, &str)| are_same(file(other), path);
    match options(args).find(is_same) {
        Some((option, other)) => Err(format!(
            "{}: access_log {} and {option} {other} are one file: their lines have two formats",
            place(config, path),
            path.display()
        )),
        None => Ok(()),
    }
}

/// Returns the file that the value of an option names.
fn file(log: &str) -> &Path {
    Path::new(if log == STDOUT { "/dev/stdout" } else { log })
}

/// Returns the options that name a log, each with its path.
fn options(args: &Args) -> impl Iterator<Item = (&'static str, &str)> {
    let logs = [("--access-log", &args.access_log), ("--query-log", &args.query_log)];
    logs.into_iter().filter_map(|(option, path)| Some((option, path.as_deref()?)))
}

/// Returns the file and the line that name an access log.
pub fn place<'c>(config: &'c Config, path: &Path) -> &'c str {
    config.access_log_place(path).unwrap_or_default()
}

/// Checks that a log could be written. Nothing is created at its path, where another process may
/// create the file at the same time.
fn check_path(path: &Path) -> io::Result<()> {
    let opened = match fs::metadata(path) {
        // Opening a pipe would wait for its reader.
        Ok(found) if found.file_type().is_fifo() => Ok(()),
        Ok(_) => OpenOptions::new().append(true).open(path).map(drop),
        Err(error) => match to_make(path).as_deref().and_then(Path::parent) {
            Some(folder) => tempfile::tempfile_in(folder).map(drop),
            None => Err(error),
        },
    };
    opened.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

/// Returns whether two paths name the same file. Two paths of one device, such as `/dev/null`,
/// count as different.
fn are_same(one: &Path, other: &Path) -> bool {
    match (fs::metadata(one), fs::metadata(other)) {
        (Ok(first), Ok(second)) => {
            !first.file_type().is_char_device() && (first.dev(), first.ino()) == (second.dev(), second.ino())
        }
        (Err(_), Err(_)) => to_make(one).is_some_and(|one| Some(one) == to_make(other)),
        _ => false,
    }
}

/// Returns the path of a file that does not exist, without links and `..`; `None` if its folder
/// does not exist either.
fn to_make(path: &Path) -> Option<PathBuf> {
    let mut path = path.to_owned();
    // The number of links that Linux follows.
    for _ in 0..40 {
        let Ok(link) = fs::read_link(&path) else { break };
        path = path.with_file_name("").join(link);
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Some(fs::canonicalize(folder).ok()?.join(path.file_name()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_paths_name_one_file_whether_it_exists_or_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("logs")).unwrap();
        std::os::unix::fs::symlink(path("logs"), path("link")).unwrap();
        std::os::unix::fs::symlink("logs/log", path("dangling")).unwrap();
        std::os::unix::fs::symlink("dangling", path("chain")).unwrap();
        let names = ["logs/log", "link/log", "logs/../logs/./log", "dangling", "chain"];
        for exists in [false, true] {
            if exists {
                fs::write(path("logs/log"), "").unwrap();
            }
            for name in names {
                assert!(are_same(&path("logs/log"), &path(name)), "{name}, {exists}");
                assert!(!are_same(&path("logs/other"), &path(name)), "{name}, {exists}");
            }
        }
        fs::hard_link(path("logs/log"), path("hard")).unwrap();
        assert!(are_same(&path("hard"), &path("logs/log")));
        assert!(!are_same(&path("none/log"), &path("none/other")));
        assert!(!are_same(Path::new("/dev/null"), Path::new("/dev/null")), "nothing is mixed there");
    }

    #[test]
    fn a_check_makes_no_file_and_keeps_one_that_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("log"), folder.path().join("link"));
        std::os::unix::fs::symlink("log", &link).unwrap();
        check_path(&path).unwrap();
        check_path(&link).unwrap();
        assert!(!path.exists() && link.is_symlink());
        fs::write(&path, "line\n").unwrap();
        check_path(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "line\n");
        let missing = folder.path().join("none/log");
        let error = check_path(&missing).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{}: No such file", missing.display())), "{error}");
        assert!(check_path(folder.path()).is_err(), "a folder");
    }
}
