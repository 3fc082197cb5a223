//! `return`: a response without a node.

use crate::nginx::directives::catalogue::wrong_number;
use crate::nginx::syntax::{Directive, Fault, values};
use crate::nginx::variables::{Maps, Template};

/// The maximum status code that nginx accepts.
const MAX_STATUS: u16 = 999;

/// A response that the front end gives itself.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    /// The status, from 200 to 999. For 444, the response is 403 and the connection is closed.
    pub(crate) status: u16,
    /// The `Location` of a redirect.
    pub(crate) location: Option<Template>,
    /// The body, whose type is `default_type`.
    pub(crate) text: Option<Template>,
}

impl Reply {
    /// Returns whether nginx treats the response as an error.
    ///
    /// Then `error_page` applies to it, and its status takes precedence over that of the
    /// `error_page` that led to it.
    pub(crate) fn is_error(&self) -> bool {
        match self.status {
            301 | 302 | 303 | 307 | 308 => true,
            status => status >= 400 && self.text.is_none(),
        }
    }

    /// Returns whether nginx closes the connection without a response.
    pub(crate) fn closes(&self) -> bool {
        self.status == 444
    }

    pub(crate) fn read(directive: &Directive, maps: &Maps) -> Result<Reply, Fault> {
        let usage = "return CODE;, return CODE TEXT;, return 301|302|303|307|308 URL; or return URL;";
        let (first, second) = match &directive.args[..] {
            [first] => (first, None),
            [first, second] => (first, Some(second)),
            _ => return Err(wrong_number(directive)),
        };
        let is_url = ["http://", "https://", "$scheme"].iter().any(|start| first.text.starts_with(start));
        if second.is_none() && is_url {
            return Ok(Reply { status: 302, location: Some(Template::for_header(first, maps)?), text: None });
        }
        if !first.text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(first.invalid("return code", usage));
        }
        let status = match values::parse_digits::<u32>(&first.text).unwrap_or(u32::MAX) {
            status @ 0..=199 => {
                let message = format!("\"return {status}\" is not supported");
                let expected =
                    "a code from 200: clients take a lower one for the beginning of a response, and wait for the rest";
                return Err(first.span.unsupported(message, expected));
            }
            status => u16::try_from(status).ok().filter(|status| *status <= MAX_STATUS),
        };
        let status = status.ok_or_else(|| first.invalid("return code", usage))?;
        let (location, text) = match status {
            301 | 302 | 303 | 307 | 308 => (second.map(|url| Template::for_header(url, maps)).transpose()?, None),
            _ => {
                let text = second.filter(|text| !text.text.is_empty());
                (None, text.map(|text| Template::new(text, maps)).transpose()?)
            }
        };
        Ok(Reply { status, location, text })
    }
}
