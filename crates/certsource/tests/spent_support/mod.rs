//! How long a thread was at work.

use std::time::{Duration, Instant};

/// What this took: the processor time of this thread, where the kernel tells it, for other work on the machine does not
/// count. Else it is the time that passed.
pub(crate) fn spent<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let (begin, before) = (Instant::now(), so_far());
    let result = work();
    let took = match (before, so_far()) {
        (Some(before), Some(after)) => after.saturating_sub(before),
        _ => begin.elapsed(),
    };
    (result, took)
}

fn so_far() -> Option<Duration> {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    stat.split(' ').next()?.parse().ok().map(Duration::from_nanos)
}
