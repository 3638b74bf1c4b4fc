//! A server whose certificate rotates.
//!
//! certsource-hyper = { version = "0.1", features = ["server"] }
//! axum = { version = "0.8", default-features = false }
//! tokio = { version = "1", features = ["macros", "rt-multi-thread"] }

use certsource_hyper::certsource_reload::{Reloader, certsource::Files};
use certsource_hyper::{TlsListener, certsource_rustls::TlsGate, serve};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let reloader = Reloader::builder(Files::kubernetes("/etc/tls")).gate(TlsGate::new()?).start()?;
    let listener = TlsListener::builder(&reloader).bind("127.0.0.1:8443").await?;
    serve(listener, axum::Router::new()).await;
    Ok(())
}
