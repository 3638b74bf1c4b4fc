//! Numbers that differ each time: for serial numbers and for names of temporary files.
//!
//! Not for secrets; keys come from the crypto library.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::sync::atomic::{AtomicU64, Ordering};

/// std seeds `RandomState` from the system; the counter tells apart two calls with the same seed.
pub(crate) fn number() -> u64 {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u64(CALLS.fetch_add(1, Ordering::Relaxed));
    hasher.finish()
}

/// A random serial number of 16 bytes, positive and without a leading zero byte, as public CAs make them.
pub(crate) fn serial() -> Vec<u8> {
    let mut bytes = [number().to_be_bytes(), number().to_be_bytes()].concat();
    bytes[0] = (bytes[0] & 0x7f).max(1);
    bytes
}
