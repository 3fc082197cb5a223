//! `return`: an answer without a node.

use super::error::{ErrorKind, Fault};
use super::parser::Directive;
use super::values;
use super::variables::{Maps, Template};

/// An answer that the front end gives itself.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    /// The status, 200 to 599.
    pub(crate) status: u16,
    /// `Location` of a redirect.
    pub(crate) location: Option<Template>,
    /// The body, of the type [`Settings::default_type`](super::Settings::default_type).
    pub(crate) text: Option<Template>,
}

impl Reply {
    pub(super) fn read(directive: &Directive, maps: &Maps) -> Result<Reply, Fault> {
        let usage = "return CODE;, return CODE TEXT;, return 301|302|303|307|308 URL; or return URL;";
        let (first, second) = match &directive.args[..] {
            [first] => (first, None),
            [first, second] => (first, Some(second)),
            _ => {
                return Err(Fault::new(
                    ErrorKind::Value,
                    directive.span(),
                    "invalid number of arguments of \"return\"",
                )
                .expecting(usage));
            }
        };
        let is_url = ["http://", "https://", "$scheme"].iter().any(|start| first.text.starts_with(start));
        if second.is_none() && is_url {
            return Ok(Reply { status: 302, location: Some(Template::for_header(first, maps)?), text: None });
        }
        if first.text == "444" {
            return Err(Fault::new(
                ErrorKind::Unsupported,
                first.span,
                "return 444 (closing without an answer) is not supported",
            )
            .expecting("a status that is sent, such as 403"));
        }
        if !first.text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(values::invalid(first, "return code").expecting(usage));
        }
        let status = values::number(first, "", 200, 599)?;
        let status = u16::try_from(status).unwrap_or(500);
        Ok(match status {
            301 | 302 | 303 | 307 | 308 => {
                Reply { status, location: second.map(|url| Template::for_header(url, maps)).transpose()?, text: None }
            }
            _ => Reply { status, location: None, text: second.map(|text| Template::new(text, maps)).transpose()? },
        })
    }
}
