//! For tests: mint certificates and rotate files the way kubelet, certbot and agents do.

mod ca;
mod crl;
mod damage;
mod der;
mod files;
mod issued;
mod key;
mod kubelet;
mod leaf;
mod random;
mod steps;
mod test_dir;
mod text;
mod validity;
pub mod write;

pub use ca::{Ca, CaBuilder};
pub use crl::{Crl, CrlBuilder};
pub use damage::{Damage, Part, damage};
pub use issued::Issued;
pub use key::KeyKind;
pub use kubelet::KubeletDir;
pub use leaf::Leaf;
pub use steps::Steps;
pub use test_dir::TestDir;
