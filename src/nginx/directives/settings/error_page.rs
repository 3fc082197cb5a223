//! `error_page`: other responses for errors of the front end itself.

use crate::nginx::directives::catalogue::wrong_number;
use crate::nginx::directives::remarks::Remarks;
use crate::nginx::syntax::{Directive, Fault, Span, Word, values};

/// One `error_page` line.
#[derive(Debug, Clone)]
pub(crate) struct ErrorPage {
    codes: Vec<u16>,
    status: PageStatus,
    /// The named location that responds; `None` for a page that is not served here.
    pub(crate) named: Option<String>,
    pub(crate) span: Span,
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
    pub(super) fn read(directive: &Directive, remarks: &mut Remarks<'_>) -> Result<ErrorPage, Fault> {
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
        if page.text.contains("://") || page.text.contains('$') {
            let expected = "error_page CODE... =CODE @NAME; and location @NAME { return 302 URL; }";
            return Err(page.span.unsupported("error_page to another address", expected));
        }
        let codes: Result<Vec<_>, _> = codes.iter().map(|code| values::number(code, 300..=599)).collect();
        let codes = codes?.into_iter().filter_map(|code| u16::try_from(code).ok()).collect();
        let named = page.text.starts_with('@').then(|| page.text.clone());
        if named.is_none() {
            let text = format!("error_page {}: error responses of the front end have Kylin's form", page.text);
            remarks.note(directive.span(), text);
        }
        Ok(ErrorPage { codes, status, named, span: directive.span() })
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

    /// Returns whether the page changes the front end's own response.
    pub(crate) fn has_effect(&self) -> bool {
        self.named.is_some() || matches!(self.status, PageStatus::Set(_))
    }

    /// Returns the status of the response to the client.
    pub(crate) fn status(&self, of_error: u16, of_page: u16) -> u16 {
        match self.status {
            PageStatus::OfError => of_error,
            PageStatus::OfPage => of_page,
            PageStatus::Set(status) => status,
        }
    }
}
