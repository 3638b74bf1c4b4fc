//! The requests that our clients make are those of bare reqwest: each method of a client, and each of a request.

#![cfg(all(feature = "json", feature = "query", feature = "form", feature = "blocking"))]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use certsource_client::reqwest::header::{ACCEPT, HeaderMap, HeaderValue};
use certsource_client::reqwest::{self, Method, Request, StatusCode, Version};
use certsource_client::{Client, Response, blocking};
use certsource_testkit::{Ca, KubeletDir};
use http_body_util::BodyExt;

use common::{HTTP, Seen, Server, Tls, builder, reply, soon};

/// A server that tells the path, the query and the body that it got.
async fn echo(tls: Tls<'_>) -> Server {
    Server::with(tls, |request| async move {
        let to = request.uri().path_and_query().unwrap().to_string();
        let is_head = request.method() == "HEAD";
        let body = request.into_body().collect().await.unwrap().to_bytes();
        if is_head {
            return reply(StatusCode::OK, "");
        }
        reply(StatusCode::OK, format!("{to} {}", String::from_utf8_lossy(&body)))
    })
    .await
}

/// What is compared: all that a server sees, but for the connection.
fn shown(seen: &Seen) -> (String, String, Version, Vec<(String, HeaderValue)>) {
    let mut headers: Vec<_> =
        seen.headers.iter().map(|(name, value)| (name.to_string(), value.clone())).collect();
    headers.sort_by(|a, b| a.0.cmp(&b.0));
    (seen.method.clone(), seen.path.clone(), seen.version, headers)
}

/// All requests that a client can begin, each with something of its builder's. A macro: the three builders have these methods
/// in common, and no trait.
macro_rules! requests {
    ($client:expr, $url:expr) => {{
        let (client, url) = (&$client, $url);
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("text/plain"));
        headers.insert("x-many", HeaderValue::from_static("yes"));
        let fields = BTreeMap::from([("a", "1 & 2"), ("b", "ü")]);
        vec![
            client.get(url).header("x-one", "yes").query(&fields),
            client.post(url).headers(headers).body("bytes"),
            client.put(url).bearer_auth("token").json(&fields),
            client.patch(url).basic_auth("name", Some("password")).form(&fields),
            client.delete(url).timeout(Duration::from_secs(60)),
            client.head(url).basic_auth("name", None::<&str>),
            client.request(Method::OPTIONS, url),
            client.request(Method::from_bytes(b"PURGE").unwrap(), url).body(String::from("text")),
        ]
    }};
}

async fn finish(response: Response) -> String {
    assert_eq!(response.status(), StatusCode::OK);
    response.text().await.unwrap()
}

#[tokio::test]
async fn every_request_is_that_of_bare_reqwest() {
    for http in HTTP {
        let ca = Ca::new("ca");
        let leaf = ca.issue("localhost");
        let dir = KubeletDir::new(&leaf).unwrap();
        let server = echo(Tls::of(&leaf).http(http)).await;
        let client: Client = builder(dir.path()).build().await.unwrap();
        let (bare, url) = (client.snapshot().unwrap(), server.url("/path?q=0"));

        let mut expected = Vec::new();
        for request in requests!(bare, &url) {
            let text = finish(soon(request.send()).await.unwrap()).await;
            expected.push((shown(&server.last()), text));
        }
        assert_eq!(expected.len(), 8);
        for (request, expected) in requests!(client, &url).into_iter().zip(&expected) {
            // A copy is the same request, and so is one that is built first and executed later, or called as a service.
            let copy = request.try_clone().unwrap();
            let text = finish(soon(request.send()).await.unwrap()).await;
            assert_eq!((&shown(&server.last()), &text), (&expected.0, &expected.1), "{http:?}");
            let text = finish(soon(client.execute(copy.build().unwrap())).await.unwrap()).await;
            assert_eq!((&shown(&server.last()), &text), (&expected.0, &expected.1), "{http:?}");
        }
        assert_eq!(server.seen().len(), 24);

        // The same without a runtime.
        let (made, urls) = (builder(dir.path()), url.clone());
        let texts = tokio::task::spawn_blocking(move || {
            let client: blocking::Client = made.blocking().unwrap();
            requests!(client, &urls)
                .into_iter()
                .map(|request| request.send().unwrap().text().unwrap())
                .collect()
        });
        let texts: Vec<String> = soon(texts).await.unwrap();
        let seen = server.seen().into_iter().skip(24).map(|seen| shown(&seen));
        assert!(seen.zip(texts).eq(expected), "{http:?}");
    }
}

/// What we do not forward is reached by `with`, what is wrong is told when it is sent.
#[tokio::test]
async fn the_rest_of_a_request_is_reached_and_mistakes_are_told() {
    let ca = Ca::new("ca");
    let leaf = ca.issue("localhost");
    let dir = KubeletDir::new(&leaf).unwrap();
    let server = echo(Tls::of(&leaf)).await;
    let client = builder(dir.path()).build().await.unwrap();
    let request = client.post(server.url("/")).with(|inner| inner.body("by reqwest's own"));
    assert_eq!(finish(request.send().await.unwrap()).await, "/ by reqwest's own");
    let mut request = Request::new(Method::GET, server.url("/mine").parse().unwrap());
    *request.timeout_mut() = Some(Duration::from_secs(60));
    finish(client.execute(request).await.unwrap()).await;
    assert_eq!(server.last().path, "/mine");
    let request = client.get(server.url("/")).version(Version::HTTP_11);
    assert_eq!(request.build().unwrap().version(), Version::HTTP_11);

    let is_builder = |error: reqwest::Error| assert!(error.is_builder(), "{error:?}");
    is_builder(client.get("no url").send().await.unwrap_err());
    is_builder(client.get(server.url("/")).header("no name", "x").send().await.unwrap_err());
    is_builder(client.get(server.url("/")).header("x-name", "no\nvalue").send().await.unwrap_err());
    assert_eq!(server.seen().len(), 2);
}
