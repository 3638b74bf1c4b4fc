//! Invariant 10: no private byte is shown by the TLS gate, nor by the configs that are made of a generation.
#![cfg(any(feature = "ring", feature = "aws-lc-rs"))]
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "../../certsource/tests/secret_support/mod.rs"]
mod secret_support;

use certsource_reload::certsource::files::Files;
use certsource_reload::{Hub, Reloader};
use certsource_rustls::{ClientAuth, ClientTls, Probe, ServerTls, TlsGate};
use certsource_testkit::{Ca, TestDir};

use secret_support::Shown;

#[test]
fn neither_a_gate_nor_a_config_shows_a_key() {
    let ca = Ca::new("ca");
    let issued = ca.issue("localhost");
    let mut shown = Shown::of(&issued);
    let dir = TestDir::new().unwrap();
    dir.write_issued(&issued).unwrap();
    let mut files = Files::kubernetes(dir.path());
    let material = files.load().unwrap();
    let (gate, client) = (TlsGate::new().unwrap(), ClientTls::new().unwrap());
    let server = ServerTls::new().unwrap().client_auth(ClientAuth::Required);
    gate.check(&material).unwrap();
    shown.debug(&gate);
    shown.debug(&client);
    shown.debug(&server);
    let config = client.config(&material).unwrap();
    shown.debug(&config);
    shown.debug(&config.client_auth_cert_resolver);
    let config = server.config(&material).unwrap();
    shown.debug(&config);
    shown.debug(&config.cert_resolver);
    let reloader = Reloader::builder(Files::kubernetes(dir.path())).hub(Hub::new()).start().unwrap();
    shown.debug(&client.following(&reloader).unwrap());
    let probe = Probe::new(client.clone(), "localhost", 1).unwrap();
    shown.debug(&probe);
    // Nobody listens there.
    shown.error(&probe.handshake(&material).unwrap_err());

    // A key that rustls does not take: of another curve than its certificate, by what it says of itself.
    let other = ca.issue("localhost");
    dir.write("tls.crt", other.chain_pem()).unwrap();
    shown.error(&files.load().unwrap_err());
    shown.is_all_of("certsource-rustls", &["ClientAuth", "CrlExpiry", "Revocation"]);
}
