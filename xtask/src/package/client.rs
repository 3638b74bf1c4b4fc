//! The five lines of README.
//!
//! certsource-client = "0.1"
//! tokio = { version = "1", features = ["macros", "rt-multi-thread"] }

use std::time::Duration;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let client = certsource_client::Client::builder()
        .root_certificate("/etc/tls/ca.pem")
        .identity("/etc/tls/tls.crt", "/etc/tls/tls.key")
        .reload_every(Duration::from_secs(300))
        .build().await?;
    println!("{}", client.get("https://localhost:8443/").send().await?.status());
    Ok(())
}
