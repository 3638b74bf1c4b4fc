//! Rotates files the way kubelet does.
//!
//! certsource-testkit = "0.1"

use certsource_testkit::{Ca, KubeletDir, Part};

fn main() -> std::io::Result<()> {
    let ca = Ca::new("Example root");
    let dir = KubeletDir::new(ca.issue("localhost"))?;
    dir.swap(ca.issue("localhost"))?;
    dir.torn_write(Part::Key)
}
