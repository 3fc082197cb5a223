//! A user who floods the nodes, beside others.

use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderValue;
use kylin_lb::{Backend, Proxy};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::nodes::Completion;
use crate::served::{self, Pace, Served};
use crate::workload::Query;

/// One user who has so many queries on their way at any time. They are like those of the trace that `of` chooses.
#[derive(Clone, Copy)]
pub(crate) struct Flood {
    pub(crate) queries: usize,
    pub(crate) of: fn(&Query) -> bool,
}

impl Flood {
    /// Runs the queries of others in virtual time, each office with an account of its own.
    pub(crate) fn simulate(self, queries: &[Query], front: &Served, scale: f64) -> Vec<Completion> {
        served::in_virtual_time(async {
            let (queries, pace) = (Arc::<[Query]>::from(queries), Pace::new(scale));
            self.drive(served::proxy(front, served::in_process(&queries, pace, front)), queries, pace, front).await
        })
    }

    /// Runs the queries of others through a proxy, beside the flood.
    pub(crate) async fn drive<B: Backend>(
        self,
        proxy: Proxy<B>,
        queries: Arc<[Query]>,
        pace: Pace,
        front: &Served,
    ) -> Vec<Completion> {
        let flooding = self.begin(&proxy, &queries, pace);
        let completions = served::drive(proxy, queries, pace, front).await;
        drop(flooding);
        completions
    }

    /// Begins the flood, which ends when the result is dropped.
    fn begin<B: Backend>(self, proxy: &Proxy<B>, queries: &Arc<[Query]>, pace: Pace) -> JoinSet<()> {
        let mut all = JoinSet::new();
        let numbers: Arc<[usize]> =
            queries.iter().enumerate().filter(|(_, query)| (self.of)(query)).map(|(number, _)| number).collect();
        for first in 0..self.queries {
            let (proxy, queries, numbers) = (proxy.clone(), Arc::clone(queries), Arc::clone(&numbers));
            all.spawn(async move {
                for number in numbers.iter().cycle().skip(first) {
                    let mut request = served::request(*number, &queries[*number]);
                    for (name, value) in
                        [("authorization", "Basic Zmxvb2Q6S1lMSU4="), ("cache-control", "no-cache"), ("x-flood", "1")]
                    {
                        request.headers_mut().insert(name, HeaderValue::from_static(value));
                    }
                    let client = IpAddr::from([192, 0, 2, 1]);
                    if served::send(proxy.clone(), client, request, pace).await.refused {
                        // As `Retry-After` says.
                        sleep(pace.real(1e6)).await;
                    }
                }
            });
        }
        all
    }
}
