//! Whether this thread may wait.

use std::error::Error as StdError;
use std::fmt;
use std::task::{Context, Poll, Waker};

use tokio::runtime::Handle;
use tokio::task::coop;

/// A call that waits was made in async code, where it would block a thread that other tasks need.
///
/// Use [`crate::Client`] there, or call it within `tokio::task::spawn_blocking`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BlockedInAsync;

impl fmt::Display for BlockedInAsync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the blocking client was called in async code; use the async client, or spawn_blocking")
    }
}

impl StdError for BlockedInAsync {}

/// # Errors
/// When a task of tokio's is polled on this thread.
///
/// There is no question to ask for that: `Handle::try_current` also says yes in `spawn_blocking`. But a task that is
/// polled has a budget, and a thread that may block has none (tokio 1.47, `task::coop`). So it is spent on trial, and
/// given back.
pub(super) fn check() -> Result<(), BlockedInAsync> {
    if Handle::try_current().is_err() {
        return Ok(());
    }
    let mut context = Context::from_waker(Waker::noop());
    let mut spent = Vec::new();
    let mut is_task = false;
    // The budget of a task is 128, and fits in a byte.
    for _ in 0..=u8::MAX {
        match coop::poll_proceed(&mut context) {
            Poll::Ready(unit) => spent.push(unit),
            Poll::Pending => {
                is_task = true;
                break;
            }
        }
    }
    // Each gives back what was there before it: the first one must be last.
    while spent.pop().is_some() {}
    if is_task { Err(BlockedInAsync) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_thread_may_wait() {
        assert_eq!(check(), Ok(()));
    }

    #[test]
    fn what_tokio_polls_may_not() {
        for runtime in [
            tokio::runtime::Builder::new_current_thread().build().unwrap(),
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap(),
        ] {
            runtime.block_on(async {
                assert_eq!(check(), Err(BlockedInAsync));
                assert!(coop::has_budget_remaining(), "it was given back");
                let polled = tokio::spawn(async {
                    let checks = [check(), check()];
                    tokio::task::yield_now().await;
                    (checks, check())
                });
                let refused = Err(BlockedInAsync);
                assert_eq!(polled.await.unwrap(), ([refused; 2], refused));
                assert_eq!(tokio::task::spawn_blocking(check).await.unwrap(), Ok(()));
            });
            let _entered = runtime.enter();
            assert_eq!(check(), Ok(()), "a handle alone polls nothing");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn block_in_place_may() {
        tokio::spawn(async {
            assert_eq!(check(), Err(BlockedInAsync));
            assert_eq!(tokio::task::block_in_place(check), Ok(()));
            // tokio gives the budget back with the next poll.
            tokio::task::yield_now().await;
            assert_eq!(check(), Err(BlockedInAsync));
        })
        .await
        .unwrap();
    }
}
