//! Reads whether a complete response to a query is a result.
//!
//! A response is classified by its beginning. But other clients get a copy of a result, so all of
//! it must show that it is one: its exception may follow its columns, and its end may be missing.

use std::borrow::Cow;
use std::io::Read;
use std::ops::ControlFlow;

use flate2::read::GzDecoder;
use http::HeaderMap;

use super::Coding;
use super::json::{self, Level, Value};

/// The maximum length of a result that is decompressed to be read, in bytes.
const MAX_PLAIN: u64 = 4 << 20;

/// The code in the envelope of a result (Kylin 5, KAP).
const SUCCESS: &str = "000";

/// The result of a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct QueryResult {
    /// Whether the result has all rows and changes only with builds. A query that was pushed down
    /// reads the source tables, which change without a build.
    #[cfg_attr(not(feature = "cache"), allow(dead_code, reason = "only the cache reads it"))]
    pub(crate) is_cacheable: bool,
}

/// The reason why a response with status 200 has no result that another client may get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoResult {
    /// It is an exception, is incomplete, or is no response of Kylin to a query.
    Failed,
    /// It cannot be read: its coding is unknown, or it is too long without its coding.
    Unreadable,
}

/// Reads the whole body of a response with status 200.
///
/// # Errors
/// [`NoResult`] if it is not the complete result of a query.
pub(crate) fn read_result(headers: &HeaderMap, body: &[u8]) -> Result<QueryResult, NoResult> {
    let plain = match Coding::of(headers) {
        Coding::Identity => Cow::Borrowed(body),
        Coding::Gzip => Cow::Owned(gunzip_whole(body)?),
        Coding::Other => return Err(NoResult::Unreadable),
    };
    let (mut has_rows, mut has_failed, mut is_cacheable) = (false, false, true);
    let is_whole = json::whole_members(&plain, |level, name, value| {
        let is_false = value == Value::Bare("false");
        match (name, &value) {
            (b"results", value) => has_rows = matches!(value, Value::Array { .. }),
            (b"isException", _) => has_failed |= !is_false,
            (b"code", Value::Text(code)) if level == Level::Top => has_failed |= code.decode() != SUCCESS,
            (b"pushDown" | b"partial", _) => is_cacheable &= is_false,
            _ => {}
        }
        ControlFlow::Continue(())
    });
    if is_whole && has_rows && !has_failed { Ok(QueryResult { is_cacheable }) } else { Err(NoResult::Failed) }
}

fn gunzip_whole(body: &[u8]) -> Result<Vec<u8>, NoResult> {
    let mut plain = Vec::new();
    match GzDecoder::new(body).take(MAX_PLAIN).read_to_end(&mut plain) {
        Ok(length) if (length as u64) < MAX_PLAIN => Ok(plain),
        Ok(_) => Err(NoResult::Unreadable),
        Err(_) => Err(NoResult::Failed),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use http::{HeaderValue, header};

    use super::*;

    fn read(body: &str) -> Result<QueryResult, NoResult> {
        read_result(&HeaderMap::new(), body.as_bytes())
    }

    fn gzip(body: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(body).unwrap();
        encoder.finish().unwrap()
    }

    fn with_coding(coding: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(header::CONTENT_ENCODING, HeaderValue::from_static(coding))])
    }

    const ROWS: &str =
        r#"{"columnMetas":[{"label":"A"}],"results":[["}"],["2"]],"isException":false,"pushDown":false}"#;

    #[test]
    fn a_complete_response_without_an_exception_is_a_result() {
        let envelope = format!(r#"{{"code":"000","data":{ROWS},"msg":""}}"#);
        for body in [ROWS, &envelope, r#"{"results":[]}"#, &format!(" {ROWS}\n")] {
            assert_eq!(read(body), Ok(QueryResult { is_cacheable: true }), "{body}");
        }
        for cause in [r#""pushDown":true"#, r#""partial":true"#, r#""partial":null"#] {
            let body = format!(r#"{{"results":[["1"]],{cause}}}"#);
            assert_eq!(read(&body), Ok(QueryResult { is_cacheable: false }), "{body}");
        }
    }

    #[test]
    fn anything_else_is_none() {
        for body in [
            "",
            "{}",
            "null",
            "<html>Sign in</html>",
            r#"{"code":"999","data":null,"msg":"no"}"#,
            r#"{"code":"999","data":{"results":[]}}"#,
            r#"{"columnMetas":[{}],"results":null,"isException":true}"#,
            r#"{"columnMetas":[{}],"results":[["1"]],"isException":true}"#,
            r#"{"code":"000","data":{"results":[["1"]],"isException":true}}"#,
            r#"{"results":[],"isException":null}"#,
            r#"{"results":[]} trailing"#,
            r#"[{"results":[]}]"#,
        ] {
            assert_eq!(read(body), Err(NoResult::Failed), "{body}");
        }
        for cut in 0..ROWS.len() {
            assert_eq!(read(&ROWS[..cut]), Err(NoResult::Failed), "{}", &ROWS[..cut]);
        }
    }

    #[test]
    fn a_compressed_response_is_read_to_its_end() {
        let body = gzip(ROWS.as_bytes());
        let gzipped = with_coding("gzip");
        assert_eq!(read_result(&gzipped, &body), Ok(QueryResult { is_cacheable: true }));
        for cut in 0..body.len() {
            assert_eq!(read_result(&gzipped, &body[..cut]), Err(NoResult::Failed), "{cut}");
        }
        let late =
            format!(r#"{{"columnMetas":[{{}}],"x":"{}","results":null,"isException":true}}"#, "x".repeat(1 << 20));
        assert_eq!(read_result(&gzipped, &gzip(late.as_bytes())), Err(NoResult::Failed));
        let long = format!(r#"{{"results":[["{}"]]}}"#, "x".repeat(MAX_PLAIN as usize));
        assert_eq!(read_result(&gzipped, &gzip(long.as_bytes())), Err(NoResult::Unreadable));
        assert_eq!(read_result(&with_coding("br"), ROWS.as_bytes()), Err(NoResult::Unreadable));
    }
}
