//! A detector of one's own: the writer says by a marker file that it has finished.
//!
//! `cargo run --example custom_detector`
//!
//! A detector only hints. It may say "changed" too often, which costs a read, or too seldom, which costs time; what is
//! published is what the files hold.
#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

use std::path::PathBuf;
use std::time::Duration;

use anyhow::ensure;
use certsource_client::Files;
use certsource_hyper::certsource_reload::Reloader;
use certsource_hyper::certsource_reload::certsource::clock::Now;
use certsource_hyper::certsource_reload::certsource::fs::{Fs, Signature};
use certsource_hyper::certsource_reload::certsource::source::{Arrival, Detector, Look};
use certsource_hyper::certsource_rustls::TlsGate;
use certsource_testkit::{Ca, TestDir};

/// Looks at one file only, which the writer touches last.
struct Marker {
    path: PathBuf,
    seen: Option<Option<Signature>>,
}

impl Detector for Marker {
    fn look(&mut self, fs: &dyn Fs, _: &[PathBuf], _: Now) -> Result<Look, certsource_client::Error> {
        // A marker that is not there is a state like any other.
        let now = fs.metadata(&self.path).ok().map(|meta| meta.signature());
        let has_changed = self.seen.replace(now) != Some(now);
        Ok(if has_changed { Look::Changed(Arrival::Unknown) } else { Look::Same })
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let ca = Ca::new("CA");
    let dir = TestDir::new()?;
    let write = |round: u32| {
        let identity = ca.issue("client");
        dir.write("tls.crt", identity.chain_pem())?;
        dir.write("tls.key", identity.key_pem())?;
        dir.write("finished", round.to_string())
    };
    write(0)?;
    let marker = Marker { path: dir.join("finished"), seen: None };
    let files = Files::identity(dir.join("tls.crt"), dir.join("tls.key")).detect(marker);
    let reloader = Reloader::builder(files)
        .every(Duration::from_millis(200))
        .gate(TlsGate::new()?)
        .start_async()
        .await?;
    let mut generations = reloader.watch();

    for round in 1..=3 {
        write(round)?;
        let generation = tokio::time::timeout(Duration::from_secs(60), generations.changed()).await?;
        let number = generation.map_or(0, |generation| generation.number());
        println!("round {round}: generation {number}");
        ensure!(number == u64::from(round) + 1, "each round is one generation");
    }
    Ok(())
}
