//! A rustls config that is replaced with each generation.
//!
//! certsource-rustls = "0.1"
//! certsource-reload = "0.1"

use certsource_reload::{Reloader, certsource::Files};
use certsource_rustls::{ClientTls, TlsGate};

fn main() -> Result<(), certsource_reload::Error> {
    let tls = ClientTls::new()?.alpn(["h2", "http/1.1"]);
    let reloader = Reloader::builder(Files::kubernetes("/etc/tls")).gate(TlsGate::new()?).start()?;
    let config = reloader.derive(move |generation| tls.config(generation.material()))?;
    let _now: certsource_rustls::rustls::ClientConfig = config.load().value().clone();
    Ok(())
}
