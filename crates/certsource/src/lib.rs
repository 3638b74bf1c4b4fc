#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod clock;
pub mod detect;
mod digest;
mod driver;
mod error;
mod few;
pub mod files;
pub mod fs;
pub mod inspect;
mod key;
pub mod machine;
mod material;
mod origin;
pub mod parts;
pub mod pem;
mod push;
pub mod source;
pub mod text;
#[cfg(feature = "notify")]
pub mod watch;

pub use digest::{ContentId, Digest, Fingerprint};
pub use driver::Driver;
pub use error::{Error, Reason};
pub use files::Files;
#[cfg(feature = "encrypted-keys")]
#[cfg_attr(docsrs, doc(cfg(feature = "encrypted-keys")))]
pub use key::WrongPassword;
pub use key::{KeyFormat, PrivateKey};
pub use material::{Certificate, Crl, Diff, Identity, Material, Partial, Reading, Role};
pub use origin::Origin;
pub use push::{Pusher, push};
pub use source::{Detector, Source};
