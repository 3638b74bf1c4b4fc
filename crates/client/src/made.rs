//! How many connections were made with a generation, for the feature `metrics`: they end with it.

#[cfg(feature = "metrics")]
use std::sync::atomic::{AtomicU64, Ordering};

use certsource_reload::Retired;

/// Counts connections. Dropped with the pool of its generation, when the last of them is closed.
#[derive(Debug)]
pub(crate) struct Made {
    #[cfg(feature = "metrics")]
    count: AtomicU64,
    #[cfg(feature = "metrics")]
    retired: Retired,
}

impl Made {
    #[cfg(feature = "metrics")]
    pub(crate) fn new(retired: Retired) -> Self {
        Self { count: AtomicU64::new(0), retired }
    }

    #[cfg(not(feature = "metrics"))]
    pub(crate) fn new(_: Retired) -> Self {
        Self {}
    }

    pub(crate) fn one_more(&self) {
        #[cfg(feature = "metrics")]
        self.count.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(feature = "metrics")]
impl Drop for Made {
    fn drop(&mut self) {
        // A client that is dropped has retired nothing.
        if self.retired.is_retired() {
            metrics::counter!("certsource_connections_retired_total", "side" => "client")
                .increment(self.count.load(Ordering::Relaxed));
        }
    }
}
