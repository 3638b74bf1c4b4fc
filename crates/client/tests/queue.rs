//! The queue of an HTTP/2 connection that is full: how long a request that may not be repeated waits there, with a rotation in
//! between and without one, and how it leaves.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::time::Duration;

use certsource_client::reqwest::{self, Body, Method, StatusCode};
use certsource_client::{Builder, Client, Response, ServedBy};
use certsource_testkit::{Ca, Issued, KubeletDir};
use http_body_util::BodyExt;
use tokio::time::Instant;

use common::{Gate, Gated, Http, Server, Tls, builder, client, reply, soon, until};

/// Who sends: our client, or a bare one with the same options.
#[derive(Clone)]
enum Sender {
    Ours(Client),
    Bare(reqwest::Client),
}

impl Sender {
    async fn send(self, method: Method, url: String, limit: Option<Duration>) -> reqwest::Result<Response> {
        match self {
            Self::Ours(client) => {
                let request = client.request(method, url);
                if let Some(limit) = limit { request.timeout(limit) } else { request }.send().await
            }
            Self::Bare(client) => {
                let request = client.request(method, url);
                if let Some(limit) = limit { request.timeout(limit) } else { request }.send().await
            }
        }
    }
}

/// A server that takes one stream at once on its first connection. The answer to `/open` begins at once and ends with the gate.
struct Setting {
    ca: Ca,
    dir: KubeletDir,
    server: Server,
    gate: Gate,
}

impl Setting {
    async fn new() -> Self {
        let ca = Ca::new("ca");
        let dir = KubeletDir::new(ca.issue("client")).unwrap();
        let (leaf, gate) = (ca.issue("localhost"), Gate::new());
        let server = Server::with(Tls::of(&leaf).clients(&[&ca]).http(Http::Two), {
            let gate = gate.clone();
            move |request| {
                let gate = gate.clone();
                async move {
                    if request.uri().path() == "/open" {
                        let frames = Gated::new([(None, "begun, "), (Some(gate), "done")]);
                        return hyper::Response::new(frames.boxed());
                    }
                    // One that was given up ends in the middle.
                    let body = request.into_body().collect().await;
                    reply(StatusCode::OK, body.map_or_else(|_| "".into(), |body| body.to_bytes()))
                }
            }
        })
        .await;
        server.streams(1);
        Self { ca, dir, server, gate }
    }

    /// Fills a connection. Its only stream is the response; one request more is taken, and waits within it. So what comes after
    /// that is in its queue.
    async fn fill(&self, sender: &Sender) -> Response {
        let send = |method, path| sender.clone().send(method, self.server.url(path), None);
        // With its answer the server's limit is known.
        send(Method::GET, "/first").await.unwrap().bytes().await.unwrap();
        let open = send(Method::GET, "/open").await.unwrap();
        tokio::spawn(send(Method::POST, "/taken"));
        tokio::time::sleep(Duration::from_millis(100)).await;
        // The next connection is not full. Before it knows the limit, it would give more streams to it than one.
        self.server.streams(200);
        open
    }

    async fn rotate(&self, client: &Client) -> Issued {
        let next = self.ca.issue("client");
        self.dir.swap(&next).unwrap();
        soon(client.reload()).await.unwrap();
        next
    }

    fn saw(&self, path: &str) -> usize {
        self.server.seen().iter().filter(|seen| seen.path == path).count()
    }

    /// Lets the connection go on, and makes sure that what waited in it has been looked at.
    async fn let_go(&self, client: &Client, open: Response) {
        self.gate.open();
        assert_eq!(soon(open.text()).await.unwrap(), "begun, done");
        soon(client.get(self.server.url("/last")).send()).await.unwrap().bytes().await.unwrap();
        until("one connection is left", || self.server.open() == 1).await;
    }
}

