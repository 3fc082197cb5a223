//! The URI that `proxy_pass` sends.

use super::Matcher;
use crate::kylin::NormalizedPath;
use crate::nginx::readings::RequestPaths;
use crate::nginx::syntax::{Fault, Word};
use crate::nginx::uri::has_hidden_dots;

/// The form of the URI for the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PassUri {
    /// The URI as received.
    Unchanged,
    /// The normalised path, with its first `prefix` bytes replaced.
    Replace { prefix: usize, with: String },
    /// The normalised path, escaped again (`$uri`); with the query or without
    /// (`$uri$is_args$args`).
    Normalised { query: bool },
    /// `$request_uri`: the URI of the client, even if `rewrite` changed the path.
    Original,
    /// A URI with other variables, which replaces path and arguments.
    Variables,
}

impl PassUri {
    pub(super) fn read(uri: &str, authority: &str, word: &Word, at: &Matcher) -> Result<PassUri, Fault> {
        match uri {
            "" => Ok(PassUri::Unchanged),
            "$request_uri" => Ok(PassUri::Original),
            "$uri" => Ok(PassUri::Normalised { query: false }),
            "$uri$is_args$args" => Ok(PassUri::Normalised { query: true }),
            uri if uri.contains('$') => Ok(PassUri::Variables),
            uri if NormalizedPath::parse(uri).is_err() || !is_sendable(uri) => {
                Err(word.invalid("URI in proxy_pass", "a path that begins with \"/\" and is escaped"))
            }
            with => {
                let kind = match at {
                    Matcher::Exact(_) | Matcher::Prefix { .. } => {
                        return Ok(PassUri::Replace { prefix: at.text().len(), with: with.to_owned() });
                    }
                    Matcher::Regex(_) => "a location given by a regular expression",
                    Matcher::Named(_) => "a named location",
                };
                let message = format!("proxy_pass cannot have a URI part in {kind}");
                let expected = format!("http://{authority}; with rewrite ^ {with} break; before it for another path");
                Err(word.span.value(message, expected))
            }
        }
    }
}

/// Returns whether a node reads a URI as it is written. Dots in a variable could lead to another
/// path.
pub(crate) fn is_plain(uri: &str) -> bool {
    let path = uri.split('?').next().unwrap_or_default();
    !has_hidden_dots(path.as_bytes()) && is_sendable(uri) && RequestPaths::of(uri, false).is_some()
}

/// Returns whether a text can be part of a request line without escaping.
fn is_sendable(uri: &str) -> bool {
    uri.bytes().all(|byte| {
        (0x21..0x7f).contains(&byte)
            && !matches!(byte, b'#' | b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}')
    })
}
