//! Tells systemd the state of the process: see `sd_notify(3)`, and `Type=` in `systemd.service(5)`.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use rustix::time::{ClockId, clock_gettime};

/// The state of the process.
#[derive(Debug, Clone, Copy)]
pub enum State {
    /// It serves, after its start or after a reload.
    Ready,
    Reloading,
    Stopping,
}

/// Sends `state` to the socket that systemd names in `NOTIFY_SOCKET`. Without one it does nothing.
pub fn notify(state: State) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let message = match state {
        State::Ready => "READY=1".to_owned(),
        State::Reloading => {
            let now = clock_gettime(ClockId::Monotonic);
            format!("RELOADING=1\nMONOTONIC_USEC={}", now.tv_sec * 1_000_000 + now.tv_nsec / 1_000)
        }
        State::Stopping => "STOPPING=1".to_owned(),
    };
    if let Err(error) = send(socket.as_bytes(), &message) {
        tracing::warn!(socket = %socket.display(), %error, "the service manager cannot be notified");
    }
}

fn send(socket: &[u8], message: &str) -> io::Result<()> {
    let sender = UnixDatagram::unbound()?;
    // The service manager may be slow to read, and the front end must not wait for it.
    sender.set_nonblocking(true)?;
    sender.send_to_addr(message.as_bytes(), &address(socket)?).map(drop)
}

/// Returns the address of a socket: `@` begins the name of an abstract one.
fn address(socket: &[u8]) -> io::Result<SocketAddr> {
    match socket {
        #[cfg(target_os = "linux")]
        [b'@', name @ ..] => <SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(name),
        path => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path)),
    }
}
