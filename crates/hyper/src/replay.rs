//! [`Replay`]: a body that can be sent again from its beginning, as long as not much of it was sent.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// So many bytes of a body are kept.
const KEPT: usize = 64 * 1024;

/// The body, and what was read of it.
pub struct Kept<B>(Mutex<State<B>>);

impl<B> std::fmt::Debug for Kept<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Kept")
    }
}

struct State<B> {
    body: B,
    frames: Vec<Bytes>,
    bytes: usize,
    /// Whether `frames` is all that was read.
    is_whole: bool,
    /// Which replay may read on; those before are over.
    turn: usize,
}

impl<B> Kept<B> {
    pub(crate) fn new(body: B) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State { body, frames: Vec::new(), bytes: 0, is_whole: true, turn: 0 })))
    }

    /// Whether a replay would be the whole body.
    pub(crate) fn is_whole(&self) -> bool {
        self.lock().is_whole
    }

    /// The body from its beginning. Ends the replay before.
    pub(crate) fn replay(self: &Arc<Self>) -> Replay<B> {
        let mut state = self.lock();
        state.turn += 1;
        Replay { kept: Arc::clone(self), turn: state.turn, next: 0 }
    }

    fn lock(&self) -> MutexGuard<'_, State<B>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A body from its beginning.
pub(crate) struct Replay<B> {
    kept: Arc<Kept<B>>,
    turn: usize,
    /// The frame that is read next.
    next: usize,
}

impl<B: Body<Data = Bytes> + Unpin> Body for Replay<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.get_mut();
        let mut state = this.kept.lock();
        if state.turn != this.turn {
            return Poll::Ready(None);
        }
        if state.is_whole {
            if let Some(frame) = state.frames.get(this.next) {
                this.next += 1;
                return Poll::Ready(Some(Ok(Frame::data(frame.clone()))));
            }
        }
        let frame = ready!(Pin::new(&mut state.body).poll_frame(context));
        match &frame {
            Some(Ok(frame)) if state.is_whole => match frame.data_ref() {
                Some(data) if state.bytes + data.len() <= KEPT => {
                    state.bytes += data.len();
                    state.frames.push(data.clone());
                    this.next += 1;
                }
                // Too much, or trailers.
                _ => {
                    state.is_whole = false;
                    state.frames = Vec::new();
                }
            },
            Some(Err(_)) => state.is_whole = false,
            _ => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        let state = self.kept.lock();
        let has_more = state.is_whole && self.next < state.frames.len();
        state.turn != self.turn || (!has_more && state.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let state = self.kept.lock();
        let rest = state.body.size_hint();
        let again: usize = state.frames.iter().skip(self.next).map(Bytes::len).sum();
        let again = again as u64;
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower() + again);
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + again);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test")]

    use std::task::Waker;

    use http_body_util::Full;

    use super::*;

    fn read<B: Body<Data = Bytes> + Unpin>(body: &mut B) -> Option<Bytes>
    where
        B::Error: std::fmt::Debug,
    {
        match Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(frame) => frame.map(|frame| frame.unwrap().into_data().unwrap()),
            Poll::Pending => panic!("it waits"),
        }
    }

    #[test]
    fn a_body_comes_again_from_its_beginning() {
        let kept = Kept::new(Full::new(Bytes::from_static(b"hello")));
        for _ in 0..3 {
            assert!(kept.is_whole());
            let mut replay = kept.replay();
            assert_eq!(replay.size_hint().exact(), Some(5));
            assert!(!replay.is_end_stream());
            assert_eq!(read(&mut replay).unwrap(), "hello");
            assert!(replay.is_end_stream());
            assert_eq!(read(&mut replay), None);
        }
    }

    #[test]
    fn an_older_replay_reads_nothing_more() {
        let kept = Kept::new(Full::new(Bytes::from_static(b"hello")));
        let mut old = kept.replay();
        let mut new = kept.replay();
        assert_eq!(read(&mut old), None);
        assert_eq!(read(&mut new).unwrap(), "hello");
    }

    #[test]
    fn what_is_too_much_to_keep_goes_through_once() {
        let kept = Kept::new(Full::new(Bytes::from(vec![0; KEPT + 1])));
        assert_eq!(read(&mut kept.replay()).unwrap().len(), KEPT + 1);
        assert!(!kept.is_whole());
    }
}
