//! A test of one's own rotation, with the testkit: does the program go on while its files are changed the way production
//! changes them?
//!
//! `cargo run --example own_rotation_test`
//!
//! In a project of your own this is a `#[test]`, and `Program` is what you ship. What it must bear: a swap by kubelet, files
//! that are renamed one by one, half a file, a key of another certificate.
#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use certsource_client::{Client, Files};
use certsource_examples::serve;
use certsource_testkit::{AgentFiles, Ca, KubeletDir, Part};

/// The program under test: here a client that follows its files.
struct Program(Client);

impl Program {
    async fn start(directory: &Path) -> anyhow::Result<Self> {
        let files = Files::kubernetes(directory);
        let client = Client::builder().files(files).reload_every(Duration::from_millis(100)).no_proxy();
        Ok(Self(client.build().await?))
    }

    async fn works(&self, url: &str) -> bool {
        self.0.get(url).send().await.is_ok()
    }

    /// Waits until it uses this certificate.
    async fn uses(&self, leaf: &[u8]) -> anyhow::Result<()> {
        let seen = async {
            while self.0.generation().identity().is_none_or(|identity| identity.leaf().der().as_ref() != leaf)
            {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), seen).await.context("it does not follow")
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let ca = Ca::new("CA");
    let url = format!("https://localhost:{}/", serve(&ca.issue("localhost")).await?.port());

    println!("kubelet swaps a directory");
    let first = ca.issue("program");
    let dir = KubeletDir::new(&first)?;
    let program = Program::start(dir.path()).await?;
    let second = ca.issue("program");
    dir.swap(&second)?;
    program.uses(&second.leaf_der()).await?;
    ensure!(program.works(&url).await);

    println!("half a key is written: it goes on with what it has");
    dir.torn_write(Part::Key)?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    program.uses(&second.leaf_der()).await?;
    ensure!(program.works(&url).await);
    let third = ca.issue("program");
    dir.swap(&third)?;
    program.uses(&third.leaf_der()).await?;

    println!("an agent renames one file after the other, and stops in between");
    let files = AgentFiles::new(&first)?;
    let program = Program::start(files.path()).await?;
    let mut steps = files.swap_steps(&second)?;
    steps.run_through("rename tls.crt")?;
    // The certificate is new, and the key is old.
    tokio::time::sleep(Duration::from_millis(500)).await;
    program.uses(&first.leaf_der()).await?;
    ensure!(program.works(&url).await);
    steps.finish()?;
    program.uses(&second.leaf_der()).await?;
    ensure!(program.works(&url).await);
    println!("it followed all of them");
    Ok(())
}
