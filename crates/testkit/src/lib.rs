//! For tests: mint certificates and rotate files the way kubelet, certbot and agents do.

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
