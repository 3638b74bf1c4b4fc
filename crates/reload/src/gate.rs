//! Gates: checks between reading and publishing.

use certsource::machine::{Candidate, Verdict};
use certsource::{Error, Reason};

/// A check between reading and publishing. Runs on an I/O thread of the hub, with a deadline; it may block.
///
/// A gate can not hold back a pure withdrawal: then its refusal is told, and the generation is published.
///
/// Closures of the form `Fn(&Candidate) -> Result<(), Error>` are gates.
pub trait Gate: Send + Sync {
    /// Judges the candidate.
    fn judge(&self, candidate: &Candidate) -> Verdict;
}

impl<F> Gate for F
where
    F: Fn(&Candidate) -> Result<(), Error> + Send + Sync,
{
    fn judge(&self, candidate: &Candidate) -> Verdict {
        match self(candidate) {
            Ok(()) => Verdict::Accept,
            Err(error) => Verdict::Refuse(error),
        }
    }
}

pub(crate) fn panicked(what: &str) -> Error {
    Error::new(Reason::Rejected, format!("{what} panicked; the last good generation stays"))
}
