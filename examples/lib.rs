//! What the examples share: a small HTTPS server on loopback, so that each example shows its own subject only.

use std::net::SocketAddr;
use std::sync::Arc;

use certsource_testkit::Issued;
use rustls::ServerConfig;
use rustls::crypto::ring;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// Serves `200 OK` to every HTTP/1.1 request, one request a connection, with session tickets on.
///
/// # Errors
/// When no port can be had on loopback.
pub async fn serve(identity: &Issued) -> anyhow::Result<SocketAddr> {
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(identity.chain_der(), identity.key_der())?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut stream = acceptor.accept(stream).await?;
                let (mut request, mut part) = (Vec::new(), [0; 1024]);
                while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                    match stream.read(&mut part).await? {
                        0 => break,
                        read => request.extend_from_slice(&part[..read]),
                    }
                }
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: close\r\n\r\nok\n")
                    .await?;
                stream.shutdown().await
            });
        }
    });
    Ok(address)
}
