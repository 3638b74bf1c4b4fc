//! [`TlsStream`]: a connection that a listener accepted, and its end when it is drained.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use super::peer::Peer;
use crate::metrics::{self, Side};

/// How long a connection that was ended is read on, unless the client closes it first. A socket that is closed with unread
/// bytes in it makes the system reset the connection, and then what was sent last may be lost on its way.
const LINGER: Duration = Duration::from_secs(2);

/// A connection whose handshake is done. [`TlsStream::peer`] tells who is there.
pub struct TlsStream {
    io: Box<tokio_rustls::server::TlsStream<TcpStream>>,
    peer: Peer,
    drain: Drain,
    /// Set when everything was sent and the end was told.
    linger: Option<Pin<Box<Sleep>>>,
}

/// When the connection is cut.
enum Drain {
    Never,
    /// So long after its generation was replaced.
    After(Pin<Box<dyn Future<Output = ()> + Send>>, Duration),
    At(Pin<Box<Sleep>>),
    Over,
}

impl TlsStream {
    pub(super) fn new(
        io: tokio_rustls::server::TlsStream<TcpStream>,
        peer: Peer,
        drain: Option<Duration>,
    ) -> Self {
        let drain = match drain {
            None => Drain::Never,
            Some(limit) => Drain::After(Box::pin(peer.generation().retired().replaced()), limit),
        };
        Self { io: Box::new(io), peer, drain, linger: None }
    }

    /// Who is at the other end.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Fails once the connection's time is up.
    fn poll_drain(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        loop {
            match &mut self.drain {
                Drain::Never => return Ok(()),
                Drain::After(retired, limit) => {
                    if retired.as_mut().poll(context).is_pending() {
                        return Ok(());
                    }
                    self.drain = Drain::At(Box::pin(tokio::time::sleep(*limit)));
                }
                Drain::At(end) => {
                    if end.as_mut().poll(context).is_pending() {
                        return Ok(());
                    }
                    self.drain = Drain::Over;
                }
                Drain::Over => {
                    let why = "the connection was made with certificates that have been replaced, and its time to end is over";
                    return Err(io::Error::new(io::ErrorKind::ConnectionAborted, why));
                }
            }
        }
    }
}

impl Drop for TlsStream {
    fn drop(&mut self) {
        metrics::ended(Side::Server, self.peer.generation().retired());
    }
}

impl fmt::Debug for TlsStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_drain(context)?;
        Pin::new(self.io.as_mut()).poll_read(context, buffer)
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_drain(context)?;
        Pin::new(self.io.as_mut()).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_drain(context)?;
        Pin::new(self.io.as_mut()).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.linger.is_none() {
            ready!(Pin::new(this.io.as_mut()).poll_shutdown(context))?;
        }
        let end = this.linger.get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGER)));
        loop {
            if end.as_mut().poll(context).is_ready() {
                return Poll::Ready(Ok(()));
            }
            let mut unread = [0; 1024];
            let mut unread = ReadBuf::new(&mut unread);
            let read = ready!(Pin::new(this.io.as_mut()).poll_read(context, &mut unread));
            if read.is_err() || unread.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_drain(context)?;
        Pin::new(self.io.as_mut()).poll_write_vectored(context, parts)
    }
}

#[cfg(feature = "tonic")]
#[cfg_attr(docsrs, doc(cfg(feature = "tonic")))]
impl tonic::transport::server::Connected for TlsStream {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}
