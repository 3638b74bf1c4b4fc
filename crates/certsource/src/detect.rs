//! Detectors: WHEN to read files again. [`Mtime`] and [`Sha256`] here need nothing; `Notify` needs the feature
//! `notify`.
//!
//! | detector | an idle look costs | sees | does not see |
//! | --- | --- | --- | --- |
//! | [`Mtime`] | a `stat` a file, or one `readlink` a Kubernetes volume | every change that moves a time stamp, size or inode; what moves none within 5 minutes | – |
//! | [`Sha256`] | a read of every file | every change of content | – |
//! | `Notify` | nothing between looks; a look every 60 s | changes at once | what the kernel gives no event for, until the look after it |
//!
//! All of them only hint. The engine compares content, so a wrong detector costs time, never safety. What is not
//! here: reading for use ([`crate::files`]) and every decision ([`crate::machine`]).

mod link;
mod mtime;
#[cfg(feature = "notify")]
mod notify;
mod sha256;

pub use self::mtime::Mtime;
#[cfg(feature = "notify")]
pub use self::notify::Notify;
pub use self::sha256::Sha256;
