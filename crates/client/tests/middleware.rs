//! Our client at the end of a chain of middleware.

#![cfg(feature = "middleware")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use certsource_client::Response;
use certsource_client::reqwest::Request;
use certsource_testkit::{Ca, KubeletDir};
use hyper::http::Extensions;
use reqwest_middleware::{Middleware, Next, Result};

use common::{HTTP, Server, Tls, client};

/// Adds a header, and sends once more when that fails.
struct Twice(Arc<AtomicUsize>);

#[async_trait::async_trait]
impl Middleware for Twice {
    async fn handle(
        &self,
        mut request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> Result<Response> {
        request.headers_mut().insert("x-chain", "yes".parse().unwrap());
        let again = request.try_clone().unwrap();
        match next.clone().run(request, extensions).await {
            Err(_) => {
                self.0.fetch_add(1, Ordering::SeqCst);
                next.run(again, extensions).await
            }
            response => response,
        }
    }
}

#[tokio::test]
async fn a_chain_ends_in_the_current_generation() {
    for http in HTTP {
        let ca = Ca::new("ca");
        let (first, leaf) = (ca.issue("client"), ca.issue("localhost"));
        let dir = KubeletDir::new(&first).unwrap();
        let server = Server::start(Tls::of(&leaf).clients(&[&ca]).http(http)).await;
        let client = client(&dir).await;
        let retries = Arc::new(AtomicUsize::new(0));
        let chain = client.with_middleware(|chain| chain.with(Twice(Arc::clone(&retries))));
        chain.get(server.url("/")).send().await.unwrap();
        assert_eq!(server.last().client, Some(first.leaf_der()));
        let second = ca.issue("client");
        dir.swap(&second).unwrap();
        client.reload().await.unwrap();
        let response = chain.post(server.url("/")).body("a body").send().await.unwrap();
        assert_eq!(response.text().await.unwrap(), "a body");
        let last = server.last();
        assert_eq!(
            (last.client, &last.headers["x-chain"]),
            (Some(second.leaf_der()), &"yes".parse().unwrap())
        );
        assert_eq!(retries.load(Ordering::SeqCst), 0);
        // What ours can not send is told to the chain, which may try again.
        drop(server);
        chain.get("https://localhost:1/").send().await.unwrap_err();
        assert_eq!(retries.load(Ordering::SeqCst), 1);
    }
}
