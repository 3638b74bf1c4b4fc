//! A tonic server and a tonic channel that follow their certificates, with a stream that is open across rotations.
//!
//! `cargo run --example tonic_stream`
//!
//! The service is written by hand, so that no protobuf compiler is needed: its messages are text. With generated code the
//! channel is what `GreeterClient::new` gets, and the routes are `Routes::new(GreeterServer::new(…))`.
#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::pin::Pin;
use std::task::{Context, Poll};

use anyhow::{Context as _, ensure};
use bytes::{Buf, BufMut, Bytes};
use certsource_client::Files;
use certsource_hyper::certsource_reload::Reloader;
use certsource_hyper::certsource_rustls::{ClientAuth, TlsGate};
use certsource_hyper::{Connector, Error, Follow, Resend, TlsListener, serve};
use certsource_testkit::{Ca, KubeletDir};
use http::uri::PathAndQuery;
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};
use tower_service::Service;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let ca = Ca::new("CA");
    let server_files = KubeletDir::new(ca.issue("localhost"))?;
    let client_files = KubeletDir::new(ca.issue("client"))?;
    let follow =
        |files: &KubeletDir| Reloader::builder(Files::kubernetes(files.path())).gate(TlsGate::new()?).start();
    let (server, client) = (follow(&server_files)?, follow(&client_files)?);

    // The server.
    let routes = tonic::service::Routes::new(Echo).into_axum_router();
    let listener =
        TlsListener::builder(&server).client_auth(ClientAuth::Required).bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    tokio::spawn(serve(listener, routes).into_future());

    // The channel: one for each generation, below one handle.
    let endpoint = Endpoint::from_shared(format!("https://localhost:{port}"))?;
    let connector = Connector::builder(&client).http2_only().build()?;
    let channel = Resend::new(Follow::new(
        connector.derive(move |connector| Ok::<_, Error>(Channel::new(connector, endpoint.clone())))?,
    ));

    let (to_server, mut from_server) = open(channel.clone()).await?;
    for rotation in 1..=10 {
        client_files.swap(ca.issue("client"))?;
        server_files.swap(ca.issue("localhost"))?;
        client.reload().await?;
        server.reload().await?;
        // A new call: on the new certificates.
        let (one, mut answer) = open(channel.clone()).await?;
        one.send(format!("call {rotation}")).await?;
        let answer = answer.message().await?.context("an answer")?;
        // The stream that was opened before all of this.
        to_server.send(format!("still here at {rotation}")).await?;
        let echoed = from_server.message().await?.context("the stream was cut")?;
        println!("{answer:8}  {echoed}");
    }
    drop(to_server);
    ensure!(from_server.message().await?.is_none(), "the stream ends when its client ends it");
    Ok(())
}

/// Opens a stream of both directions.
async fn open(
    channel: Resend<Follow<Channel>>,
) -> Result<(tokio::sync::mpsc::Sender<String>, Streaming<String>), Status> {
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.map_err(|error| Status::from_error(error.into()))?;
    let messages = Request::new(tokio_stream::wrappers::ReceiverStream::new(receiver));
    let response = grpc.streaming(messages, PathAndQuery::from_static("/example.Echo/Echo"), Text).await?;
    Ok((sender, response.into_inner()))
}

/// The service: it sends back what it is sent.
#[derive(Clone)]
struct Echo;

impl tonic::server::NamedService for Echo {
    const NAME: &'static str = "example.Echo";
}

impl<B> Service<http::Request<B>> for Echo
where
    B: hyper::body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        Box::pin(async move { Ok(tonic::server::Grpc::new(Text).streaming(Back, request).await) })
    }
}

struct Back;

impl tonic::server::StreamingService<String> for Back {
    type Response = String;
    type ResponseStream = Streaming<String>;
    type Future = Ready<Result<Response<Streaming<String>>, Status>>;

    fn call(&mut self, request: Request<Streaming<String>>) -> Self::Future {
        ready(Ok(Response::new(request.into_inner())))
    }
}

/// Messages that are text.
struct Text;

impl Codec for Text {
    type Encode = String;
    type Decode = String;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Text {
    type Item = String;
    type Error = Status;

    fn encode(&mut self, text: String, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(text.as_bytes());
        Ok(())
    }
}

impl Decoder for Text {
    type Item = String;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<String>, Status> {
        let bytes = buffer.copy_to_bytes(buffer.remaining());
        String::from_utf8(bytes.to_vec()).map(Some).map_err(|_| Status::internal("not text"))
    }
}
