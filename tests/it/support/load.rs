//! Requests while something else happens.

use std::sync::Arc;

use tokio::sync::Semaphore;

/// Sends this many requests, eight at a time; `before` runs before each, with its number. Returns
/// the results of `send`, in order.
pub(crate) async fn load<F>(requests: usize, mut before: impl AsyncFnMut(usize), send: impl Fn() -> F) -> Vec<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    let permits = Arc::new(Semaphore::new(8));
    let mut sent = Vec::new();
    for number in 0..requests {
        before(number).await;
        let permit = Arc::clone(&permits).acquire_owned().await.unwrap();
        let response = send();
        sent.push(tokio::spawn(async move {
            let response = response.await;
            drop(permit);
            response
        }));
    }
    let mut responses = Vec::new();
    for response in sent {
        responses.push(response.await.unwrap());
    }
    responses
}
