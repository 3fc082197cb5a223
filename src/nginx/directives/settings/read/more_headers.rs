//! `more_set_headers` and `more_clear_headers` of headers-more-nginx-module: replaces or removes
//! headers of every response.

use http::HeaderName;

use crate::nginx::directives::catalogue::{usage, wrong_number};
use crate::nginx::directives::settings::AddHeader;
use crate::nginx::syntax::{Directive, Fault, Word};
use crate::nginx::variables::{Maps, Template};
use crate::proxy::HeaderEdits;

/// The directives of a block and of the surrounding blocks.
#[derive(Debug, Clone, Default)]
pub(crate) struct MoreHeaders {
    /// The headers that are removed, before `expires`, `add_header` and `charset` apply. Headers
    /// that are set are removed first too.
    pub(crate) removed: Vec<HeaderName>,
    pub(crate) set: Vec<AddHeader>,
}

impl MoreHeaders {
    pub(super) fn read(&mut self, directive: &Directive, maps: &Maps) -> Result<(), Fault> {
        if directive.args.is_empty() {
            return Err(wrong_number(directive));
        }
        for word in &directive.args {
            if word.text.starts_with('-') || word.text.contains('*') {
                let message = format!("\"{}\" of {} is not supported", word.text, directive.name.text);
                return Err(word.span.unsupported(message, usage(&directive.name.text)));
            }
            let (name, value) = word.text.split_once(':').unwrap_or((&word.text, ""));
            let skip = word.text.len() - value.trim_start().len();
            let name = HeaderName::try_from(name.trim()).ok().filter(HeaderEdits::allows);
            let name = name.ok_or_else(|| word.invalid("header", usage(&directive.name.text)))?;
            self.set.retain(|header| header.name != name);
            if directive.is("more_set_headers") && !value.trim().is_empty() {
                let value = Word { text: value.trim().to_owned(), span: word.span.right(skip) };
                let value = Template::for_header(&value, maps)?;
                self.set.push(AddHeader { name: name.clone(), value, always: true });
            }
            if !self.removed.contains(&name) {
                self.removed.push(name);
            }
        }
        Ok(())
    }
}
