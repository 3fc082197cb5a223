//! `charset` and `charset_types`: the declared charset of a response (`ngx_http_charset_module`).
//! The text itself is passed unchanged.

use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderValue};

use crate::nginx::directives::catalogue::{arg, usage, wrong_number};
use crate::nginx::syntax::{Directive, Fault};

/// nginx's default of `charset_types`, to which `text/html` always belongs.
const TYPES: [&str; 6] =
    ["text/html", "text/xml", "text/plain", "text/vnd.wap.wml", "application/javascript", "application/rss+xml"];

/// `charset` and `charset_types` of a block.
#[derive(Debug, Clone, Default)]
pub(crate) struct Charset {
    /// The charset; `None` if it is `off` or not written.
    name: Option<Arc<str>>,
    /// The types, in lower case.
    types: Option<Arc<[String]>>,
}

impl Charset {
    pub(super) fn read_name(&mut self, directive: &Directive) -> Result<(), Fault> {
        let word = arg(directive)?;
        let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':' | b'+');
        if word.text.is_empty() || !word.text.bytes().all(is_letter) {
            return Err(word.invalid("charset", "off, or one name like utf-8, without variables"));
        }
        self.name = Some(word.text.as_str()).filter(|name| *name != "off").map(Into::into);
        Ok(())
    }

    pub(super) fn read_types(&mut self, directive: &Directive) -> Result<(), Fault> {
        if directive.args.is_empty() {
            return Err(wrong_number(directive));
        }
        if let Some(word) = directive.args.iter().find(|word| word.text != "*" && !word.text.contains('/')) {
            return Err(word.invalid("type", usage("charset_types")));
        }
        self.types = Some(directive.args.iter().map(|word| word.text.to_ascii_lowercase()).collect());
        Ok(())
    }

    /// Adds the types of another directive.
    pub(super) fn add_types(&mut self, other: &Charset) {
        let types = [&self.types, &other.types].into_iter().flatten().flat_map(|types| types.iter().cloned());
        self.types = Some(types.collect());
    }

    /// Adds the charset to the type of a response, if it is one of the types and has no parameters.
    pub(crate) fn apply(&self, headers: &mut HeaderMap) {
        let Some(name) = &self.name else { return };
        let Some(kind) = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()) else { return };
        let is = |known: &str| known.eq_ignore_ascii_case(kind);
        let is_one = match &self.types {
            None => TYPES.into_iter().any(is),
            Some(types) => is(TYPES[0]) || types.iter().any(|known| known == "*" || is(known)),
        };
        // With `*`, the type may have parameters.
        if is_one
            && !kind.to_ascii_lowercase().contains("charset=")
            && let Ok(kind) = HeaderValue::try_from(format!("{kind}; charset={name}"))
        {
            headers.insert(header::CONTENT_TYPE, kind);
        }
    }
}
