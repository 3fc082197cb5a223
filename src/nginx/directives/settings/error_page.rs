//! `error_page`: other responses for errors of the front end itself.

use crate::nginx::directives::catalogue::wrong_number;
use crate::nginx::directives::context::ReadContext;
use crate::nginx::syntax::{Directive, Fault, Span, Word, values};
use crate::nginx::variables::Template;

/// One `error_page` line.
#[derive(Debug, Clone)]
pub(crate) struct ErrorPage {
    codes: Vec<u16>,
    status: PageStatus,
    pub(crate) target: PageTarget,
    pub(crate) span: Span,
}

/// What responds in place of an error.
#[derive(Debug, Clone)]
pub(crate) enum PageTarget {
    /// The location of this name.
    Named(String),
    /// The location for this path, with these arguments. A file is not served.
    Path { path: String, args: String },
    /// A redirect with this status.
    Redirect(u16, Template),
    /// Errors that do not occur here.
    Never,
}

/// The status of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PageStatus {
    /// The status of the error.
    OfError,
    /// `=`: the status of the page.
    OfPage,
    /// `=N`.
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
        let target = match codes.iter().all(|code| matches!(code, 494..=497)) {
            true => {
                let text =
                    "error_page: connections are closed for errors of TLS, and for plain HTTP at an address of TLS";
                context.remarks.note(directive.span(), text);
                PageTarget::Never
            }
            false => PageTarget::read(page, &codes, status, context)?,
        };
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

    /// Returns whether the page applies to an error of the proxy. If no server is eligible, nginx responds with 502 and this crate
    /// with 503.
    pub(crate) fn is_for(&self, status: u16) -> bool {
        self.codes.contains(&status) || (status == 503 && self.codes.contains(&502))
    }

    /// Returns the status of the response to the client.
    pub(crate) fn status(&self, of_error: u16, of_page: u16) -> u16 {
        match self.status {
            PageStatus::OfError => of_error,
            PageStatus::OfPage => of_page,
            PageStatus::Set(status) => status,
        }
    }

    /// Returns the status of the front end's own error in place of a page that is not served: the client must not take it for a page.
    pub(crate) fn status_without_page(&self) -> Option<u16> {
        if let PageStatus::Set(status @ 400..) = self.status { Some(status) } else { None }
    }
}

impl PageTarget {
    fn read(
        page: &Word,
        codes: &[u16],
        status: PageStatus,
        context: &mut ReadContext<'_>,
    ) -> Result<PageTarget, Fault> {
        let text = page.text.as_str();
        let has_variables = text.contains('$');
        if text.starts_with('@') {
            return Ok(PageTarget::Named(text.to_owned()));
        }
        if text.starts_with('/') && !has_variables {
            let (path, args) = text.split_once('?').unwrap_or((text, ""));
            return Ok(PageTarget::Path { path: path.to_owned(), args: args.to_owned() });
        }
        if text.starts_with("$scheme:") || text.contains("://") {
            let status = match status {
                PageStatus::Set(status @ (301..=303 | 307 | 308)) => status,
                _ => 302,
            };
            return Ok(PageTarget::Redirect(status, Template::for_header(page, &context.maps)?));
        }
        // The recipe for files that are to respond to a POST, and pages by the number of the error.
        if text.starts_with('/') || codes == [405] {
            context.remarks.note(
                page.span,
                format!("error_page {text}: static files are not served, so the error has Kylin's form"),
            );
            return Ok(PageTarget::Never);
        }
        let expected = "error_page CODE... [=CODE] @NAME, PATH or URL;";
        Err(page.span.unsupported("error_page to a path that depends on the request", expected))
    }
}
