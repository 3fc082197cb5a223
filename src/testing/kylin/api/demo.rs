//! Paths that Kylin does not have, for tests of the transport.

use http::{Request, Response, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::backend::{SendError, SendErrorKind};
use crate::body::Body;
use crate::testing::kylin::api::path::Params;
use crate::testing::kylin::api::response::{html, ok};
use crate::testing::kylin::stream::{Piece, Streamed};

/// Responds to a request below `/demo/`, whose body has not been read.
pub(crate) async fn respond(path: &str, request: Request<Body>) -> Result<Response<Body>, SendError> {
    let params = Params::parse(request.uri().query().unwrap_or(""));
    Ok(match (request.method().as_str(), path) {
        ("GET" | "HEAD", "/demo/bytes") => {
            let length = params.value("n").and_then(|n| n.parse().ok()).unwrap_or(0);
            let has_length = params.value("chunked").is_none();
            Response::new(Body::new(Streamed::new([Piece::Demo(0, length)], has_length)))
        }
        ("POST" | "PUT", "/demo/digest") => digest(request.into_body()).await?,
        ("POST" | "PUT", "/demo/echo") => Response::new(Body::new(request.into_body().map_frame(|frame| frame))),
        ("POST" | "PUT", "/demo/early") => html(StatusCode::PAYLOAD_TOO_LARGE),
        (_, "/demo/head") => ok(&head(&request)),
        _ => html(StatusCode::NOT_FOUND),
    })
}

async fn digest(mut body: Body) -> Result<Response<Body>, SendError> {
    let (mut bytes, mut crc) = (0, crc32fast::Hasher::new());
    while !body.is_end_stream() {
        let Some(frame) = body.frame().await else { break };
        if let Ok(data) = frame.map_err(|error| SendError::new(SendErrorKind::RequestBody, error))?.into_data() {
            bytes += data.len();
            crc.update(&data);
        }
    }
    Ok(ok(&json!({"bytes": bytes, "crc32": format!("{:08x}", crc.finalize())})))
}

fn head(request: &Request<Body>) -> Value {
    let headers: Vec<Value> = request
        .headers()
        .iter()
        .map(|(name, value)| json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())]))
        .collect();
    json!({
        "method": request.method().as_str(),
        "target": request.uri().to_string(),
        "version": format!("{:?}", request.version()),
        "headers": headers,
    })
}
