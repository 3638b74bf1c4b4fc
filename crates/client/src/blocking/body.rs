//! [`Body`]: bytes, or a reader that is read on the thread that sends.

use std::error::Error as StdError;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::pin::Pin;
use std::sync::mpsc;
use std::task::{Context, Poll, ready};

use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::runtime::Word;

type Bytes = <reqwest::Body as HttpBody>::Data;

/// As much is read at once.
const CHUNK: usize = 64 * 1024;

/// The body of a request.
///
/// Bytes can be sent again after a rotation. Of a reader there is one: it moves to the new generation as long as
/// nothing of it was read.
pub struct Body(Kind);

enum Kind {
    Bytes(reqwest::Body),
    Reader { reader: Box<dyn Read + Send>, length: Option<u64> },
}

impl Body {
    /// A body that is read from this while it is sent, on the thread that sends it.
    pub fn new(reader: impl Read + Send + 'static) -> Self {
        Self(Kind::Reader { reader: Box::new(reader), length: None })
    }

    /// As [`Body::new`], of this length in bytes.
    pub fn sized(reader: impl Read + Send + 'static, length: u64) -> Self {
        Self(Kind::Reader { reader: Box::new(reader.take(length)), length: Some(length) })
    }

    /// The body for reqwest, and what has to be read for it.
    pub(super) fn split(self) -> (reqwest::Body, Option<Reading>) {
        match self.0 {
            Kind::Bytes(body) => (body, None),
            Kind::Reader { reader, length } => {
                let (give, given) = unbounded_channel();
                let (ask, asked) = mpsc::channel();
                let feed = Feed { ask: ask.clone(), given, is_asked: false, left: length, is_over: false };
                (
                    reqwest::Body::wrap(feed),
                    Some(Reading { reader, left: length, failed: None, give, ask: Some(ask), asked }),
                )
            }
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Bytes(body) => f.debug_tuple("Body").field(body).finish(),
            Kind::Reader { length, .. } => {
                f.debug_struct("Body").field("length", length).finish_non_exhaustive()
            }
        }
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Kind::Bytes(bytes.into()))
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Self(Kind::Bytes(text.into()))
    }
}

impl From<&'static [u8]> for Body {
    fn from(bytes: &'static [u8]) -> Self {
        Self(Kind::Bytes(bytes.into()))
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Self(Kind::Bytes(text.into()))
    }
}

impl From<File> for Body {
    fn from(file: File) -> Self {
        match file.metadata() {
            Ok(metadata) if metadata.is_file() => Self::sized(file, metadata.len()),
            _ => Self::new(file),
        }
    }
}

/// What is said to the body.
enum Given {
    Chunk(Bytes),
    End,
    Failed,
}

/// The side of the thread that sends: reads when it is asked to.
pub(super) struct Reading {
    reader: Box<dyn Read + Send>,
    left: Option<u64>,
    /// Why it could not be read: HTTP/2 would tell that something of ours failed, and no more.
    pub(super) failed: Option<io::Error>,
    give: UnboundedSender<Given>,
    /// For the task that sends: taken, so that it is known when nobody is left who asks.
    pub(super) ask: Option<mpsc::Sender<Word>>,
    pub(super) asked: mpsc::Receiver<Word>,
}

impl Reading {
    /// Gives the next chunk. Nobody may be there to take it any more.
    pub(super) fn next(&mut self) {
        let mut chunk = vec![0; CHUNK];
        let given = loop {
            match self.reader.read(&mut chunk) {
                Ok(0) if self.left.is_none_or(|left| left == 0) => break Given::End,
                Ok(0) => {
                    let why = "the body's reader ended before the length that was said";
                    self.failed = Some(io::Error::new(io::ErrorKind::UnexpectedEof, why));
                    break Given::Failed;
                }
                Ok(read) => {
                    self.left = self.left.map(|left| left.saturating_sub(read as u64));
                    chunk.truncate(read);
                    break Given::Chunk(chunk.into());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.failed = Some(error);
                    break Given::Failed;
                }
            }
        };
        let _ = self.give.send(given);
    }
}

/// The side of the connection.
struct Feed {
    ask: mpsc::Sender<Word>,
    given: UnboundedReceiver<Given>,
    is_asked: bool,
    left: Option<u64>,
    is_over: bool,
}

impl HttpBody for Feed {
    type Data = Bytes;
    type Error = Box<dyn StdError + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        if !self.is_asked {
            self.is_asked = self.ask.send(Word::Read).is_ok();
        }
        let given = ready!(self.given.poll_recv(context));
        self.is_asked = false;
        let failed = match given {
            Some(Given::Chunk(chunk)) => {
                if let Some(left) = &mut self.left {
                    *left = left.saturating_sub(chunk.len() as u64);
                }
                return Poll::Ready(Some(Ok(Frame::data(chunk))));
            }
            Some(Given::End) => {
                self.is_over = true;
                return Poll::Ready(None);
            }
            Some(Given::Failed) => "the body could not be read",
            // A body that just ended here would look whole to the server.
            None => "the body was not read to its end, because the answer came before",
        };
        self.is_over = true;
        Poll::Ready(Some(Err(failed.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.is_over || self.left == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
