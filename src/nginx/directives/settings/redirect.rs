//! `proxy_redirect`: changes a node's `Location` so that it leads back through the front end.

use crate::nginx::directives::catalogue::wrong_number;
use crate::nginx::syntax::{Directive, Fault};
use crate::nginx::variables::{Maps, Template};

/// One `proxy_redirect` line.
#[derive(Debug, Clone)]
pub(crate) enum RedirectRule {
    /// The address of `proxy_pass` becomes the location's path. Also the rule without any line.
    Default,
    /// No `Location` is changed, whatever other lines say.
    Off,
    Replace(Redirect),
}

/// A prefix and its replacement.
#[derive(Debug, Clone)]
pub(crate) struct Redirect {
    pub(crate) from: Template,
    pub(crate) to: Template,
}

impl RedirectRule {
    pub(super) fn read(directive: &Directive, maps: &Maps) -> Result<RedirectRule, Fault> {
        let unsupported = |message: &str| {
            directive.span().unsupported(message, "proxy_redirect default|off|FROM TO; with FROM a prefix")
        };
        match &directive.args[..] {
            [word] if word.text == "default" => Ok(RedirectRule::Default),
            [word] if word.text == "off" => Ok(RedirectRule::Off),
            [from, _] if from.text.starts_with('~') => {
                Err(unsupported("proxy_redirect with a regular expression is not supported"))
            }
            [from, _] if from.text.is_empty() => Err(unsupported("proxy_redirect from an empty prefix")),
            [from, to] => {
                let (from, to) = (Template::new(from, maps)?, Template::new(to, maps)?);
                Ok(RedirectRule::Replace(Redirect { from, to }))
            }
            _ => Err(wrong_number(directive)),
        }
    }

    /// Returns the replacement of this line, where `default` replaces the prefix of the location
    /// itself.
    pub(crate) fn with_default(&self, default: &Option<Redirect>) -> Option<Redirect> {
        match self {
            RedirectRule::Default => default.clone(),
            RedirectRule::Off => None,
            RedirectRule::Replace(redirect) => Some(redirect.clone()),
        }
    }
}
