use http::HeaderValue;
use proptest::prelude::*;
use serde_json::json;

use super::super::class::Sql;
use super::*;

const QUERY: RequestClass = RequestClass::Query(Sql::ReadOnly);

fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
    fields.iter().map(|&(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect()
}

fn json_head() -> HeaderMap {
    headers(&[("content-type", "application/json;charset=UTF-8")])
}

/// The whole way: head, then as much of the body as was asked for.
fn judge(class: RequestClass, status: u16, headers: &HeaderMap, body: &str) -> ResponseClass {
    let status = StatusCode::from_u16(status).unwrap();
    match from_head(class, None, Credentials::None, status, headers) {
        Head::Is(meaning) => meaning,
        Head::Peek(most) => from_body(class, status, headers, &body.as_bytes()[..body.len().min(most)]),
    }
}

/// `ErrorResponse` of 2.x-4.x: the message stands behind everything.
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
fn an_error_that_kylin_writes_is_an_answer() {
    for message in [
        "From line 1, column 8 to line 1, column 10: Column 'Query is not allowed in 'job' mode.' not found",
        "Too many concurrent query requests. while executing SQL: x",
        "KE-040021202(x): no",
        "",
    ] {
        assert_eq!(judge(QUERY, 500, &json_head(), &v4(message)), ResponseClass::Answer, "{message}");
        assert_eq!(judge(QUERY, 400, &json_head(), &v4(message)), ResponseClass::Answer, "{message}");
    }
    assert_eq!(judge(QUERY, 200, &json_head(), r#"{"isException":false,"results":[]}"#), ResponseClass::Answer);
    assert_eq!(judge(RequestClass::AdminRead, 503, &json_head(), r#"{"status":"DOWN"}"#), ResponseClass::Answer);
    assert_eq!(
        judge(RequestClass::Page, 404, &headers(&[("content-type", "text/html")]), "<html>"),
        ResponseClass::Answer
    );
    assert_eq!(judge(RequestClass::Page, 501, &headers(&[]), ""), ResponseClass::Answer);
}

/// apache/kylin 3.1.3 QueryService.java:414-416, QueryRequestLimits.java:109-114; CnMessage.java; kylin5 Message.java.
#[test]
fn a_query_that_is_refused_may_go_elsewhere() {
    for (message, refusal) in [
        ("Query is not allowed in 'job' mode.", Rejection::Role),
        ("Query is not allowed in 'job,stream_coordinator' mode.", Rejection::Role),
        ("'job' 模式不支持查询", Rejection::Role),
        ("Too many concurrent query requests.", Rejection::Busy),
        ("并发查询请求太多。", Rejection::Busy),
        ("Job node is unavailable for queries. Please select a query node.", Rejection::Role),
    ] {
        assert_eq!(judge(QUERY, 400, &json_head(), &v4(message)), ResponseClass::Refused(refusal), "{message}");
        assert_eq!(judge(RequestClass::Write, 400, &json_head(), &v4(message)), ResponseClass::Answer, "{message}");
    }
}

#[test]
fn codes_of_kylin_5_say_who_suffers() {
    for (code, meaning) in [
        ("KE-040023202", ResponseClass::Refused(Rejection::Role)),
        ("KE-040023201", ResponseClass::Refused(Rejection::Role)),
        ("KE-040023203", ResponseClass::Refused(Rejection::Role)),
        ("KE-020032001", ResponseClass::Refused(Rejection::Busy)),
        ("KE-040024201", ResponseClass::ClusterWide(ClusterFault::Maintenance)),
        ("KE-010021002", ResponseClass::ClusterWide(ClusterFault::Recovering)),
        ("KE-040021201", ResponseClass::ClusterWide(ClusterFault::Recovering)),
        ("KE-010021003", ResponseClass::ClusterWide(ClusterFault::Transfer)),
        ("KE-010021004", ResponseClass::ClusterWide(ClusterFault::NoActiveNode)),
        ("KE-010019002", ResponseClass::ClusterWide(ClusterFault::Metastore)),
        ("KE-0400232021", ResponseClass::Answer),
        ("KE-04002320", ResponseClass::Answer),
    ] {
        for class in [QUERY, RequestClass::Job] {
            for body in [
                format!(r#"{{"code":"999","data":null,"msg":"x","error_code":"{code}"}}"#),
                format!(r#"{{"code":"{code}","msg":"x"}}"#),
                format!(r#"{{"code":"999","msg":"{code}(Query): the node","stacktrace":"cut"#),
            ] {
                assert_eq!(judge(class, 500, &json_head(), &body), meaning, "{body}");
            }
        }
        let nested =
            format!(r#"{{"code":"999","data":{{"code":"{code}"}},"msg":"it says {code}","stacktrace":"{code}"}}"#);
        assert_eq!(judge(QUERY, 500, &json_head(), &nested), ResponseClass::Answer, "{nested}");
    }
}

#[test]
fn kylin_5_refuses_with_200() {
    let busy = r#"{"code":"000","data":{"columnMetas":null,"results":null,"isException":true,
        "exceptionMessage":"Too many concurrent query requests.","duration":0},"msg":""}"#;
    assert_eq!(judge(QUERY, 200, &json_head(), busy), ResponseClass::Refused(Rejection::Busy));
    assert_eq!(judge(RequestClass::Read, 200, &json_head(), busy), ResponseClass::Answer);
    assert_eq!(judge(QUERY, 200, &json_head(), &busy.replace("true", "false")), ResponseClass::Answer);
    // A row can say what it likes.
    let row = r#"{"code":"000","data":{"columnMetas":[{"name":"a"}],"results":[["x"]],"isException":true,
        "exceptionMessage":"Too many concurrent query requests."}}"#;
    assert_eq!(judge(QUERY, 200, &json_head(), row), ResponseClass::Answer);
}

#[test]
fn most_answers_are_judged_by_their_head() {
    let is = |class, version, status: u16, fields: &[(&'static str, &'static str)]| {
        from_head(class, version, Credentials::Cookie, StatusCode::from_u16(status).unwrap(), &headers(fields))
    };
    let json = ("content-type", "application/vnd.apache.kylin-v4-public+json");
    assert_eq!(is(QUERY, None, 200, &[json]), Head::Peek(GOOD_PEEK));
    assert_eq!(is(QUERY, None, 200, &[json, ("content-length", "5000")]), Head::Is(ResponseClass::Answer));
    assert_eq!(is(QUERY, None, 200, &[json, ("content-encoding", "gzip")]), Head::Is(ResponseClass::Answer));
    assert_eq!(is(QUERY, None, 200, &[("content-type", "text/csv")]), Head::Is(ResponseClass::Answer));
    assert_eq!(is(QUERY, Some(KylinVersion::V4), 200, &[json]), Head::Is(ResponseClass::Answer));
    assert_eq!(is(RequestClass::Read, None, 200, &[json]), Head::Is(ResponseClass::Answer));
    assert_eq!(is(QUERY, None, 302, &[json]), Head::Is(ResponseClass::Answer));
    assert_eq!(is(QUERY, None, 500, &[json]), Head::Peek(ERROR_PEEK));
    assert_eq!(is(QUERY, None, 500, &[json, ("content-encoding", "br")]), Head::Is(ResponseClass::Unreadable));
    for coding in ["gzip", "x-gzip", "GZIP", "identity", ""] {
        assert_eq!(is(QUERY, None, 500, &[json, ("content-encoding", coding)]), Head::Peek(ERROR_PEEK), "{coding}");
    }
    let twice = [json, ("content-encoding", "gzip"), ("content-encoding", "gzip")];
    assert_eq!(is(QUERY, None, 500, &twice), Head::Is(ResponseClass::Unreadable));
    assert_eq!(is(QUERY, None, 401, &[json]), Head::Is(ResponseClass::Unauthenticated(Credentials::Cookie)));
    for status in [502, 503, 504, 599] {
        assert_eq!(
            is(QUERY, None, status, &[("content-type", "text/html")]),
            Head::Is(ResponseClass::NodeFailure),
            "{status}"
        );
        assert_eq!(is(QUERY, None, status, &[]), Head::Is(ResponseClass::NodeFailure), "{status}");
    }
}

#[test]
fn a_page_of_tomcat_is_a_failure_of_the_node() {
    let html = headers(&[("content-type", "text/html;charset=utf-8")]);
    assert_eq!(judge(QUERY, 500, &html, "<html>HTTP Status 500"), ResponseClass::NodeFailure);
    assert_eq!(judge(QUERY, 503, &json_head(), "<html>HTTP Status 503"), ResponseClass::NodeFailure);
    assert_eq!(judge(QUERY, 502, &json_head(), ""), ResponseClass::NodeFailure);
    let race =
        "<html>java.io.IOException: Race condition encountered: attempted to load session[A] which has been created";
    assert_eq!(judge(QUERY, 500, &html, race), ResponseClass::Refused(Rejection::SessionRace));
    assert_eq!(judge(QUERY, 500, &json_head(), &v4(race)), ResponseClass::Answer);
}

proptest! {
    #[test]
    fn any_body_has_a_meaning(status in 100..1000_u16, body in prop::collection::vec(any::<u8>(), 0..80)) {
        let status = StatusCode::from_u16(status).unwrap();
        from_body(QUERY, status, &json_head(), &body);
        from_body(RequestClass::Write, status, &headers(&[]), &body);
    }

    /// What a user wrote into a query, and Kylin quotes in its error, decides nothing.
    #[test]
    fn quoted_text_does_not_refuse(before in "[a-z \":{}]{1,10}", after in "[a-z \":{}]{1,10}", code: bool) {
        let words = if code { "KE-040023202" } else { "Too many concurrent query requests." };
        let body = v4(&format!("x{before}{words}{after}"));
        prop_assert_eq!(judge(QUERY, 500, &json_head(), &body), ResponseClass::Answer);
    }
}

fn gzip(text: &str) -> Vec<u8> {
    use std::io::Write;

    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn a_compressed_error_is_read_as_far_as_it_came() {
    let headers = headers(&[("content-type", "application/json"), ("content-encoding", "gzip")]);
    let is = |body: &[u8]| from_body(QUERY, StatusCode::BAD_REQUEST, &headers, body);
    let refused = ResponseClass::Refused(Rejection::Busy);
    let body = gzip(&v4("Too many concurrent query requests."));
    assert_eq!(is(&body), refused);
    // All but the check sum, and then less than the message.
    assert_eq!(is(&body[..body.len() - 8]), refused);
    assert_eq!(is(&body[..30]), ResponseClass::Answer);
    assert_eq!(is(b""), ResponseClass::Answer);
    assert_eq!(is(b"{\"msg\":\"Too many concurrent query requests.\"}"), ResponseClass::Answer, "it is no gzip");
    // What it unpacks to is bounded, and a message behind the bound is not seen.
    let long = format!(r#"{{"stacktrace":"{}","msg":"Too many concurrent query requests."}}"#, " ".repeat(ERROR_PEEK));
    assert_eq!(is(&gzip(&long)), ResponseClass::Answer);
    assert_eq!(gunzip(&gzip(&" ".repeat(10_000_000))).len(), ERROR_PEEK);
}
