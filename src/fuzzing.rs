//! The parsers of the crate as functions over bytes. The fuzz targets in `fuzz/` and the
//! measurement of their work use them. Compiled only with `--cfg fuzzing`; not part of the API.

use std::hint::black_box;
use std::net::IpAddr;

use http::header::{CONTENT_TYPE, COOKIE, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};

use crate::cookie::{self, SetCookie};
use crate::kylin::class::{RequestClass, SessionCall, Sql, classify, needs_login};
use crate::kylin::node::{identity::Evidence, servers};
use crate::kylin::path::{NormalizedPath, RequestTarget};
use crate::kylin::properties::{Properties, ServerAddr};
use crate::kylin::query::QueryRequest;
use crate::kylin::response::{Credentials, classify_body, classify_head};
use crate::kylin::tomcat::SessionManager;
use crate::kylin::{ClosedPaths, Guard, KylinVersion, MetadataUrl};
use crate::proxy::TrustedProxies;
use crate::session::SessionRecord;
use crate::{ClientAddr, basic_auth};

/// A parser, by the name of its fuzz target.
pub type Target = (&'static str, fn(&[u8]));

/// All parsers.
pub const TARGETS: [Target; 15] = [
    ("request_head", request_head),
    ("response_head", response_head),
    ("chunked", chunked),
    ("cookies", cookies),
    ("forwarded", forwarded),
    ("proxy_protocol", proxy_protocol),
    ("path", path),
    ("sql", sql),
    ("query", query),
    ("response_body", response_body),
    ("nginx", nginx),
    ("properties", properties),
    ("tomcat", tomcat),
    ("session_record", session_record),
    ("discovery", discovery),
];

/// Parses the head of a request.
pub fn request_head(data: &[u8]) {
    crate::server::fuzz_request_head(data);
}

/// Parses the header of the PROXY protocol, and checks that no prefix of it is complete.
pub fn proxy_protocol(data: &[u8]) {
    use crate::server::parse_proxy_protocol as parse;
    if let Ok(Some(header)) = parse(data) {
        assert!(header.length <= data.len());
        for shorter in [header.length - 1, header.length / 2] {
            assert!(matches!(parse(&data[..shorter]), Ok(None)));
        }
    }
}

/// Parses the head of a response.
pub fn response_head(data: &[u8]) {
    crate::backend::http1::fuzz_response_head(data);
}

/// Parses a body in chunks.
pub fn chunked(data: &[u8]) {
    crate::http1::fuzz_chunked(data);
}

/// Parses `Cookie`, `Set-Cookie` and `Authorization`.
pub fn cookies(data: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(data) else { return };
    let pairs = cookie::pairs(&value).count();
    assert!(pairs <= data.len());
    let mut headers = HeaderMap::from_iter([(COOKIE, value.clone())]);
    cookie::retain(&mut headers, |name, _| !cookie::is_kylin_session(name));
    assert!(headers.get_all(COOKIE).iter().flat_map(cookie::pairs).all(|(name, _)| !cookie::is_kylin_session(name)));
    if let Some(cookie) = SetCookie::parse(&value) {
        black_box(cookie.deletes(1_700_000_000));
    }
    black_box(basic_auth::user(&value));
}

/// Parses `X-Forwarded-For` lines of a trusted proxy.
pub fn forwarded(data: &[u8]) {
    let peer = ClientAddr::from(IpAddr::from([10, 0, 0, 1]));
    let networks = || ["10.0.0.0/8", "fd00::/8"].into_iter().filter_map(|network| network.parse().ok());
    let name = HeaderName::from_static("x-forwarded-for");
    let lines = data.split(|byte| *byte == b'\n').filter_map(|line| HeaderValue::from_bytes(line).ok()).take(200);
    let mut headers = HeaderMap::new();
    for line in lines {
        headers.append(name.clone(), line);
    }
    for recursive in [false, true] {
        black_box(TrustedProxies::new(networks()).recursive(recursive).client(peer, &headers));
    }
}

/// Normalises a path, and applies the guard and the classification to it.
pub fn path(data: &[u8]) {
    let Ok(target) = std::str::from_utf8(data) else { return };
    if let Ok(target) = target.parse() {
        let mut target = RequestTarget::new(Some(target));
        target.read_path();
        black_box(target.session_id());
    }
    let Ok(plain) = NormalizedPath::parse(target) else { return };
    let text = plain.as_str();
    assert!(!text.contains("/../") && !text.contains("//") && !text.contains("/./"));
    let closed = ClosedPaths::new(&Guard::new());
    for method in [Method::GET, Method::POST, Method::PUT, Method::DELETE] {
        let _ = closed.check(None, &method, &plain);
        for version in [None, Some(KylinVersion::V4), Some(KylinVersion::V5)] {
            black_box(classify(&method, &plain, version));
        }
        black_box(SessionCall::of(&method, &plain));
    }
    black_box(needs_login(&plain));
}

/// Parses a statement.
pub fn sql(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let form = format!("sql={}", percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC));
    if let Ok(query) = QueryRequest::from_form(None, form.as_bytes()) {
        let keys = query.keys("ADMIN", true);
        // A comment changes nothing.
        if query.effect() == Sql::ReadOnly {
            let commented = form.replacen("sql=", "sql=%2F%2A%20x%20%2A%2F%20", 1);
            if let Ok(commented) = QueryRequest::from_form(None, commented.as_bytes())
                && commented.effect() != Sql::Unknown
            {
                assert_eq!(commented.effect(), Sql::ReadOnly);
                assert_eq!(commented.keys("ADMIN", true).fingerprint, keys.fingerprint);
            }
        }
    }
}

