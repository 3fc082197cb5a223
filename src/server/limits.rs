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

impl Default for Limits {
    fn default() -> Self {
        Limits {
            head_timeout: Duration::from_secs(60),
            send_timeout: Duration::from_secs(60),
            max_headers: 100,
            max_head_bytes: 64 * 1024,
            max_streams: 128,
            keep_alive: true,
        }
    }
}
