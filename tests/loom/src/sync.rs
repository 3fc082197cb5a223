//! The items of the crate's `sync` module, from loom.

use std::fmt;

pub(crate) use loom::sync::MutexGuard;
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};

/// A lock with the interface of parking_lot.
pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Mutex(loom::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap()
    }
}

impl<T: Default> Default for Mutex<T> {
    fn default() -> Self {
        Mutex::new(T::default())
    }
}

impl<T> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mutex")
    }
}

/// tokio's channel. Loom lets other threads run between its operations.
pub(crate) mod oneshot {
    use std::pin::Pin;
    use std::sync::Arc;
    use std::task::{Context, Poll};

    use loom::sync::atomic::{AtomicUsize, Ordering};
    use tokio::sync::oneshot;
    pub(crate) use tokio::sync::oneshot::error::{RecvError, TryRecvError};

    #[derive(Clone)]
    struct Switch(Arc<AtomicUsize>);

    impl Switch {
        fn run_others(&self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    pub(crate) struct Sender<T>(oneshot::Sender<T>, Switch);

    pub(crate) struct Receiver<T>(oneshot::Receiver<T>, Switch);

    pub(crate) fn channel<T>() -> (Sender<T>, Receiver<T>) {
        let (sender, receiver) = oneshot::channel();
        let switch = Switch(Arc::new(AtomicUsize::new(0)));
        (Sender(sender, switch.clone()), Receiver(receiver, switch))
    }

    impl<T> Sender<T> {
        pub(crate) fn send(self, value: T) -> Result<(), T> {
            self.1.run_others();
            self.0.send(value)
        }

        pub(crate) fn is_closed(&self) -> bool {
            self.1.run_others();
            self.0.is_closed()
        }
    }

    impl<T> Receiver<T> {
        pub(crate) fn close(&mut self) {
            self.1.run_others();
            self.0.close();
        }

        pub(crate) fn try_recv(&mut self) -> Result<T, TryRecvError> {
            self.1.run_others();
            self.0.try_recv()
        }
    }

    impl<T> Future for Receiver<T> {
        type Output = Result<T, RecvError>;

        fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
            self.1.run_others();
            Pin::new(&mut self.0).poll(cx)
        }
    }
}
