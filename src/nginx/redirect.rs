//! `proxy_redirect`: a node's `Location` turned into one that leads back through the front end.

use super::error::{ErrorKind, Fault};
use super::parser::Directive;
use super::variables::{Maps, Template};

/// One `proxy_redirect` line.
#[derive(Debug, Clone)]
pub(crate) enum RedirectRule {
    /// The address of `proxy_pass` becomes the location's path; also when there is no line.
    Default,
    /// Nothing changes, whatever other lines say.
    Off,
    /// One prefix becomes another.
    Replace(Redirect),
}

/// One prefix and what replaces it.
#[derive(Debug, Clone)]
pub(crate) struct Redirect {
    /// The prefix.
    pub(crate) from: Template,
    /// Its replacement.
    pub(crate) to: Template,
}

impl RedirectRule {
    pub(super) fn read(directive: &Directive, maps: &Maps) -> Result<RedirectRule, Fault> {
        let fault = |message: &str| {
            Fault::new(ErrorKind::Unsupported, directive.span(), message)
                .expecting("proxy_redirect default|off|FROM TO; with FROM a prefix")
        };
        match &directive.args[..] {
            [word] if word.text == "default" => Ok(RedirectRule::Default),
            [word] if word.text == "off" => Ok(RedirectRule::Off),
            [from, _] if from.text.starts_with('~') => {
                Err(fault("proxy_redirect with a regular expression is not supported"))
            }
            [from, _] if from.text.is_empty() => Err(fault("proxy_redirect from an empty prefix")),
            [from, to] => {
                Ok(RedirectRule::Replace(Redirect { from: Template::new(from, maps)?, to: Template::new(to, maps)? }))
            }
            _ => Err(fault("invalid number of arguments of \"proxy_redirect\"")),
        }
    }
}
