//! A value that is ready, or a future of it.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::task::{Context, Poll};

/// A value that is ready, or a boxed future that yields it.
///
/// Most steps of a request finish at once. A boxed future for each of them would cost an
/// allocation, so the ready case carries the value itself. Match on it to avoid an await, or await
/// it.
///
/// ```
/// use kylin_lb::session::MaybeReady;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// assert_eq!(MaybeReady::Ready(1).await, 1);
/// assert_eq!(MaybeReady::boxed(async { 2 }).await, 2);
/// # }
/// ```
pub enum MaybeReady<'a, T> {
    /// The value.
    Ready(T),
    /// A future of the value.
    Boxed(BoxFuture<'a, T>),
}

/// A boxed future that may move between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

impl<'a, T> MaybeReady<'a, T> {
    /// Boxes `future`.
    pub fn boxed(future: impl Future<Output = T> + Send + 'a) -> Self {
        MaybeReady::Boxed(Box::pin(future))
    }

    /// Applies `f` to the value, at once if it is ready, or when the future yields it.
    pub fn map<U>(self, f: impl FnOnce(T) -> U + Send + 'a) -> MaybeReady<'a, U>
    where
        T: 'a,
    {
        match self {
            MaybeReady::Ready(value) => MaybeReady::Ready(f(value)),
            MaybeReady::Boxed(future) => MaybeReady::boxed(async move { f(future.await) }),
        }
    }

    /// Returns the value if it is ready.
    ///
    /// # Errors
    /// The unchanged `MaybeReady` if the value is not ready.
    pub fn into_ready(self) -> Result<T, Self> {
        match self {
            MaybeReady::Ready(value) => Ok(value),
            MaybeReady::Boxed(_) => Err(self),
        }
    }
}

impl<T> fmt::Debug for MaybeReady<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            MaybeReady::Ready(_) => "MaybeReady::Ready",
            MaybeReady::Boxed(_) => "MaybeReady::Boxed",
        })
    }
}

impl<'a, T> IntoFuture for MaybeReady<'a, T> {
    type Output = T;
    type IntoFuture = MaybeReadyFuture<'a, T>;

    fn into_future(self) -> Self::IntoFuture {
        MaybeReadyFuture(match self {
            MaybeReady::Ready(value) => Pending::Value(Some(value)),
            MaybeReady::Boxed(future) => Pending::Future(future),
        })
    }
}

/// The future of a [`MaybeReady`].
pub struct MaybeReadyFuture<'a, T>(Pending<'a, T>);

enum Pending<'a, T> {
    /// Taken by the poll that returns it.
    Value(Option<T>),
    Future(BoxFuture<'a, T>),
}

/// The value is moved out, never pinned.
impl<T> Unpin for MaybeReadyFuture<'_, T> {}

impl<T> Future for MaybeReadyFuture<'_, T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        match &mut self.0 {
            Pending::Value(value) => match value.take() {
                Some(value) => Poll::Ready(value),
                None => panic!("polled after it was ready"),
            },
            Pending::Future(future) => future.as_mut().poll(cx),
        }
    }
}
