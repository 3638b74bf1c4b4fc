//! Our client as a `tower::Service`: what layers and other people's code call follows rotations, and can be dropped.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::future::{Future, poll_fn};

use certsource_client::Response;
use certsource_client::reqwest::{self, Method, Request, StatusCode};
use certsource_testkit::{Ca, KubeletDir};
use tower_service::Service;

use common::{HTTP, Server, Tls, client, reply, soon, until};

/// As a layer sees it: it knows the traits only.
async fn call<S>(service: &mut S, request: Request) -> Result<Response, reqwest::Error>
where
    S: Service<Request, Response = Response, Error = reqwest::Error>,
{
    poll_fn(|context| service.poll_ready(context)).await?;
    service.call(request).await
}

/// What tower's own layers ask of a service and of its future.
fn is_sent_around<S>(_: &S)
where
    S: Service<Request> + Clone + Send + Sync + 'static,
    S::Future: Future + Send + 'static,
{
}

#[tokio::test]
async fn each_call_uses_what_is_current_then() {
    for http in HTTP {
        let ca = Ca::new("ca");
        let (leaf, first, second) = (ca.issue("localhost"), ca.issue("client"), ca.issue("client"));
        let dir = KubeletDir::new(&first).unwrap();
        let server = Server::start(Tls::of(&leaf).clients(&[&ca]).http(http)).await;
        let client = client(&dir).await;
        let mut service = client.clone();
        is_sent_around(&service);
        let request = || {
            let mut request = Request::new(Method::POST, server.url("/").parse().unwrap());
            *request.body_mut() = Some("a body".into());
            request
        };
        let early = request();
        let response = soon(call(&mut service, request())).await.unwrap();
        assert_eq!(response.text().await.unwrap(), "a body");
        assert_eq!(server.last().client, Some(first.leaf_der()));
        dir.swap(&second).unwrap();
        client.reload().await.unwrap();
        // By value and by reference, also a request that was built before.
        soon(call(&mut service, early)).await.unwrap();
        assert_eq!(server.last().client, Some(second.leaf_der()));
        soon(call(&mut &client, request())).await.unwrap();
        assert_eq!(server.last().client, Some(second.leaf_der()));
    }
}

#[tokio::test]
async fn a_call_that_is_dropped_leaves_nothing() {
    for http in HTTP {
        let ca = Ca::new("ca");
        let leaf = ca.issue("localhost");
        let dir = KubeletDir::new(ca.issue("client")).unwrap();
        let server = Server::with(Tls::of(&leaf).clients(&[&ca]).http(http), |request| async move {
            if request.uri().path() == "/never" {
                std::future::pending::<()>().await;
            }
            reply(StatusCode::OK, "ok")
        })
        .await;
        let client = client(&dir).await;
        let mut service = client.clone();
        // One that was never polled, and one that waits for its answer.
        drop(service.call(Request::new(Method::GET, server.url("/never").parse().unwrap())));
        let waits =
            tokio::spawn(service.call(Request::new(Method::GET, server.url("/never").parse().unwrap())));
        until("it arrives", || server.seen().len() == 1).await;
        waits.abort();
        assert!(waits.await.unwrap_err().is_cancelled());
        dir.swap(ca.issue("client")).unwrap();
        soon(client.reload()).await.unwrap();
        let request = Request::new(Method::GET, server.url("/").parse().unwrap());
        soon(call(&mut service, request)).await.unwrap().bytes().await.unwrap();
        until("one connection is left", || server.open() == 1).await;
        assert_eq!(server.seen().len(), 2);
    }
}
