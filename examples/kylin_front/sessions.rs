//! `--secret-file`: the secret that front ends share.

use std::error::Error;
use std::path::Path;

use kylin_lb::session::{InvalidSecret, Secret};

/// Returns the secret of `file`, or a random one, and whether it is random.
pub fn secret(file: Option<&Path>) -> Result<(Secret, bool), Box<dyn Error>> {
    Ok(match file {
        Some(file) => (read(file)?, false),
        None => (Secret::random()?, true),
    })
}

/// Reads the secret again. A random secret does not change.
pub fn reread(file: Option<&Path>, present: &Secret) -> Result<Secret, Box<dyn Error>> {
    let read = file.map(read).transpose()?;
    Ok(read.filter(|read| read != present).unwrap_or_else(|| present.clone()))
}

fn read(file: &Path) -> Result<Secret, Box<dyn Error>> {
    let place = |line: Option<usize>| match line {
        Some(line) => format!("--secret-file {}:{line}", file.display()),
        None => format!("--secret-file {}", file.display()),
    };
    let bytes = std::fs::read(file).map_err(|error| format!("{}: {error}", place(None)))?;
    match <[u8; 32]>::try_from(&bytes[..]) {
        Ok(bytes) => Ok(Secret::new(bytes)),
        Err(_) => Ok(lines(&bytes).map_err(|(line, error)| format!("{}: {error}", place(line)))?),
    }
}

/// Parses the current secret in the first line, and earlier ones in the others. An error has the
/// number of its line.
fn lines(bytes: &[u8]) -> Result<Secret, (Option<usize>, InvalidSecret)> {
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    let mut secrets = lines.map(|(number, line)| Secret::parse(line).map_err(|error| (Some(number), error)));
    let first = secrets.next().unwrap_or(Err((None, InvalidSecret)))?;
    secrets.try_fold(first, |secret, previous| Ok(secret.with_previous(previous?)))
}
