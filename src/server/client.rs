use bytes::BytesMut;
use tokio::time::Instant;

use super::accept::CurrentHandler;
use super::limits::Limits;
use super::stop::StopSignal;
use crate::request::{ClientAddr, ClientKey};

/// A client, with the handler and limits of its connection.
pub(super) struct Client<H> {
    pub(super) peer: ClientAddr,
    /// The client whose share of the buffers the bytes of the connection count against. `None` if
    /// the peer connects on behalf of many clients.
    pub(super) key: Option<ClientKey>,
    pub(super) handler: CurrentHandler<H>,
    pub(super) limits: Limits,
    pub(super) stop: StopSignal,
}

/// An idle connection: its socket, and the bytes of the next request that were already read.
pub(super) struct IdleConnection<S> {
    pub(super) stream: S,
    pub(super) read: BytesMut,
    /// The time at which the head of the next request must be complete.
    pub(super) deadline: Instant,
}
