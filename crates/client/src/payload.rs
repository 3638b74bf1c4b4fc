//! [`Payload`]: the body of a request, kept so that it can be sent again where that is possible.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use http_body::Body as HttpBody;
use reqwest::Body;

type Bytes = <Body as HttpBody>::Data;

/// The body of a request.
pub(crate) enum Payload {
    /// Bytes, shared by all attempts; empty when there is no body.
    Bytes(Bytes),
    /// A stream: there is one of it. `None` while an attempt has it, and after it was read from.
    Stream(Option<Body>),
}

/// No body.
impl Default for Payload {
    fn default() -> Self {
        Self::Bytes(Bytes::new())
    }
}

impl Payload {
    pub(crate) fn new(mut body: Body) -> Self {
        if body.as_bytes().is_none() {
            return Self::Stream(Some(body));
        }
        // What is bytes gives them at once, all in one frame. That is the only way to them without a copy.
        match Pin::new(&mut body).poll_frame(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Some(Ok(frame))) => Self::Bytes(frame.into_data().unwrap_or_default()),
            _ => Self::Bytes(Bytes::new()),
        }
    }

    /// The body for the next attempt. A stream is away then, until it is given back.
    pub(crate) fn next(&mut self) -> Body {
        match self {
            Self::Bytes(bytes) => Body::from(bytes.clone()),
            Self::Stream(stream) => stream.take().unwrap_or_default(),
        }
    }

    /// A stream comes back, if `returned` has it.
    pub(crate) fn restore(&mut self, returned: Option<Body>) {
        if let Self::Stream(stream @ None) = self {
            *stream = returned;
        }
    }

    pub(crate) fn is_stream(&self) -> bool {
        matches!(self, Self::Stream(_))
    }

    /// Whether the next attempt would have the whole body.
    pub(crate) fn is_whole(&self) -> bool {
        !matches!(self, Self::Stream(None))
    }

    /// Whether it is bytes, and some.
    pub(crate) fn has_bytes(&self) -> bool {
        matches!(self, Self::Bytes(bytes) if !bytes.is_empty())
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_whole_each_time_and_are_shared() {
        let mut payload = Payload::new(Body::from("some bytes".to_owned()));
        assert!(payload.has_bytes() && !payload.is_stream());
        let (first, second) = (payload.next(), payload.next());
        assert_eq!(first.as_bytes(), Some(&b"some bytes"[..]));
        assert_eq!(first.as_bytes().map(<[u8]>::as_ptr), second.as_bytes().map(<[u8]>::as_ptr));
        assert!(payload.is_whole());
    }

    #[test]
    fn no_body_and_an_empty_one_are_the_same() {
        let empty = [Body::default(), Body::from("")].map(Payload::new);
        for mut payload in empty.into_iter().chain([Payload::default()]) {
            assert!(!payload.has_bytes() && payload.is_whole());
            assert_eq!(payload.next().as_bytes(), Some(&b""[..]));
        }
    }

    #[test]
    fn a_stream_is_whole_only_while_it_is_here() {
        let mut payload = Payload::new(Body::wrap(Body::from("streamed")));
        assert!(payload.is_stream() && payload.is_whole());
        let away = payload.next();
        assert!(!payload.is_whole());
        payload.restore(None);
        assert!(!payload.is_whole());
        payload.restore(Some(away));
        assert!(payload.is_whole());
        payload.clear();
        assert!(!payload.is_stream());
    }
}