/// As long as with bare reqwest, whichever timeout it is: one that was taken back waits there for its body, and that counts too.
#[tokio::test]
async fn a_timeout_limits_the_wait_in_a_queue_as_with_bare_reqwest() {
    const LIMIT: Duration = Duration::from_secs(5);
    #[derive(Debug)]
    enum Who {
        Bare,
        Ours,
        OursRotated,
    }
    async fn check(who: Who, options: impl Fn(Builder) -> Builder, limit: Option<Duration>) {
        let setting = Setting::new().await;
        let client = options(builder(setting.dir.path())).build().await.unwrap();
        let sender = match who {
            Who::Bare => Sender::Bare(client.snapshot().unwrap()),
            _ => Sender::Ours(client.clone()),
        };
        let open = setting.fill(&sender).await;
        let begun = Instant::now();
        let queued = tokio::spawn(sender.send(Method::POST, setting.server.url("/queued"), limit));
        tokio::time::sleep(Duration::from_millis(100)).await;
        if matches!(who, Who::OursRotated) {
            setting.rotate(&client).await;
        }
        let error = soon(queued).await.unwrap().unwrap_err();
        let took = begun.elapsed();
        assert!(error.is_timeout(), "{who:?}: {error:?}");
        assert!(took >= LIMIT && took < 3 * LIMIT, "{who:?}: {took:?}");
        drop(open);
        assert_eq!(setting.saw("/queued"), 0, "{who:?}");
    }
    async fn check_all(who: fn() -> Who) {
        tokio::join!(
            check(who(), |b| b.reqwest(|b| b.read_timeout(LIMIT)), None),
            check(who(), |b| b.reqwest(|b| b.timeout(LIMIT)), None),
            check(who(), |b| b.timeout(LIMIT), None),
            check(who(), |b| b, Some(LIMIT)),
        );
    }
    tokio::join!(check_all(|| Who::Bare), check_all(|| Who::Ours), check_all(|| Who::OursRotated));
}

/// A stream comes back from there whole.
#[tokio::test]
async fn a_stream_comes_back_from_a_queue_and_is_sent_whole() {
    let setting = Setting::new().await;
    let client = client(&setting.dir).await;
    let open = setting.fill(&Sender::Ours(client.clone())).await;
    let body = Body::wrap(Gated::new([(None, "one "), (None, "two")]));
    let queued = tokio::spawn(client.post(setting.server.url("/queued")).body(body).send());
    tokio::time::sleep(Duration::from_millis(100)).await;
    let next = setting.rotate(&client).await;
    assert!(!queued.is_finished() && setting.saw("/queued") == 0);
    setting.let_go(&client, open).await;
    let response = soon(queued).await.unwrap().unwrap();
    assert_eq!(response.extensions().get::<ServedBy>().unwrap().generation, 2);
    assert_eq!(response.text().await.unwrap(), "one two");
    let seen: Vec<_> = setting.server.seen().into_iter().filter(|seen| seen.path == "/queued").collect();
    assert_eq!((seen.len(), seen[0].client.clone()), (1, Some(next.leaf_der())));
}

/// A `send` that is dropped there, before it is taken back or while its body is waited for, is seen by nobody and holds nothing up.
#[tokio::test]
async fn a_send_that_is_dropped_there_is_seen_by_nobody() {
    for is_taken_back in [false, true] {
        let setting = Setting::new().await;
        let client = client(&setting.dir).await;
        let open = setting.fill(&Sender::Ours(client.clone())).await;
        let queued = tokio::spawn(client.post(setting.server.url("/queued")).body("x").send());
        tokio::time::sleep(Duration::from_millis(100)).await;
        if is_taken_back {
            setting.rotate(&client).await;
        }
        assert!(!queued.is_finished());
        queued.abort();
        assert!(queued.await.unwrap_err().is_cancelled());
        setting.rotate(&client).await;
        setting.let_go(&client, open).await;
        assert_eq!(setting.saw("/queued"), 0);
    }
}
