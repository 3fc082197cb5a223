//! `--secret-file`: the secret that front ends share.

use std::error::Error;
use std::path::Path;

use kylin_lb::session::{InvalidSecret, Secret};

/// Returns the secret of `file`, or a random one, and whether it is random.
pub fn secret(file: Option<&Path>) -> Result<(Secret, bool), Box<dyn Error>> {
    let Some(file) = file else { return Ok((Secret::random()?, true)) };
    let bytes = std::fs::read(file).map_err(|error| format!("--secret-file {}: {error}", file.display()))?;
    let secret = match <[u8; 32]>::try_from(&bytes[..]) {
        Ok(bytes) => Secret::new(bytes),
        Err(_) => lines(&bytes).map_err(|error| format!("--secret-file {}: {error}", file.display()))?,
    };
    Ok((secret, false))
}

/// Parses the current secret in the first line, earlier ones in the others.
fn lines(bytes: &[u8]) -> Result<Secret, InvalidSecret> {
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    let mut secrets = text.lines().filter(|line| !line.trim().is_empty()).map(Secret::parse);
    let first = secrets.next().unwrap_or_else(|| Secret::parse(""))?;
    secrets.try_fold(first, |secret, previous| Ok(secret.with_previous(previous?)))
}
