//! `error_page`: replaces errors of the front end itself, and of nodes with
//! `proxy_intercept_errors`.

use crate::nginx::directives::catalogue::wrong_number;
use crate::nginx::directives::context::ReadContext;
use crate::nginx::syntax::{Directive, Fault, Span, Word, values};
use crate::nginx::variables::{Maps, Template};

/// An `error_page` directive.
#[derive(Debug, Clone)]
pub(crate) struct ErrorPage {
    codes: Vec<u16>,
    status: PageStatus,
    pub(crate) target: PageTarget,
    pub(crate) span: Span,
}

/// The target that responds in place of an error.
#[derive(Debug, Clone)]
pub(crate) enum PageTarget {
    /// The location of this name.
    Named(String),
    /// The location for this path, with these arguments. A file is not served.
    Path { path: String, args: String },
    /// A redirect.
    Redirect(Template),
    /// A value that begins with a variable or has one in its path. The request decides which kind
    /// of target it is.
    Computed(Template),
    /// A page for errors that do not occur here.
    Never,
}

/// The status of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PageStatus {
    /// The status of the error.
    OfError,
    /// `=`: the status of the page.
    OfPage,
    /// The status of `=N`.
    Set(u16),
}

impl ErrorPage {
    pub(super) fn read(directive: &Directive, context: &mut ReadContext<'_>) -> Result<ErrorPage, Fault> {
        let Some((page, codes)) = directive.args.split_last() else { return Err(wrong_number(directive)) };
        let (status, codes) = match codes.split_last() {
            Some((last, codes)) if last.text.starts_with('=') => match &last.text[1..] {
                "" => (PageStatus::OfPage, codes),
                number => {
                    let number = Word { text: number.to_owned(), span: last.span.right(1) };
                    (PageStatus::Set(u16::try_from(values::number(&number, 200..=599)?).unwrap_or(500)), codes)
                }
            },
            _ => (PageStatus::OfError, codes),
        };
        if codes.is_empty() {
            return Err(wrong_number(directive));
        }
        let codes: Result<Vec<_>, _> = codes.iter().map(|code| values::number(code, 300..=599)).collect();
        let codes: Vec<_> = codes?.into_iter().filter_map(|code| u16::try_from(code).ok()).collect();
        let absent: Vec<_> = codes.iter().filter(|code| matches!(code, 494..=497)).map(u16::to_string).collect();
        if !absent.is_empty() {
            let text = format!(
                "error_page {}: the client gets no response to such an error: its connection is closed if it breaks the rules of TLS, \
                 speaks HTTP at an address of TLS, or sends too long a head",
                absent.join(" ")
            );
            context.remarks.note(directive.span(), text);
        }
        let target =
            if absent.len() == codes.len() { PageTarget::Never } else { PageTarget::read(page, &context.maps)? };
        Ok(ErrorPage { codes, status, target, span: directive.span() })
    }

    /// Returns the named location that responds.
    pub(crate) fn named(&self) -> Option<&String> {
        if let PageTarget::Named(name) = &self.target { Some(name) } else { None }
    }

    /// Returns whether the page applies to a status of the location itself.
    pub(crate) fn is_of(&self, status: u16) -> bool {
        self.codes.contains(&status)
    }

    /// Returns whether the page applies to an error of the proxy. If no server is eligible, nginx
    /// responds with 502 and this crate with 503.
    pub(crate) fn is_for(&self, status: u16) -> bool {
        self.codes.contains(&status) || (status == 503 && self.codes.contains(&502))
    }

    /// Returns the status of the response to the client; `None` for the status of the page.
    pub(crate) fn status(&self, of_error: u16) -> Option<u16> {
        match self.status {
            PageStatus::OfError => Some(of_error),
            PageStatus::OfPage => None,
            PageStatus::Set(status) => Some(status),
        }
    }

    /// Returns the status of the redirect in place of an error.
    pub(crate) fn redirect_status(&self) -> u16 {
        match self.status {
            PageStatus::Set(status @ (301..=303 | 307 | 308)) => status,
            PageStatus::OfError | PageStatus::OfPage | PageStatus::Set(_) => 302,
        }
    }

    /// Returns the status of the front end's own error if the page is not served. The client must
    /// not mistake that error for the page.
    pub(crate) fn status_without_page(&self) -> Option<u16> {
        if let PageStatus::Set(status @ 400..) = self.status { Some(status) } else { None }
    }
}

impl PageTarget {
    fn read(page: &Word, maps: &Maps) -> Result<PageTarget, Fault> {
        let text = page.text.as_str();
        let is_url = text.starts_with("$scheme:") || text.contains("://");
        if text.contains('$') && !is_url {
            return Ok(PageTarget::Computed(Template::for_header(page, maps)?));
        }
        if text.starts_with('@') {
            return Ok(PageTarget::Named(text.to_owned()));
        }
        if text.starts_with('/') {
            let (path, args) = text.split_once('?').unwrap_or((text, ""));
            return Ok(PageTarget::Path { path: path.to_owned(), args: args.to_owned() });
        }
        Ok(PageTarget::Redirect(Template::for_header(page, maps)?))
    }

    /// Returns the template of a target with variables.
    pub(crate) fn variables(&self) -> Option<&Template> {
        match self {
            PageTarget::Computed(value) | PageTarget::Redirect(value) => {
                Some(value).filter(|value| value.as_literal().is_none())
            }
            PageTarget::Named(_) | PageTarget::Path { .. } | PageTarget::Never => None,
        }
    }

    /// Returns whether the target may be a named location.
    pub(crate) fn may_be_named(&self) -> bool {
        match self {
            PageTarget::Named(_) => true,
            PageTarget::Computed(value) => {
                !["/", "$uri", "$document_uri", "$request_uri"].iter().any(|path| value.text().starts_with(path))
            }
            PageTarget::Path { .. } | PageTarget::Redirect(_) | PageTarget::Never => false,
        }
    }
}
