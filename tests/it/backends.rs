//! The conformance suite for backends: which backends pass, and which faults it finds.

use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{Request, Response, header};
use http_body_util::BodyExt;
use kylin_lb::backend::SendErrorKind;
use kylin_lb::backend::tower::TowerBackend;
use kylin_lb::testing::backend::conformance;
use kylin_lb::{Backend, Body, HttpBackend, SendError};
use tower_service::Service;

fn http_backend(node: SocketAddr) -> HttpBackend {
    HttpBackend::new(&node.to_string()).unwrap()
}

#[tokio::test]
async fn http_backend_conforms() {
    conformance(http_backend).await;
}

/// A service that sends with an `HttpBackend`.
#[derive(Clone)]
struct BackendService(HttpBackend);

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct ServiceError(SendErrorKind);

impl Service<Request<Body>> for BackendService {
    type Response = Response<Body>;
    type Error = ServiceError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, ServiceError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ServiceError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        assert!(request.uri().authority().is_some(), "clients need an absolute URI");
        let backend = self.0.clone();
        Box::pin(async move { backend.send(request).await.map_err(|error| ServiceError(error.kind())) })
    }
}

#[tokio::test]
async fn a_service_behind_the_tower_adapter_conforms() {
    conformance(|node| {
        let service = BackendService(http_backend(node));
        TowerBackend::new(service).origin(&format!("http://{node}")).unwrap().classify(|error| error.0)
    })
    .await;
}

#[tokio::test]
async fn an_error_without_a_classification_may_have_been_executed() {
    let backend = |node| TowerBackend::new(BackendService(http_backend(node))).origin("http://kylin").unwrap();
    let suite = tokio::spawn(conformance(backend));
    let panic = suite.await.expect_err("a refused connection is not told from others").into_panic();
    let message = panic.downcast_ref::<String>().unwrap();
    assert!(message.contains("left: Broken") && message.contains("a refused connection is `Connect`"), "{message}");
}

/// Sends with an `HttpBackend` and breaks one guarantee.
struct Faulty<F>(HttpBackend, F);

impl<F, R> Backend for Faulty<F>
where
    F: Fn(HttpBackend, Request<Body>) -> R + Send + Sync + 'static,
    R: Future<Output = Result<Response<Body>, SendError>> + Send,
{
    fn send(&self, request: Request<Body>) -> impl Future<Output = Result<Response<Body>, SendError>> + Send {
        (self.1)(self.0.clone(), request)
    }
}

/// Returns the message with which the suite fails.
async fn finding<F, R>(send: F) -> String
where
    F: Fn(HttpBackend, Request<Body>) -> R + Copy + Send + Sync + 'static,
    R: Future<Output = Result<Response<Body>, SendError>> + Send + 'static,
{
    let suite = tokio::spawn(async move { conformance(|node| Faulty(http_backend(node), send)).await });
    let panic = suite.await.expect_err("the suite finds the fault").into_panic();
    panic.downcast_ref::<String>().cloned().or(panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap()
}

#[tokio::test]
async fn the_suite_finds_a_request_that_is_changed() {
    let finding = finding(|backend, mut request| async move {
        request.headers_mut().insert(header::ACCEPT_ENCODING, "gzip".parse().unwrap());
        backend.send(request).await
    });
    assert!(finding.await.contains("no Accept-Encoding is added"));
}

#[tokio::test]
async fn the_suite_finds_an_error_for_a_status() {
    let finding = finding(|backend, request| async move {
        let response = backend.send(request).await?;
        match response.status().is_server_error() {
            true => Err(SendError::new(SendErrorKind::Invalid, "a server error")),
            false => Ok(response),
        }
    });
    assert!(finding.await.contains("a response"));
}

#[tokio::test]
async fn the_suite_finds_a_redirect_that_is_followed() {
    let finding = finding(|backend, request| async move {
        let response = backend.send(request).await?;
        match response.headers().get(header::LOCATION).and_then(|location| location.to_str().ok()) {
            Some(_) => Ok(Response::new(Body::from("followed"))),
            None => Ok(response),
        }
    });
    assert!(finding.await.contains("redirects are not followed"));
}

#[tokio::test]
async fn the_suite_finds_a_body_that_is_collected() {
    let finding = finding(|backend, request| async move {
        let (head, body) = backend.send(request).await?.into_parts();
        let body = body.collect().await.map_err(|error| SendError::new(SendErrorKind::Broken, error))?;
        Ok(Response::from_parts(head, body.to_bytes().into()))
    });
    assert!(finding.await.contains("the head is returned before the body"));
}

#[tokio::test]
async fn the_suite_finds_a_failure_that_claims_too_much() {
    let finding = finding(|backend, request| async move {
        backend.send(request).await.map_err(|error| SendError::new(SendErrorKind::Connect, error.to_string()))
    });
    assert!(finding.await.contains("after the request is not Connect"));
}

#[tokio::test]
async fn the_suite_finds_a_request_that_is_not_cancelled() {
    let finding =
        finding(
            |backend, request| async move { tokio::spawn(async move { backend.send(request).await }).await.unwrap() },
        );
    assert!(finding.await.contains("dropping a request closes its connection"));
}

#[tokio::test]
async fn an_error_of_a_service_before_the_call_returns_the_request() {
    #[derive(Clone)]
    struct NeverReady;

    impl Service<Request<Body>> for NeverReady {
        type Response = Response<Body>;
        type Error = std::io::Error;
        type Future = std::future::Ready<std::io::Result<Response<Body>>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
            Poll::Ready(Err(std::io::ErrorKind::NotConnected.into()))
        }

        fn call(&mut self, _: Request<Body>) -> Self::Future {
            unreachable!("the service is not ready")
        }
    }

    let backend = TowerBackend::new(NeverReady);
    let mut error = backend.send(Request::post("/a").body(Body::empty()).unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), SendErrorKind::Connect);
    assert_eq!(error.take_request().unwrap().uri(), "/a");
    let without_scheme = TowerBackend::new(NeverReady).origin("10.0.0.1:7070");
    assert_eq!(without_scheme.err().unwrap().value(), "10.0.0.1:7070");
    let mut timeouts = kylin_lb::backend::Timeouts::default();
    timeouts.body = std::time::Duration::ZERO;
    assert_eq!(TowerBackend::new(NeverReady).timeouts(timeouts).err().unwrap().setting, "body timeout");
    assert!(TowerBackend::new(NeverReady).origin("http://10.0.0.1:7070/kylin").is_err());
}
