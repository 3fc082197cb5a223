use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// The address that a node listens on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Address {
    /// An IP address and port.
    Socket(SocketAddr),
    /// A host name, which is resolved for every new connection, and a port.
    Name(String, u16),
    /// The path of a unix socket.
    Unix(PathBuf),
}

/// The error for a text that is not an [`Address`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the address of a node: expected name:port, 1.2.3.4:port, [v6]:port or unix:/path")]
pub struct InvalidAddress(String);

impl InvalidAddress {
    /// Returns the rejected text, or its first 255 characters.
    pub fn value(&self) -> &str {
        &self.0
    }
}

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let invalid = || InvalidAddress(text.chars().take(255).collect());
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() { Err(invalid()) } else { Ok(Address::Unix(path.into())) };
        }
        if let Ok(socket) = text.parse() {
            return Ok(Address::Socket(socket));
        }
        let (name, port) = text.rsplit_once(':').ok_or_else(invalid)?;
        let port = port.parse().ok().filter(|port| *port > 0).ok_or_else(invalid)?;
        let label = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        if name.is_empty() || name.len() > 253 || !name.bytes().all(label) {
            return Err(invalid());
        }
        Ok(Address::Name(name.to_owned(), port))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Socket(socket) => write!(f, "{socket}"),
            Address::Name(name, port) => write!(f, "{name}:{port}"),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_parsed_and_displayed() {
        for text in ["10.0.0.1:7070", "[::1]:7070", "kylin-1.example:7070", "unix:/run/kylin.sock"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn the_error_names_the_expected_forms() {
        for text in
            ["", "kylin", "kylin:", "kylin:0", "kylin:70000", "::1:70", "http://kylin:7070", "a b:1", "unix:", "a\0:1"]
        {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains("expected name:port"), "{error}");
        }
    }
}
