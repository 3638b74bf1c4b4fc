//! What cannot be saved is an error that says so, and why; what nothing newer was found for is the error that it was.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::error::Error as StdError;
use std::time::Duration;

use certsource_client::reqwest::{self, Body, Method};
use certsource_client::rustls::version::TLS13;
use certsource_client::{Builder, Unsaved};
use certsource_testkit::{Ca, KubeletDir};

use common::{Gate, Gated, HTTP, Http, Server, Tls, builder, soon};

/// A server that takes clients of a CA that the files will bring, on TLS 1.3: so it refuses after the handshake.
struct Refusing {
    old: Ca,
    new: Ca,
    dir: KubeletDir,
    server: Server,
}

impl Refusing {
    async fn new(http: Http) -> Self {
        let (old, new) = (Ca::new("old"), Ca::new("new"));
        let leaf = old.issue("localhost");
        let server = Server::start(Tls::of(&leaf).clients(&[&new]).http(http).versions(&[&TLS13])).await;
        Self { dir: KubeletDir::new(old.issue("client")).unwrap(), server, old, new }
    }

    fn client(&self) -> Builder {
        builder(self.dir.path()).reqwest(|b| b.pool_max_idle_per_host(0))
    }

    fn rotate(&self) {
        self.dir.swap_all(self.old.certificate_pem(), self.new.issue("client")).unwrap();
    }
}

/// A stream of which something is read, and no more.
fn stream() -> Body {
    Body::wrap(Gated::new([(None, "taken, "), (Some(Gate::new()), "the rest")]))
}

fn first_error(error: &reqwest::Error) -> &reqwest::Error {
    let mut cause: &(dyn StdError + 'static) = error;
    while let Some(source) = cause.source() {
        if let Some(error) = source.downcast_ref() {
            return error;
        }
        cause = source;
    }
    panic!("the error of the attempt is not among the sources: {error:?}");
}

#[tokio::test]
async fn a_stream_that_was_read_from_is_named() {
    for http in HTTP {
        for method in [Method::PUT, Method::POST] {
            let scene = Refusing::new(http).await;
            let client = scene.client().build().await.unwrap();
            scene.rotate();
            let request = client.request(method.clone(), scene.server.url("/upload")).body(stream());
            let error = soon(request.send()).await.unwrap_err();
            assert_eq!(Unsaved::of(&error), Some(Unsaved::StreamAlreadyRead), "{http:?} {method}: {error:?}");
            assert_eq!(error.url().unwrap().path(), "/upload");
            assert_eq!(
                error.source().unwrap().to_string(),
                "newer certificates are there now, but this request can not be sent again: its body is a stream that \
                 was read from already"
            );
            let first = first_error(&error);
            assert!(first.is_request() && !first.is_connect(), "{first:?}");
            // Newer ones are there: whoever sends it anew needs no luck.
            assert_eq!(client.generation().number(), 2);
            client.request(method, scene.server.url("/")).body("anew").send().await.unwrap();
            assert_eq!(scene.server.seen().len(), 1);
        }
    }
}

#[tokio::test]
async fn a_method_that_may_not_be_repeated_is_named() {
    for http in HTTP {
        for body in ["", "a body"] {
            let scene = Refusing::new(http).await;
            let client = scene.client().build().await.unwrap();
            scene.rotate();
            let error = soon(client.post(scene.server.url("/")).body(body).send()).await.unwrap_err();
            assert_eq!(Unsaved::of(&error), Some(Unsaved::MayHaveBeenSeen), "{http:?}: {error:?}");
            let text = error.source().unwrap().to_string();
            assert!(
                text.ends_with("the server may have seen it, and its method may not be repeated"),
                "{text}"
            );
            assert!(first_error(&error).is_request());
            client.post(scene.server.url("/")).body(body).send().await.unwrap();
            assert_eq!(scene.server.seen().len(), 1);
        }
    }
}

/// The server is ahead of the files: a look finds nothing, and nothing is said that is not so.
#[tokio::test]
async fn a_server_that_rotates_before_the_files_gives_its_own_error() {
    for http in HTTP {
        let scene = Refusing::new(http).await;
        let client = scene.client().build().await.unwrap();
        let plain = client.snapshot().unwrap();
        let url = scene.server.url("/");
        // Our certificate is refused: as a plain client is told it, whatever the body.
        let plain = plain.post(&url).body("x").send().await.unwrap_err();
        for error in [
            soon(client.post(&url).body("x").send()).await.unwrap_err(),
            soon(client.put(&url).body("x").send()).await.unwrap_err(),
            soon(client.put(&url).body(stream()).send()).await.unwrap_err(),
        ] {
            assert_eq!(Unsaved::of(&error), None, "{error:?}");
            assert!(error.is_request() && !error.is_body() && !error.is_connect(), "{error:?}");
            assert_eq!(error.to_string(), plain.to_string());
        }
        // The server's own is unknown.
        let strange = scene.new.issue("localhost");
        let server = Server::start(Tls::of(&strange).http(http)).await;
        for body in [Body::from("x"), stream()] {
            let error = soon(client.put(server.url("/")).body(body).send()).await.unwrap_err();
            assert_eq!(Unsaved::of(&error), None);
            assert!(error.is_connect() && format!("{error:?}").contains("UnknownIssuer"), "{error:?}");
        }
        assert_eq!(client.generation().number(), 1);
        // Then the files come, and all is well.
        scene.rotate();
        client.reload().await.unwrap();
        client.put(&url).body("x").send().await.unwrap();
    }
}

/// A request whose time is up is late, whatever came of the look.
#[tokio::test]
async fn a_timeout_stays_a_timeout() {
    let scene = Refusing::new(Http::One).await;
    let client = scene.client().timeout(Duration::from_millis(300)).build().await.unwrap();
    scene.server.hold_handshakes();
    scene.rotate();
    let error = soon(client.put(scene.server.url("/")).body(stream()).send()).await.unwrap_err();
    assert!(error.is_timeout() && Unsaved::of(&error).is_none(), "{error:?}");
}

/// Who wants nothing of it gets the error as it came.
#[tokio::test]
async fn without_reactive_nothing_is_said() {
    let scene = Refusing::new(Http::Two).await;
    let client = scene.client().reactive(false).build().await.unwrap();
    scene.rotate();
    let error = soon(client.put(scene.server.url("/")).body(stream()).send()).await.unwrap_err();
    assert!(error.is_request() && Unsaved::of(&error).is_none(), "{error:?}");
    assert_eq!(client.generation().number(), 1);
}
