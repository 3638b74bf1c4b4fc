//! What the end-to-end tests share: real programs as peers, load that tells what became of every request, and what people
//! write by hand, the forty lines of a client and their sibling for a server, as the negative controls.
//!
//! What is not here: any expectation about certsource. Those are in `tests/`.
#![allow(clippy::unwrap_used, reason = "only tests use this crate")]

pub mod access_log;
#[cfg(target_os = "linux")]
pub mod acme;
pub mod caller;
pub mod clients;
pub mod disk;
pub mod follower;
#[cfg(target_os = "linux")]
pub mod guard;
#[cfg(target_os = "linux")]
pub mod haproxy;
pub mod host;
pub mod load;
#[path = "../../examples/forty_lines.rs"]
pub mod naive;
pub mod naive_server;
#[cfg(target_os = "linux")]
pub mod nginx;
#[cfg(target_os = "linux")]
pub mod openbao;
pub mod openssl;
pub mod orderly;
pub mod peer;
#[cfg(target_os = "linux")]
pub mod postgres;
#[cfg(target_os = "linux")]
pub mod redis;
#[cfg(target_os = "linux")]
pub mod s_server;
pub mod serial;
pub mod server;
pub mod subject;
pub mod tool;

use std::error::Error;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

/// Far more than any step here takes; a test that reaches it has failed.
pub const BOUND: Duration = Duration::from_secs(60);

/// How large a test is: this variable of the environment, or else what fits everyday runs.
///
/// # Panics
/// When the variable holds no number.
pub fn size(variable: &str, default: u64) -> u64 {
    match std::env::var(variable) {
        Ok(size) => size.parse().unwrap_or_else(|_| panic!("{variable}={size} is no number")),
        Err(_) => default,
    }
}

/// Waits until `done` returns something, with [`BOUND`].
///
/// For what tells nobody when it happens, such as a line in another program's log.
///
/// # Panics
/// When the bound is reached, with `what` in the message.
#[track_caller]
pub fn until<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + BOUND;
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(Instant::now() < end, "not reached in {BOUND:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// An error with all of its causes, on one line.
pub fn whole(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let _ = write!(text, ": {cause}");
        // `io::Error` shows what it wraps, and its `source` begins one below that.
        next = cause.source();
    }
    text
}
