use std::time::Duration;

/// What connections of clients are held to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) head_timeout: Duration,
    pub(super) send_timeout: Duration,
    pub(super) max_headers: usize,
    pub(super) max_head_bytes: usize,
    pub(super) max_streams: u32,
    pub(super) keep_alive: bool,
}
