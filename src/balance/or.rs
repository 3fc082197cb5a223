use super::{Balancer, Candidate, Candidates, Table};
use crate::request::RequestView;

/// Two policies. The second picks if the first abstains: see
/// [`BalancerExt::or`](super::BalancerExt::or).
#[derive(Debug, Clone)]
pub struct Or<A, B> {
    first: A,
    second: B,
}

struct Tables {
    first: Table,
    second: Table,
}

impl<A, B> Or<A, B> {
    pub(super) fn new(first: A, second: B) -> Self {
        Or { first, second }
    }
}

impl<A: Balancer, B: Balancer> Balancer for Or<A, B> {
    fn pick<'c>(&self, request: &RequestView<'_>, from: &Candidates<'c>) -> Option<Candidate<'c>> {
        let tables = from.table::<Tables>()?;
        self.first
            .pick(request, &from.with_table(&tables.first))
            .filter(|candidate| from.is_eligible(*candidate))
            .or_else(|| self.second.pick(request, &from.with_table(&tables.second)))
    }

    fn reads_query(&self) -> bool {
        self.first.reads_query() || self.second.reads_query()
    }

    fn reads_fingerprint(&self) -> bool {
        self.first.reads_fingerprint() || self.second.reads_fingerprint()
    }

    fn prepare(&self, members: &Candidates<'_>) -> Table {
        Table::new(Tables { first: self.first.prepare(members), second: self.second.prepare(members) })
    }
}
