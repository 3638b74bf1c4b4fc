//! The forty lines that people write to follow a CA bundle, and what is wrong with them.
//!
//! `cargo run --example by_hand`
//!
//! The verifier is swapped inside one `ClientConfig`. That looks right, and every test with a fresh connection passes. But
//! rustls does not verify a resumed session again: the withdrawn CA is accepted for as long as sessions resume. Beside it,
//! certsource follows the same change of the same file and refuses. Exit code 0 when both is seen.
#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use certsource_examples::serve;
use certsource_testkit::{Ca, TestDir};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, HandshakeKind, RootCertStore, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let (old, new) = (Ca::new("old CA"), Ca::new("new CA"));
    let files = TestDir::new()?;
    let bundle = files.write("ca.pem", old.certificate_pem())?;
    let address = serve(&old.issue("localhost")).await?;
    println!("A server has a certificate of the old CA. Two clients trust that CA.\n");

    // By hand.
    let by_hand = ByHand::new(&std::fs::read(&bundle)?)?;
    println!("  by hand     {}", show(&by_hand.connect(address).await));
    // certsource.
    let client = certsource_client::Client::builder()
        .root_certificate(&bundle)
        .reload_every(Duration::from_millis(100))
        .reqwest(|builder| builder.no_proxy())
        .build()
        .await?;
    let url = format!("https://localhost:{}/", address.port());
    println!("  certsource  {}", show(&request(&client, &url).await));

    println!("\nThe old CA is withdrawn: the bundle now holds the new CA only. Both reload.\n");
    files.write("ca.pem", new.certificate_pem())?;
    by_hand.reload(&std::fs::read(&bundle)?)?;
    client.reload().await?;

    let (mut accepted, mut refused) = (0, 0);
    for _ in 0..3 {
        let result = by_hand.connect(address).await;
        accepted += usize::from(result.is_ok());
        println!("  by hand     {}", show(&result));
        let result = request(&client, &url).await;
        refused += usize::from(result.is_err());
        println!("  certsource  {}", show(&result));
    }
    println!(
        "\nThe withdrawn CA was accepted by hand {accepted} of 3 times, and refused by certsource {refused} of 3 times."
    );
    Ok(if (accepted, refused) == (3, 3) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn request(client: &certsource_client::Client, url: &str) -> anyhow::Result<HandshakeKind> {
    client.get(url).send().await?;
    Ok(HandshakeKind::Full)
}

/// The forty lines: a verifier that is swapped inside one config.
struct ByHand {
    verifier: Arc<Swapping>,
    connector: TlsConnector,
}

#[derive(Debug)]
struct Swapping(ArcSwap<WebPkiServerVerifier>);

impl ByHand {
    fn new(bundle: &[u8]) -> anyhow::Result<Self> {
        let verifier = Arc::new(Swapping(ArcSwap::from(verifier(bundle)?)));
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(verifier.clone())
            .with_no_client_auth();
        Ok(Self { verifier, connector: TlsConnector::from(Arc::new(config)) })
    }

    fn reload(&self, bundle: &[u8]) -> anyhow::Result<()> {
        self.verifier.0.store(verifier(bundle)?);
        Ok(())
    }

    /// One request; tells how the handshake went.
    async fn connect(&self, address: SocketAddr) -> anyhow::Result<HandshakeKind> {
        let stream = TcpStream::connect(address).await?;
        let mut stream = self.connector.connect(ServerName::try_from("localhost")?, stream).await?;
        let kind = stream.get_ref().1.handshake_kind().ok_or_else(|| anyhow::anyhow!("no handshake"))?;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await?;
        stream.read_to_end(&mut Vec::new()).await?;
        Ok(kind)
    }
}

fn verifier(bundle: &[u8]) -> anyhow::Result<Arc<WebPkiServerVerifier>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(bundle) {
        roots.add(certificate?)?;
    }
    let provider = Arc::new(ring::default_provider());
    Ok(WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build()?)
}

impl ServerCertVerifier for Swapping {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.0.load().verify_server_cert(end_entity, intermediates, server_name, ocsp, now)
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.load().verify_tls12_signature(message, certificate, signed)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.load().verify_tls13_signature(message, certificate, signed)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.load().supported_verify_schemes()
    }
}

/// The result in a few words: the innermost error says what TLS said.
fn show(result: &anyhow::Result<HandshakeKind>) -> String {
    match result {
        Ok(HandshakeKind::Resumed) => {
            "accepted (a resumed session: nobody verified the certificate)".to_owned()
        }
        Ok(_) => "accepted".to_owned(),
        Err(error) => format!("refused: {}", error.root_cause()),
    }
}
