//! `types`: the type of a response of the site itself, by the extension of the path
//! (`ngx_http_set_content_type`).

use std::collections::HashMap;
use std::sync::Arc;

use http::HeaderValue;

use crate::nginx::syntax::{Directive, Fault};

/// The types of a block.
#[derive(Debug, Clone, Default)]
pub(crate) struct Types {
    /// The types by the extension in lower case; `None` for nginx's defaults.
    by_extension: Option<Arc<HashMap<String, HeaderValue>>>,
}

impl Types {
    /// Reads a `types` block. `is_first` says that it is the first one in its block, which then
    /// inherits none.
    pub(super) fn read(&mut self, directive: &Directive, is_first: bool) -> Result<(), Fault> {
        if is_first {
            self.by_extension = None;
        }
        let types = Arc::make_mut(self.by_extension.get_or_insert_default());
        for line in directive.block.iter().flatten() {
            let kind = HeaderValue::from_str(&line.name.text)
                .map_err(|_| line.name.invalid("type", "a type like application/json"))?;
            types.extend(line.args.iter().map(|extension| (extension.text.to_ascii_lowercase(), kind.clone())));
        }
        Ok(())
    }

    /// Returns the type for a path; `None` if `default_type` applies.
    pub(crate) fn of(&self, path: &[u8]) -> Option<HeaderValue> {
        let extension = extension(path)?;
        match &self.by_extension {
            Some(types) => types.get(&extension).cloned(),
            None => match &*extension {
                "html" => Some(HeaderValue::from_static("text/html")),
                "gif" => Some(HeaderValue::from_static("image/gif")),
                "jpg" => Some(HeaderValue::from_static("image/jpeg")),
                _ => None,
            },
        }
    }
}

/// Returns the extension of a path in lower case. A name that begins with its only dot has none.
fn extension(path: &[u8]) -> Option<String> {
    let name = path.rsplit(|byte| *byte == b'/').next()?;
    let at = name.iter().rposition(|byte| *byte == b'.').filter(|at| *at > 0)?;
    Some(String::from_utf8_lossy(&name[at + 1..]).to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_extension_is_behind_the_last_dot_of_the_name() {
        for (path, expected) in [
            ("/a.html", Some("html")),
            ("/a.tar.GZ", Some("gz")),
            ("/a.b/c", None),
            ("/.json", None),
            ("/a.", Some("")),
            ("/", None),
        ] {
            assert_eq!(extension(path.as_bytes()).as_deref(), expected, "{path}");
        }
    }
}
