use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Sleep, sleep};

use crate::clock::timer_in;
use crate::http1::writer::MessageWriter;

/// Measures how long the client has accepted no bytes while some are waiting to be written.
#[derive(Default)]
pub(super) struct WriteTimeout {
    timer: Option<Pin<Box<Sleep>>>,
    /// The number of writes that the client had accepted when the timer was set.
    writes: usize,
}

impl WriteTimeout {
    /// Polls until the client has accepted nothing for `limit`.
    pub(super) fn poll(&mut self, writer: &MessageWriter, limit: Duration, cx: &mut Context<'_>) -> Poll<()> {
        if !writer.is_held_up() {
            self.timer = None;
            return Poll::Pending;
        }
        let timer = match &mut self.timer {
            Some(timer) if self.writes == writer.writes() => timer,
            Some(timer) => {
                timer.as_mut().reset(timer_in(limit));
                timer
            }
            none => none.insert(Box::pin(sleep(limit))),
        };
        self.writes = writer.writes();
        timer.as_mut().poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, BufWriter, duplex};
    use tokio::time::timeout;

    use super::*;
    use crate::body::Body;
    use crate::http1::writer::BodyFraming;

    const LIMIT: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn bytes_that_the_stream_took_and_the_socket_did_not_are_not_accepted() {
        let (mut client, socket) = duplex(64);
        // Accepts everything, and passes it on when it is flushed, as TLS does.
        let mut stream = BufWriter::with_capacity(4096, socket);
        let (mut writer, mut write_timeout) = (MessageWriter::default(), WriteTimeout::default());
        for is_read in [true, false] {
            writer.start(|out| out.extend_from_slice(&[b'x'; 8]));
            writer.set_body(&mut Body::from(vec![b'y'; 1000]), BodyFraming::Length(1000));
            let sent = poll_fn(|cx| {
                if writer.poll_send(&mut stream, cx).is_ready() {
                    return Poll::Ready(true);
                }
                assert!(!writer.has_unwritten() && writer.is_held_up());
                write_timeout.poll(&writer, LIMIT, cx).map(|()| false)
            });
            let mut sent = std::pin::pin!(timeout(2 * LIMIT, sent));
            if is_read {
                assert!(timeout(LIMIT / 2, &mut sent).await.is_err());
                let mut read = [0; 1008];
                let (sent, _) = tokio::join!(sent, client.read_exact(&mut read));
                assert_eq!(sent, Ok(true));
                tokio::time::sleep(LIMIT).await;
            } else {
                assert!(timeout(LIMIT * 9 / 10, &mut sent).await.is_err(), "the time counts for each message");
                assert_eq!(sent.await, Ok(false));
            }
        }
    }
}
