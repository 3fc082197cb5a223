//! Reads whole bodies, up to a limit.

use bytes::Bytes;
use http_body::Body as _;
use http_body_util::BodyExt;

use super::{Body, BodyError};
use crate::buffer::{GrowingBuffer, Reservation};

/// The error when a body was not read into reserved memory.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CollectError {
    #[error(transparent)]
    Body(#[from] BodyError),
    /// The budget, or the share of the client, has no bytes left for the body.
    #[error("the budget has no bytes for the body")]
    NoMemory,
}

impl Body {
    /// Reads the whole body. A body of more than `max` bytes fails with [`BodyError::TooLarge`].
    pub(crate) async fn collect_up_to(self, max: u64) -> Result<Bytes, BodyError> {
        Ok(self.at_most(max).collect().await?.to_bytes())
    }

    /// Reads the whole body like [`collect_up_to`](Self::collect_up_to). Its bytes are reserved
    /// before they are allocated, and stay reserved until the last slice of them is dropped.
    pub(crate) async fn collect_reserved(self, max: u64, reservation: Reservation) -> Result<Bytes, CollectError> {
        let size = self.size_hint();
        if size.lower() > max {
            return Err(BodyError::TooLarge.into());
        }
        let longest = size.upper().map_or(max, |upper| upper.min(max));
        let mut read = GrowingBuffer::new(reservation, usize::try_from(longest).unwrap_or(usize::MAX));
        let mut body = self.at_most(max);
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            if !read.try_push(&data) {
                return Err(CollectError::NoMemory);
            }
        }
        Ok(read.into_bytes())
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;
    use crate::buffer::BufferBudget;

    #[tokio::test]
    async fn a_body_is_reserved_until_its_last_slice_is_dropped_or_refused() {
        let budget = BufferBudget::with_client_share(NonZeroUsize::new(4096), None).unwrap();
        let collect =
            |length: usize, max| Body::from(vec![b'x'; length]).collect_reserved(max, budget.reservation(None));
        let first = collect(3000, 4000).await.unwrap();
        assert_eq!((first.len(), budget.status().used), (3000, 3000));
        let slice = first.slice(1..2);
        assert!(matches!(collect(3000, 4000).await, Err(CollectError::NoMemory)));
        drop(first);
        assert_eq!(budget.status().used, 3000);
        drop(slice);
        assert!(matches!(collect(3000, 2999).await, Err(CollectError::Body(BodyError::TooLarge))));
        assert_eq!(collect(3000, 3000).await.unwrap().len(), 3000);
        assert_eq!(budget.status().used, 0);
    }
}
