//! [`Orderly`]: a connection that its server closes in order: it says that it ends, and reads on until the client has closed
//! its side too.
//!
//! A socket that is closed with unread bytes in it makes the system reset the connection, and what was sent last, such as a
//! GOAWAY or an answer, may be lost on its way.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// So long a client has to close its side.
pub const LINGER: Duration = Duration::from_secs(2);

/// A connection around another one.
#[derive(Debug)]
pub struct Orderly<S> {
    io: S,
    /// Set when everything was sent and the end was told.
    linger: Option<Pin<Box<Sleep>>>,
}

impl<S> Orderly<S> {
    /// Around this one.
    pub fn new(io: S) -> Self {
        Self { io, linger: None }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Orderly<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Orderly<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.linger.is_none() {
            ready!(Pin::new(&mut this.io).poll_shutdown(context))?;
        }
        let end = this.linger.get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGER)));
        loop {
            if end.as_mut().poll(context).is_ready() {
                return Poll::Ready(Ok(()));
            }
            let mut unread = [0; 1024];
            let mut unread = ReadBuf::new(&mut unread);
            let read = ready!(Pin::new(&mut this.io).poll_read(context, &mut unread));
            if read.is_err() || unread.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}
