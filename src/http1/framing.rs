//! The headers of a message that determine its body and its connection.

use http::Version;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::body_decoder::BodyDecoder;
use super::chunked::MAX_LENGTH;

/// The reason why the end of a body is unclear.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FramingError {
    #[error("transfer-encoding is not exactly \"chunked\"")]
    TransferEncoding,
    #[error("a transfer coding in HTTP/1.0")]
    ChunkedInHttp10,
    #[error("content-length is not a single number")]
    ContentLength,
}

/// The headers that frame a message. They are collected while its head is parsed, because a lookup
/// in the map costs more.
#[derive(Debug, Default)]
pub(crate) struct FramingHeaders {
    transfer_encodings: usize,
    chunked: bool,
    content_lengths: usize,
    content_length: Option<u64>,
    keep_alive: bool,
    close: bool,
    expects_continue: bool,
}

impl FramingHeaders {
    /// Returns false if no header whose name has this length frames a message, so that most names
    /// need no comparison.
    pub(crate) fn may_record(name_len: usize) -> bool {
        matches!(name_len, 6 | 10 | 14 | 17)
    }

    pub(crate) fn record(&mut self, name: &HeaderName, value: &[u8]) {
        match *name {
            header::CONTENT_LENGTH => {
                self.content_lengths += 1;
                self.content_length = parse_length(value);
            }
            header::TRANSFER_ENCODING => {
                self.transfer_encodings += 1;
                self.chunked = value.eq_ignore_ascii_case(b"chunked");
            }
            header::CONNECTION => {
                for option in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                    self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                    self.close |= option.eq_ignore_ascii_case(b"close");
                }
            }
            header::EXPECT => self.expects_continue = value.eq_ignore_ascii_case(b"100-continue"),
            _ => {}
        }
    }

    /// Returns the decoder of the body (RFC 9112, 6.3), or `None` if no header frames it. Fails if
    /// parsers may disagree on the end of the body (RFC 9112, 6.1).
    pub(crate) fn decoder(&self, version: Version) -> Result<Option<BodyDecoder>, FramingError> {
        match (self.transfer_encodings, self.content_lengths) {
            (0, 0) => Ok(None),
            (0, 1) => {
                self.content_length.map(|length| Some(BodyDecoder::Length(length))).ok_or(FramingError::ContentLength)
            }
            (1, 0) if self.chunked && version < Version::HTTP_11 => Err(FramingError::ChunkedInHttp10),
            (1, 0) if self.chunked => Ok(Some(BodyDecoder::chunked())),
            (1, _) if self.chunked => Err(FramingError::ContentLength),
            (0, _) => Err(FramingError::ContentLength),
            _ => Err(FramingError::TransferEncoding),
        }
    }

    /// Returns true if the sender of this head accepts another message on the connection (RFC 9112,
    /// 9.3).
    pub(crate) fn is_keep_alive(&self, version: Version) -> bool {
        !self.close && (version == Version::HTTP_11 || self.keep_alive)
    }

    /// Returns true if the client waits for `100 Continue` before it sends the body.
    pub(crate) fn expects_continue(&self) -> bool {
        self.expects_continue
    }
}

/// Returns true if a `Connection` header of a message that the proxy sends closes the connection.
pub(crate) fn is_close(value: &HeaderValue) -> bool {
    let mut headers = FramingHeaders::default();
    headers.record(&header::CONNECTION, value.as_bytes());
    headers.close
}

/// Returns the length that the headers of a message that the proxy sends declare.
pub(crate) fn declared_length(headers: &HeaderMap) -> Option<u64> {
    parse_length(headers.get(header::CONTENT_LENGTH)?.as_bytes())
}

fn parse_length(text: &[u8]) -> Option<u64> {
    let digit = |number: u64, byte: &u8| match byte {
        b'0'..=b'9' => number.checked_mul(10)?.checked_add(u64::from(byte - b'0')),
        _ => None,
    };
    if text.is_empty() { None } else { text.iter().try_fold(0, digit).filter(|number| *number <= MAX_LENGTH) }
}
