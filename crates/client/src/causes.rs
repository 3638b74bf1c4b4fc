//! Looks through an error and its causes.

use std::error::Error;
use std::io;

/// Whether one of an error and its causes is the one. `io::Error` hides what it wraps from `source`, so that is
/// looked into too.
pub(crate) fn find(
    error: &(dyn Error + 'static),
    is_it: &mut dyn FnMut(&(dyn Error + 'static)) -> bool,
) -> bool {
    let mut next = Some(error);
    // No chain of errors is that long; one that is a ring would be.
    for _ in 0..64 {
        let Some(error) = next else { return false };
        if is_it(error) {
            return true;
        }
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    false
}

/// The innermost cause, in words.
pub(crate) fn last(error: &(dyn Error + 'static)) -> String {
    let mut words = String::new();
    find(error, &mut |error| {
        words = error.to_string();
        false
    });
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connector::Superseded;

    #[test]
    fn what_io_errors_hide_is_found() {
        let inner = io::Error::other(io::Error::other(Superseded));
        assert!(find(&inner, &mut |error| error.is::<Superseded>()));
        assert_eq!(last(&inner), Superseded.to_string());
        assert!(!find(&io::Error::other("x"), &mut |error| error.is::<Superseded>()));
    }
}