/// Returns whether a statement certainly only reads.
pub fn is_read_only(sql: &str) -> bool {
    let form = format!("sql={}", percent_encoding::utf8_percent_encode(sql, percent_encoding::NON_ALPHANUMERIC));
    QueryRequest::from_form(None, form.as_bytes()).is_ok_and(|query| query.effect() == Sql::ReadOnly)
}

/// Parses the body of a query.
pub fn query(data: &[u8]) {
    for query in [QueryRequest::from_json(data), QueryRequest::from_form(None, data)].into_iter().flatten() {
        assert!(!query.sql().trim().is_empty());
        black_box((query.effect(), query.keys("ADMIN", true), query.stop_id()));
    }
}

/// Parses the beginning of a response body, and the lists and identities that nodes send.
pub fn response_body(data: &[u8]) {
    let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
    for class in [RequestClass::Query(Sql::ReadOnly), RequestClass::Write] {
        for status in [StatusCode::OK, StatusCode::INTERNAL_SERVER_ERROR, StatusCode::BAD_REQUEST] {
            let _ = classify_head(class, None, Credentials::Session, status, &headers);
            black_box(classify_body(class, status, &headers, data));
        }
    }
    let _ = servers::of_kylin3(data);
    let _ = servers::of_kylin5(data);
    let mut identity = Evidence::default();
    black_box((identity.learn_config(data), identity.learn_projects(data)));
}

/// Parses an nginx configuration.
pub fn nginx(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    // An include would read files of the machine.
    if text.contains("include") {
        return;
    }
    if let Err(error) = crate::nginx::Config::parse("fuzz.conf", text) {
        assert!(!error.to_string().is_empty());
    }
}

/// Parses a `kylin.properties` and its settings.
pub fn properties(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(properties) = Properties::parse("kylin.properties", text) else { return };
    let _ =
        (properties.metadata_url(), properties.server_mode(), properties.self_discovery(), properties.cluster_name());
    let _ = (properties.host_address(), properties.zookeeper_servers(), properties.zookeeper_chroot());
    let _ = (properties.zookeeper_root(), properties.job_scheduler(), properties.query_timeout());
    let _ = (properties.cluster_servers(), SessionManager::from_redis_data_cache(&properties));
}

/// Parses a `context.xml` of Tomcat.
pub fn tomcat(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(Some(manager)) = SessionManager::from_context("context.xml", text) {
        black_box(manager.warnings());
        black_box(manager.with_settings("settings", text)).ok();
    }
    if let Ok(properties) = Properties::parse("kylin.properties", text) {
        black_box(SessionManager::from_kylin_properties(&properties)).ok();
    }
}

/// Parses records of session stores.
pub fn session_record(data: &[u8]) {
    if let Ok(record) = SessionRecord::decode(data) {
        assert_eq!(SessionRecord::decode(&record.encode()).as_ref(), Ok(&record));
    }
    crate::session::fuzz_relayed_session(data);
}

/// Parses lists of nodes and ZooKeeper data.
pub fn discovery(data: &[u8]) {
    crate::discovery::fuzz(data);
    let Ok(text) = std::str::from_utf8(data) else { return };
    black_box((MetadataUrl::parse(text).session_cookie(), ServerAddr::parse(text), ServerAddr::parse_with_mode(text)));
}
