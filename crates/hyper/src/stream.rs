//! [`Stream`]: a connection that a [`Connector`](crate::Connector) made, and [`ConnectionInfo`], by which it is known
//! which generation that was.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use certsource_reload::Generation;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::HandshakeKind;
use tokio_rustls::client::TlsStream;

use crate::metrics::{self, Side};
use crate::pool::{Place, Pool};

/// A connection: by TLS, or in plain where that was allowed.
pub struct Stream<T> {
    inner: Inner<T>,
}

enum Inner<T> {
    Plain(T),
    Tls { io: Box<TokioIo<TlsStream<TokioIo<T>>>>, is_http2: bool, info: ConnectionInfo, late: Option<Late> },
}

/// What is known of a connection. hyper-util's client puts it into the extensions of each response.
#[derive(Clone)]
pub struct ConnectionInfo {
    generation: Arc<Generation>,
    is_resumed: bool,
    pub(crate) place: Arc<Place>,
}

impl ConnectionInfo {
    /// The generation that the connection was made with.
    pub fn generation(&self) -> &Arc<Generation> {
        &self.generation
    }

    /// Whether a TLS session was resumed.
    pub fn is_resumed(&self) -> bool {
        self.is_resumed
    }
}

impl fmt::Debug for ConnectionInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionInfo")
            .field("generation", &self.generation.number())
            .field("is_resumed", &self.is_resumed)
            .finish_non_exhaustive()
    }
}

/// Told of the first error that reading meets.
pub(crate) struct Late(Box<dyn FnOnce(&io::Error) + Send>);

impl Late {
    pub(crate) fn new(tell: impl FnOnce(&io::Error) + Send + 'static) -> Self {
        Self(Box::new(tell))
    }
}

/// Nothing of the request was written.
#[derive(Debug)]
pub(crate) struct Unsent;

impl fmt::Display for Unsent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "the connection was made with certificates that have been replaced; the request was not sent",
        )
    }
}

impl std::error::Error for Unsent {}

fn unsent() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, Unsent)
}

impl<T> Stream<T> {
    pub(crate) fn plain(io: T) -> Self {
        Self { inner: Inner::Plain(io) }
    }

    pub(crate) fn tls(
        io: TlsStream<TokioIo<T>>,
        is_http2: bool,
        pool: &Arc<Pool>,
        generation: Arc<Generation>,
        late: Option<Late>,
    ) -> Self {
        let is_resumed = io.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
        let info = ConnectionInfo { generation, is_resumed, place: Arc::new(Place::new(pool)) };
        Self { inner: Inner::Tls { io: Box::new(TokioIo::new(io)), is_http2, info, late } }
    }

    /// What is known of the connection. `None` without TLS.
    pub fn info(&self) -> Option<&ConnectionInfo> {
        match &self.inner {
            Inner::Plain(_) => None,
            Inner::Tls { info, .. } => Some(info),
        }
    }
}

impl<T> fmt::Debug for Stream<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("info", &self.info()).finish_non_exhaustive()
    }
}

impl<T> Drop for Stream<T> {
    fn drop(&mut self) {
        if let Inner::Tls { info, .. } = &self.inner {
            info.place.leave();
            metrics::ended(Side::Client, info.generation.retired());
        }
    }
}

impl<T: Connection + Read + Write + Unpin> Connection for Stream<T> {
    fn connected(&self) -> Connected {
        match &self.inner {
            Inner::Plain(io) => io.connected(),
            Inner::Tls { io, is_http2, info, .. } => {
                let connected = io.inner().get_ref().0.inner().connected().extra(info.clone());
                if *is_http2 { connected.negotiated_h2() } else { connected }
            }
        }
    }
}

impl<T: Read + Write + Unpin> Read for Stream<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.get_mut().inner {
            Inner::Plain(io) => Pin::new(io).poll_read(context, buffer),
            // The end: hyper takes a request back that it has not begun to send.
            Inner::Tls { is_http2: false, info, .. } if info.place.is_refused() => Poll::Ready(Ok(())),
            Inner::Tls { io, late, .. } => {
                let polled = Pin::new(io.as_mut()).poll_read(context, buffer);
                if let Poll::Ready(Err(error)) = &polled {
                    if let Some(late) = late.take() {
                        (late.0)(error);
                    }
                }
                polled
            }
        }
    }
}

impl<T: Read + Write + Unpin> Write for Stream<T> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().inner {
            Inner::Plain(io) => Pin::new(io).poll_write(context, bytes),
            Inner::Tls { is_http2: false, info, .. } if info.place.is_refused() => Poll::Ready(Err(unsent())),
            Inner::Tls { io, .. } => Pin::new(io.as_mut()).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().inner {
            Inner::Plain(io) => Pin::new(io).poll_flush(context),
            Inner::Tls { io, .. } => Pin::new(io.as_mut()).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().inner {
            Inner::Plain(io) => Pin::new(io).poll_shutdown(context),
            Inner::Tls { io, .. } => Pin::new(io.as_mut()).poll_shutdown(context),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.inner {
            Inner::Plain(io) => io.is_write_vectored(),
            Inner::Tls { io, .. } => io.is_write_vectored(),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().inner {
            Inner::Plain(io) => Pin::new(io).poll_write_vectored(context, parts),
            Inner::Tls { is_http2: false, info, .. } if info.place.is_refused() => Poll::Ready(Err(unsent())),
            Inner::Tls { io, .. } => Pin::new(io.as_mut()).poll_write_vectored(context, parts),
        }
    }
}
