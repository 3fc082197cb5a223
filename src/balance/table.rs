use std::any::Any;
use std::fmt;

/// A value that a policy derived from the members of a view: see
/// [`Balancer::prepare`](super::Balancer::prepare).
#[derive(Default)]
pub struct Table(Option<Box<dyn Any + Send + Sync>>);

impl Table {
    /// Returns an empty table.
    pub const fn none() -> Self {
        Table(None)
    }

    /// Keeps `table` with the view.
    pub fn new<T: Send + Sync + 'static>(table: T) -> Self {
        Table(Some(Box::new(table)))
    }

    pub(super) fn as_deref(&self) -> Option<&(dyn Any + Send + Sync)> {
        self.0.as_deref()
    }

    pub(crate) fn into_inner(self) -> Option<Box<dyn Any + Send + Sync>> {
        self.0
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Table").field(&self.0.is_some()).finish()
    }
}
