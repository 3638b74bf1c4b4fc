//! What the examples share: a small HTTPS server on loopback, so that each example shows its own subject only.

use std::net::SocketAddr;
use std::sync::Arc;

use certsource_testkit::{Ca, Issued};
use rustls::crypto::ring;
use rustls::server::WebPkiClientVerifier;
use rustls::{HandshakeKind, RootCertStore, ServerConfig, ServerConnection};
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
    accept(config, |_| "ok\n".to_owned()).await
}

/// As [`serve`], for clients of this CA only. Its answer says which of these identities the client has shown, and whether
/// that was in a session that was resumed.
///
/// # Errors
/// When no port can be had on loopback.
pub async fn serve_clients(identity: &Issued, ca: &Ca, known: Vec<Issued>) -> anyhow::Result<SocketAddr> {
    let provider = Arc::new(ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(ca.root_der())?;
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build()?;
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(identity.chain_der(), identity.key_der())?;
    accept(config, move |tls| {
        let shown = tls.peer_certificates().and_then(|chain| chain.first());
        let shown = known.iter().find(|known| shown == Some(&known.leaf_der()));
        let name = shown.map_or("no identity that it knows", Issued::name);
        let is_resumed = tls.handshake_kind() == Some(HandshakeKind::Resumed);
        format!("\"{name}\"{}", if is_resumed { ", in a resumed session" } else { "" })
    })
    .await
}

async fn accept(
    config: ServerConfig,
    answer: impl Fn(&ServerConnection) -> String + Send + Sync + 'static,
) -> anyhow::Result<SocketAddr> {
    let (acceptor, answer) = (TlsAcceptor::from(Arc::new(config)), Arc::new(answer));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, answer) = (acceptor.clone(), Arc::clone(&answer));
            tokio::spawn(async move {
                let mut stream = acceptor.accept(stream).await?;
                let (mut request, mut part) = (Vec::new(), [0; 1024]);
                while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                    match stream.read(&mut part).await? {
                        0 => break,
                        read => request.extend_from_slice(&part[..read]),
                    }
                }
                let body = answer(stream.get_ref().1);
                let head = format!("content-length: {}\r\nconnection: close", body.len());
                stream.write_all(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n{body}").as_bytes()).await?;
                stream.shutdown().await
            });
        }
    });
    Ok(address)
}
