//! Removing what has expired.
//!
//! Every front end sweeps, each at moments of its own; together they need no agreement, since a row can be removed only once.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::connection::Server;
use super::statements::Statements;
use crate::session::StoreError;
use crate::session::store::remote::Pool;

/// The longest one sweep goes on, in statements. What is left waits for the next.
const STATEMENTS: usize = 200;

/// The task that sweeps, started with the first request and ended with the store.
pub(super) struct Sweep {
    every: Duration,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Sweep {
    pub(super) fn new(every: Duration) -> Self {
        Sweep { every, task: Mutex::new(None) }
    }

    /// Starts the task unless it runs. It ends with its runtime; then the next request starts another.
    pub(super) fn ensure_running(&self, pool: &Pool<Server>, statements: &Arc<Statements>) {
        let mut task = self.task.lock();
        if task.as_ref().is_none_or(JoinHandle::is_finished) {
            let (pool, statements, every) = (pool.clone(), statements.clone(), self.every);
            *task = Some(tokio::spawn(async move {
                loop {
                    // Give or take half, so that front ends that started together do not meet.
                    sleep(every.mul_f64(0.5 + fastrand::f64())).await;
                    // A server that is down is somebody else's concern.
                    let _ = all(&pool, &statements).await;
                }
            }));
        }
    }
}

impl Drop for Sweep {
    fn drop(&mut self) {
        if let Some(task) = self.task.get_mut() {
            task.abort();
        }
    }
}

/// Removes what has expired, a bounded number of rows at a time; how many.
pub(super) async fn all(pool: &Pool<Server>, statements: &Arc<Statements>) -> Result<u64, StoreError> {
    let mut all = 0;
    for _ in 0..STATEMENTS {
        let statements = statements.clone();
        let work = pool.run(move |connection| {
            let statements = statements.clone();
            Box::pin(async move { statements.sweep(connection).await })
        });
        let (swept, more) = work.await?;
        all += swept;
        if !more {
            break;
        }
    }
    Ok(all)
}
