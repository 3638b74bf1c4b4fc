//! A chain of middleware that ends in our client.
//!
//! `cargo run --example reqwest_middleware`
//!
//! A middleware that retries stands above the switch: what it sends again uses the certificates that are current then.
#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

use std::time::Duration;

use anyhow::ensure;
use certsource_client::reqwest::Request;
use certsource_client::{Client, Files, Response};
use certsource_examples::serve;
use certsource_testkit::{Ca, KubeletDir};
use http::Extensions;
use reqwest_middleware::{Middleware, Next, Result};

/// Tries again until it works, with a pause in between.
struct Patient {
    tries: u32,
}

#[async_trait::async_trait]
impl Middleware for Patient {
    async fn handle(
        &self,
        request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> Result<Response> {
        for attempt in 1..self.tries {
            let Some(again) = request.try_clone() else { break };
            match next.clone().run(again, extensions).await {
                Ok(response) => return Ok(response),
                Err(error) => println!("  try {attempt}: {:#}", anyhow::Error::from(error)),
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        next.run(request, extensions).await
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let (old, new) = (Ca::new("old CA"), Ca::new("new CA"));
    // The server has the new CA's certificate already. The client's files do not.
    let url = format!("https://localhost:{}/", serve(&new.issue("localhost")).await?.port());
    let files = KubeletDir::new(old.issue("client"))?;
    let client = Client::builder()
        .files(Files::kubernetes(files.path()))
        .reload_every(Duration::from_millis(100))
        .no_proxy()
        .build()
        .await?;
    let chain = client.with_middleware(|chain| chain.with(Patient { tries: 100 }));

    let asking = tokio::spawn(async move { chain.get(&url).send().await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    println!("the files change");
    files.swap(new.issue("client"))?;
    let response = asking.await??;
    println!("{}", response.status());
    ensure!(response.status().is_success());
    Ok(())
}
