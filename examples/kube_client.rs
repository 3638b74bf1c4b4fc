//! kube's client, with a pool for each generation: for a program in a cluster whose client certificate rotates.
//!
//! `cargo run --example kube_client`
//!
//! The API server is faked on loopback: it demands a client certificate and knows two pods. kube takes any service that sends
//! requests, so a `Follow` is its transport.
#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

use anyhow::ensure;
use axum::http::header::CONTENT_TYPE;
use axum::{Router, routing::get};
use certsource_client::Files;
use certsource_hyper::certsource_reload::Reloader;
use certsource_hyper::certsource_rustls::{ClientAuth, TlsGate};
use certsource_hyper::{Connector, Error, Follow, TlsListener, serve};
use certsource_testkit::{Ca, KubeletDir};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;
use kube::client::Body;
use kube::client::middleware::BaseUriLayer;
use tower_layer::Layer as _;

const PODS: &str = r#"{"apiVersion": "v1", "kind": "PodList", "metadata": {}, "items": [
    {"metadata": {"name": "web-1", "namespace": "default"}}, {"metadata": {"name": "web-2", "namespace": "default"}}]}"#;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let ca = Ca::new("CA");
    let follow =
        |files: &KubeletDir| Reloader::builder(Files::kubernetes(files.path())).gate(TlsGate::new()?).start();
    let server_files = KubeletDir::new(ca.issue("localhost"))?;
    let server = follow(&server_files)?;
    let app = Router::new().route(
        "/api/v1/namespaces/default/pods",
        get(|| async { ([(CONTENT_TYPE, "application/json")], PODS) }),
    );
    let listener =
        TlsListener::builder(&server).client_auth(ClientAuth::Required).bind("127.0.0.1:0").await?;
    let api_server = format!("https://localhost:{}", listener.local_addr()?.port()).parse()?;
    tokio::spawn(serve(listener, app).into_future());

    let files = KubeletDir::new(ca.issue("controller"))?;
    let reloader = follow(&files)?;
    let connector = Connector::new(&reloader)?;
    let transport = Follow::new(connector.derive(|connector| {
        Ok::<_, Error>(Client::builder(TokioExecutor::new()).build::<_, Body>(connector))
    })?);
    let client = kube::Client::new(BaseUriLayer::new(api_server).layer(transport), "default");

    let pods: Api<Pod> = Api::default_namespaced(client);
    for _ in 0..3 {
        let names: Vec<_> = pods
            .list(&ListParams::default())
            .await?
            .into_iter()
            .filter_map(|pod| pod.metadata.name)
            .collect();
        println!("generation {}: {names:?}", reloader.current().number());
        ensure!(names == ["web-1", "web-2"]);
        files.swap(ca.issue("controller"))?;
        reloader.reload().await?;
    }
    files.swap(Ca::new("another CA").issue("controller"))?;
    reloader.reload().await?;
    ensure!(pods.list(&ListParams::default()).await.is_err(), "a CA that is not trusted was accepted");
    println!("the CA of the API server is withdrawn: refused");
    Ok(())
}
