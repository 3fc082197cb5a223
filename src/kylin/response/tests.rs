use http::HeaderValue;
use proptest::prelude::*;
use serde_json::json;

use super::super::class::Sql;
use super::*;

const QUERY: RequestClass = RequestClass::Query(Sql::ReadOnly);

fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    pairs.iter().map(|&(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect()
}

fn json_headers() -> HeaderMap {
    headers(&[("content-type", "application/json;charset=UTF-8")])
}

/// Classifies by the head, then by as much of the body as that requires.
fn classify(class: RequestClass, status: u16, headers: &HeaderMap, body: &str) -> ResponseClass {
    let status = StatusCode::from_u16(status).unwrap();
    match classify_head(class, None, Credentials::None, status, headers) {
        Ok(class) => class,
        Err(NeedsBody { max }) => classify_body(class, status, headers, &body.as_bytes()[..body.len().min(max)]),
    }
}

/// Returns an `ErrorResponse` of 2.x-4.x, whose message is its last member.
fn v4(message: &str) -> String {
    format!(
        r#"{{"url":"http://h/kylin/api/query","exception":"x","code":"999","data":null,"stacktrace":{},"msg":{}}}"#,
        json!(
            "org.apache.kylin.rest.exception.BadRequestException\n\tat Too many concurrent query requests.\n"
                .repeat(80)
        ),
        json!(message)
    )
}

#[test]
fn an_error_that_kylin_writes_is_final() {
    for message in [
        "From line 1, column 8 to line 1, column 10: Column 'Query is not allowed in 'job' mode.' not found",
        "Too many concurrent query requests. while executing SQL: x",
        "KE-040021202(x): no",
        "",
    ] {
        assert_eq!(classify(QUERY, 500, &json_headers(), &v4(message)), ResponseClass::Final, "{message}");
        assert_eq!(classify(QUERY, 400, &json_headers(), &v4(message)), ResponseClass::Final, "{message}");
    }
    assert_eq!(classify(QUERY, 200, &json_headers(), r#"{"isException":false,"results":[]}"#), ResponseClass::Final);
    assert_eq!(classify(RequestClass::AdminRead, 503, &json_headers(), r#"{"status":"DOWN"}"#), ResponseClass::Final);
    assert_eq!(
        classify(RequestClass::Page, 404, &headers(&[("content-type", "text/html")]), "<html>"),
        ResponseClass::NotFound
    );
    assert_eq!(classify(QUERY, 404, &json_headers(), "<html>"), ResponseClass::NotFound);
    assert_eq!(classify(QUERY, 404, &json_headers(), &v4("no such cube")), ResponseClass::Final);
    assert_eq!(classify(RequestClass::Page, 501, &headers(&[]), ""), ResponseClass::Final);
}

/// apache/kylin 3.1.3 QueryService.java:414-416, QueryRequestLimits.java:109-114; CnMessage.java;
/// kylin5 Message.java.
#[test]
fn a_rejected_query_is_recognised_by_its_message() {
    for (message, rejection) in [
        ("Query is not allowed in 'job' mode.", Rejection::Role),
        ("Query is not allowed in 'job,stream_coordinator' mode.", Rejection::Role),
        ("'job' 模式不支持查询", Rejection::Role),
        ("Too many concurrent query requests.", Rejection::Busy),
        ("并发查询请求太多。", Rejection::Busy),
        ("Job node is unavailable for queries. Please select a query node.", Rejection::Role),
    ] {
        assert_eq!(
            classify(QUERY, 400, &json_headers(), &v4(message)),
            ResponseClass::Rejected(rejection),
            "{message}"
        );
        assert_eq!(
            classify(RequestClass::Write, 400, &json_headers(), &v4(message)),
            ResponseClass::Final,
            "{message}"
        );
    }
}

#[test]
fn codes_of_kylin_5_tell_rejections_from_cluster_faults() {
    for (code, expected) in [
        ("KE-040023202", ResponseClass::Rejected(Rejection::Role)),
        ("KE-040023201", ResponseClass::Rejected(Rejection::Role)),
        ("KE-040023203", ResponseClass::Rejected(Rejection::Role)),
        ("KE-020032001", ResponseClass::Rejected(Rejection::Busy)),
        ("KE-040024201", ResponseClass::ClusterFault(ClusterFault::Maintenance)),
        ("KE-010021002", ResponseClass::ClusterFault(ClusterFault::Recovering)),
        ("KE-040021201", ResponseClass::ClusterFault(ClusterFault::Recovering)),
        ("KE-010021003", ResponseClass::ClusterFault(ClusterFault::Transfer)),
        ("KE-010021004", ResponseClass::ClusterFault(ClusterFault::NoActiveNode)),
        ("KE-010021006", ResponseClass::ClusterFault(ClusterFault::UserSource)),
        ("KE-010019002", ResponseClass::ClusterFault(ClusterFault::Metastore)),
        // A project without a resource group: every node says so.
        ("KE-010021005", ResponseClass::Final),
        ("KE-0400232021", ResponseClass::Final),
        ("KE-04002320", ResponseClass::Final),
    ] {
        for class in [QUERY, RequestClass::Job] {
            for body in [
                format!(r#"{{"code":"999","data":null,"msg":"x","error_code":"{code}"}}"#),
                format!(r#"{{"code":"{code}","msg":"x"}}"#),
                format!(r#"{{"code":"999","msg":"{code}(Query): the node","stacktrace":"cut"#),
            ] {
                assert_eq!(classify(class, 500, &json_headers(), &body), expected, "{body}");
            }
        }
        let nested =
            format!(r#"{{"code":"999","data":{{"code":"{code}"}},"msg":"it says {code}","stacktrace":"{code}"}}"#);
        assert_eq!(classify(QUERY, 500, &json_headers(), &nested), ResponseClass::Final, "{nested}");
    }
}

#[test]
fn kylin_5_rejects_with_200() {
    let busy = r#"{"code":"000","data":{"columnMetas":null,"results":null,"isException":true,
        "exceptionMessage":"Too many concurrent query requests.","duration":0},"msg":""}"#;
    assert_eq!(classify(QUERY, 200, &json_headers(), busy), ResponseClass::Rejected(Rejection::Busy));
    assert_eq!(classify(RequestClass::Read, 200, &json_headers(), busy), ResponseClass::Final);
    assert_eq!(classify(QUERY, 200, &json_headers(), &busy.replace("true", "false")), ResponseClass::Final);
    // Rows may contain any text.
    let row = r#"{"code":"000","data":{"columnMetas":[{"name":"a"}],"results":[["x"]],"isException":true,
        "exceptionMessage":"Too many concurrent query requests."}}"#;
    assert_eq!(classify(QUERY, 200, &json_headers(), row), ResponseClass::Final);
}

#[test]
fn most_responses_are_classified_by_their_head() {
    let is = |class, version, status: u16, pairs: &[(&'static str, &'static str)]| {
        classify_head(class, version, Credentials::Session, StatusCode::from_u16(status).unwrap(), &headers(pairs))
    };
    let json = ("content-type", "application/vnd.apache.kylin-v4-public+json");
    assert_eq!(is(QUERY, None, 200, &[json]), Err(NeedsBody { max: MAX_SUCCESS_PEEK }));
    assert_eq!(is(QUERY, None, 200, &[json, ("content-length", "5000")]), Ok(ResponseClass::Final));
    assert_eq!(is(QUERY, None, 200, &[json, ("content-encoding", "gzip")]), Ok(ResponseClass::Final));
    assert_eq!(is(QUERY, None, 200, &[("content-type", "text/csv")]), Ok(ResponseClass::Final));
    assert_eq!(is(QUERY, Some(KylinVersion::V4), 200, &[json]), Ok(ResponseClass::Final));
    assert_eq!(is(RequestClass::Read, None, 200, &[json]), Ok(ResponseClass::Final));
    assert_eq!(is(QUERY, None, 302, &[json]), Ok(ResponseClass::Final));
    assert_eq!(is(QUERY, None, 500, &[json]), Err(NeedsBody { max: MAX_ERROR_PEEK }));
    assert_eq!(is(QUERY, None, 500, &[json, ("content-encoding", "br")]), Ok(ResponseClass::Unreadable));
    for coding in ["gzip", "x-gzip", "GZIP", "identity", ""] {
        assert_eq!(
            is(QUERY, None, 500, &[json, ("content-encoding", coding)]),
            Err(NeedsBody { max: MAX_ERROR_PEEK }),
            "{coding}"
        );
    }
    let twice = [json, ("content-encoding", "gzip"), ("content-encoding", "gzip")];
    assert_eq!(is(QUERY, None, 500, &twice), Ok(ResponseClass::Unreadable));
    assert_eq!(is(QUERY, None, 401, &[json]), Ok(ResponseClass::Unauthenticated(Credentials::Session)));
    for status in [502, 503, 504, 599] {
        assert_eq!(
            is(QUERY, None, status, &[("content-type", "text/html")]),
            Ok(ResponseClass::NodeFailure),
            "{status}"
        );
        assert_eq!(is(QUERY, None, status, &[]), Ok(ResponseClass::NodeFailure), "{status}");
    }
}

#[test]
fn a_page_of_tomcat_is_a_node_failure() {
    let html = headers(&[("content-type", "text/html;charset=utf-8")]);
    assert_eq!(classify(QUERY, 500, &html, "<html>HTTP Status 500"), ResponseClass::NodeFailure);
    assert_eq!(classify(QUERY, 503, &json_headers(), "<html>HTTP Status 503"), ResponseClass::NodeFailure);
    assert_eq!(classify(QUERY, 502, &json_headers(), ""), ResponseClass::NodeFailure);
    let race =
        "<html>java.io.IOException: Race condition encountered: attempted to load session[A] which has been created";
    assert_eq!(classify(QUERY, 500, &html, race), ResponseClass::Rejected(Rejection::SessionRace));
    assert_eq!(classify(QUERY, 500, &json_headers(), &v4(race)), ResponseClass::Final);
}

proptest! {
    #[test]
    fn any_body_has_a_class(status in 100..1000_u16, body in prop::collection::vec(any::<u8>(), 0..80)) {
        let status = StatusCode::from_u16(status).unwrap();
        classify_body(QUERY, status, &json_headers(), &body);
        classify_body(RequestClass::Write, status, &headers(&[]), &body);
    }

    /// The user's text has no effect if Kylin quotes it in an error.
    #[test]
    fn quoted_text_does_not_reject(before in "[a-z \":{}]{1,10}", after in "[a-z \":{}]{1,10}", code: bool) {
        let words = if code { "KE-040023202" } else { "Too many concurrent query requests." };
        let body = v4(&format!("x{before}{words}{after}"));
        prop_assert_eq!(classify(QUERY, 500, &json_headers(), &body), ResponseClass::Final);
    }
}

fn gzip(text: &str) -> Vec<u8> {
    use std::io::Write;

    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn a_compressed_error_is_read_up_to_its_cut() {
    let headers = headers(&[("content-type", "application/json"), ("content-encoding", "gzip")]);
    let is = |body: &[u8]| classify_body(QUERY, StatusCode::BAD_REQUEST, &headers, body);
    let rejected = ResponseClass::Rejected(Rejection::Busy);
    let body = gzip(&v4("Too many concurrent query requests."));
    assert_eq!(is(&body), rejected);
    // Without the checksum, and then truncated before the message.
    assert_eq!(is(&body[..body.len() - 8]), rejected);
    assert_eq!(is(&body[..30]), ResponseClass::Final);
    assert_eq!(is(b""), ResponseClass::Final);
    assert_eq!(is(b"{\"msg\":\"Too many concurrent query requests.\"}"), ResponseClass::Final, "the body is not gzip");
    // The decompressed size is bounded, so a message beyond the bound is not seen.
    let long =
        format!(r#"{{"stacktrace":"{}","msg":"Too many concurrent query requests."}}"#, " ".repeat(MAX_ERROR_PEEK));
    assert_eq!(is(&gzip(&long)), ResponseClass::Final);
    assert_eq!(gunzip(&gzip(&" ".repeat(10_000_000))).len(), MAX_ERROR_PEEK);
}

/// `GET /user/authentication` of 2.x-4.x, and KAP's.
#[test]
fn a_node_that_names_no_user_does_not_know_the_session() {
    let class = |sent, body: &str| {
        let headers = json_headers();
        match classify_head(RequestClass::Login, None, sent, StatusCode::OK, &headers) {
            Ok(class) => class,
            Err(NeedsBody { max }) => {
                let beginning = &body.as_bytes()[..body.len().min(max)];
                classify_body(RequestClass::Login, StatusCode::OK, &headers, beginning)
            }
        }
    };
    let unknown = ResponseClass::Unauthenticated(Credentials::Session);
    for body in ["{}", " { }\n", r#"{"code":"000","data":{},"msg":""}"#, r#"{"code":"000","data":null,"msg":""}"#] {
        assert_eq!(class(Credentials::Session, body), unknown, "{body}");
        assert_eq!(class(Credentials::Authorization, body), ResponseClass::Final, "{body}");
        assert_eq!(class(Credentials::None, body), ResponseClass::Final, "{body}");
    }
    for body in [
        r#"{"userDetails":{"username":"ADMIN"}}"#,
        r#"{"code":"000","data":{"username":"ADMIN"},"msg":""}"#,
        &format!(r#"{{"x":"{}"}}"#, "y".repeat(5000)),
        "<html>",
        "",
    ] {
        assert_eq!(class(Credentials::Session, body), ResponseClass::Final, "{body}");
    }
}
