//! For tests: mint certificates and rotate files the way kubelet, certbot and agents do.
//!
//! A service that reloads its certificates has to be tested with certificates that change. This crate makes both
//! parts short: a throwaway certificate authority, and writers that change files by the same system calls as the
//! programs that change them in production. It knows nothing about the rest of certsource, so it tests any
//! program that reads certificates from files.
//!
//! ```
//! use certsource_testkit::{Ca, KubeletDir, Part};
//!
//! # fn main() -> std::io::Result<()> {
//! let ca = Ca::new("Example root");
//! let dir = KubeletDir::new(ca.issue("localhost"))?; // ca.crt, tls.crt, tls.key, as in a pod
//! // … start the program under test with dir.path() …
//!
//! let renewed = ca.issue("localhost");
//! dir.swap(&renewed)?; // as when cert-manager renews
//! assert_eq!(std::fs::read_to_string(dir.cert_path())?, renewed.chain_pem());
//!
//! dir.torn_write(Part::Key)?; // the program must go on with what it has
//! # Ok(())
//! # }
//! ```
//!
//! # Minting
//!
//! - [`Ca`]: roots, intermediates, renewed and cross-signed authorities, revocation, [`Crl`]s
//! - [`Issued`]: a leaf with its chain and key, as PEM, as DER, as the types that rustls takes
//! - [`Leaf`]: names, validity, usage, serial number, [`KeyKind`]; the key of another leaf
//!
//! Certificates are minted in the test: ones that are checked in expire.
//!
//! # Writing
//!
//! | writer | changes files as | one moment for all files | no moment without a file |
//! | --- | --- | --- | --- |
//! | [`KubeletDir`] | Secrets, ConfigMaps, projected and CSI volumes | yes | yes |
//! | [`CertbotLive`] | certbot's `live` and `archive` | no | no |
//! | [`AgentFiles`] | consul-template, the agents of Vault and OpenBao | no | yes |
//! | [`PlainDir`] | everyday tools, by a [`Method`] | by method | by method |
//! | [`write`](mod@write) | the same for single paths | | |
//! | [`damage`](fn@damage) | a crash, a full disk | | |
//!
//! [`Rotate`] is what the first four have in common: one test, any writer. [`TestDir`] is a directory that is gone
//! when the test is.
//!
//! # Step by step
//!
//! What goes wrong in a rotation goes wrong between two system calls. Every writer can be had as [`Steps`]: the
//! test runs some, looks at the program under test, runs some more. Nothing depends on threads, sleeps or luck.
//!
//! ```
//! use certsource_testkit::{AgentFiles, Ca};
//!
//! # fn main() -> std::io::Result<()> {
//! let ca = Ca::new("Example root");
//! let (old, new) = (ca.issue("localhost"), ca.issue("localhost"));
//! let files = AgentFiles::new(&old)?;
//!
//! let mut steps = files.swap_steps(&new)?;
//! steps.run_through("rename tls.crt")?;
//! // Now the certificate is new and the key is old: a program must wait here, not fail.
//! assert_eq!(std::fs::read_to_string(files.key_path())?, old.key_pem());
//! steps.finish()?;
//! # Ok(())
//! # }
//! ```
//!
//! # Modes, errors, panics
//!
//! On Unix files with a private key (PEM text, or a name that ends in `.key`) get mode 0600 from the moment they
//! are made, other files 0644, directories 0700; inside of a [`KubeletDir`] directories have the kubelet's 0755.
//!
//! Whatever touches files returns [`std::io::Error`], with the path or the step in its message. Minting panics
//! only for input that makes no certificate (a DNS name that is not ASCII, a CRL that ends before it begins).
//!
//! # Platforms
//!
//! Everything works on Unix. On Windows there are no modes, and [`KubeletDir`], [`CertbotLive`] and the links of
//! [`PlainDir`] need the right to make symbolic links (developer mode). As the kubelet does there, the swap is
//! then a removal and a new link, with a moment in between.
//!
//! # Features
//!
//! | feature | default | what it adds |
//! | --- | --- | --- |
//! | `rsa` | no | `KeyKind::Rsa2048` and `Issued::key_pkcs1_pem`. ring cannot generate RSA keys, so aws-lc-rs does; it needs a C compiler and builds for a minute or two |
//!
//! # Not for production
//!
//! The keys of these authorities live in memory and in temporary files, without protection beyond their modes.

mod agent;
mod ca;
mod certbot;
mod crl;
mod damage;
mod der;
mod files;
mod issued;
mod key;
mod kubelet;
mod leaf;
mod plain;
mod random;
mod rotate;
mod steps;
mod test_dir;
mod text;
mod validity;
pub mod write;

pub use agent::AgentFiles;
pub use ca::{Ca, CaBuilder};
pub use certbot::CertbotLive;
pub use crl::{Crl, CrlBuilder};
pub use damage::{Damage, Part, damage};
pub use issued::Issued;
pub use key::KeyKind;
pub use kubelet::KubeletDir;
pub use leaf::Leaf;
pub use plain::{Method, PlainDir};
pub use rotate::Rotate;
pub use steps::Steps;
pub use test_dir::TestDir;

/// The README's code runs as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
