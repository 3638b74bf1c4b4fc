//! The forty lines that people write to follow certificates, and what is wrong with them.
//!
//! `cargo run --example by_hand`
//!
//! They are in `forty_lines.rs`: a verifier and a resolver, swapped inside one `ClientConfig`. That looks right, and every
//! test with a fresh connection passes. But rustls does not verify a resumed session again, nor show another certificate
//! in it: the old identity is kept, and the withdrawn CA accepted, for as long as sessions resume. Beside them, certsource
//! follows the same changes of the same files. Exit code 0 when all of that is seen.
#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

#[allow(dead_code, unreachable_pub, reason = "the end-to-end tests use this file too, and more of it")]
mod forty_lines;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use certsource_client::reqwest;
use certsource_examples::serve_clients;
use certsource_testkit::{Ca, TestDir};
use forty_lines::Naive;

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let (old, new, clients) = (Ca::new("old CA"), Ca::new("new CA"), Ca::new("CA of the clients"));
    let (first, second) = (clients.issue("first"), clients.issue("second"));
    let files = TestDir::new()?;
    let bundle = files.write("ca.pem", old.certificate_pem())?;
    let (certificate, key) =
        (files.write("tls.crt", first.chain_pem())?, files.write("tls.key", first.key_pem())?);
    let address = serve_clients(&old.issue("localhost"), &clients, vec![first, second.clone()]).await?;
    let url = format!("https://localhost:{}/", address.port());
    println!("A server has a certificate of the old CA, and wants one of each client. Two clients ask it.\n");

    // By hand.
    let mut naive = Naive::new(&bundle, Some((certificate.clone(), key.clone())), rustls::DEFAULT_VERSIONS)?;
    let by_hand =
        reqwest::Client::builder().tls_backend_preconfigured((*naive.config()).clone()).no_proxy().build()?;
    // certsource.
    let certsource = certsource_client::Client::builder()
        .root_certificate(&bundle)
        .identity(&certificate, &key)
        .reload_every(Duration::from_millis(100))
        .no_proxy()
        .build()
        .await?;
    show("by hand", &text(by_hand.get(&url).send().await).await);
    show("certsource", &text(certsource.get(&url).send().await).await);

    println!("\nThe identity is rotated: the files now hold the second one. Both reload.\n");
    files.write("tls.key", second.key_pem())?;
    files.write("tls.crt", second.chain_pem())?;
    naive.poll()?;
    certsource.reload().await?;
    let (mut late, mut current) = (0, 0);
    for _ in 0..3 {
        let result = text(by_hand.get(&url).send().await).await;
        late += usize::from(result.as_ref().is_ok_and(|answer| answer.contains("first")));
        show("by hand", &result);
        let result = text(certsource.get(&url).send().await).await;
        current += usize::from(result.as_ref().is_ok_and(|answer| answer.contains("second")));
        show("certsource", &result);
    }

    println!("\nThe old CA is withdrawn: the bundle now holds the new CA only. Both reload.\n");
    files.write("ca.pem", new.certificate_pem())?;
    naive.poll()?;
    certsource.reload().await?;
    let (mut accepted, mut refused) = (0, 0);
    for _ in 0..3 {
        let result = text(by_hand.get(&url).send().await).await;
        accepted += usize::from(result.is_ok());
        show("by hand", &result);
        let result = text(certsource.get(&url).send().await).await;
        refused += usize::from(result.is_err());
        show("certsource", &result);
    }
    println!(
        "\nThe old identity was shown by hand {late} of 3 times, the new one by certsource {current} of 3 times.\n\
         The withdrawn CA was accepted by hand {accepted} of 3 times, and refused by certsource {refused} of 3 times."
    );
    let is_seen = (late, current, accepted, refused) == (3, 3, 3, 3);
    Ok(if is_seen { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn text(response: reqwest::Result<reqwest::Response>) -> Result<String> {
    Ok(response?.text().await?)
}

/// The answer, or the innermost error: it says what TLS said.
fn show(who: &str, result: &Result<String>) {
    match result {
        Ok(answer) => println!("  {who:<11} accepted; the server saw {answer}"),
        Err(error) => println!("  {who:<11} refused: {}", error.root_cause()),
    }
}
