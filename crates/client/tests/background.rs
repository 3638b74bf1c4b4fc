//! Connects in the background: hyper-util goes on with one whose request was given another connection meanwhile. What becomes
//! of it when its generation is replaced.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use certsource_client::rustls::version::TLS13;
use certsource_testkit::{Ca, KubeletDir};
use http_body_util::BodyExt as _;
use hyper::Response;

use common::{Gate, Gated, Http, Server, Tls, client, soon, until};

/// Its server is slow to answer, and does so when `reload` has returned: it is shown no identity of the old generation. Only
/// a session that was offered before can still be resumed then: no request goes there, and the connection ends at once.
#[tokio::test]
async fn a_connect_in_the_background_serves_nothing_after_a_rotation() {
    for has_tickets in [false, true] {
        let ca = Ca::new("ca");
        let (leaf, first) = (ca.issue("localhost"), ca.issue("client"));
        let dir = KubeletDir::new(&first).unwrap();
        let gate = Gate::new();
        let (clients, versions) = ([&ca], [&TLS13]);
        let tls = Tls::of(&leaf).clients(&clients).http(Http::One).versions(&versions);
        let tls = if has_tickets { tls } else { tls.without_tickets() };
        let server = Server::with(tls, {
            let gate = gate.clone();
            move |_| {
                let frames = [(None, "begun, "), (Some(gate.clone()), "done")];
                async move { Response::new(Gated::new(frames).boxed()) }
            }
        })
        .await;
        let client = client(&dir).await;
        // What came before this part of the body is read, and so are the tickets. The connection is taken until the rest is.
        let mut slow = client.get(server.url("/")).send().await.unwrap();
        assert_eq!(soon(slow.chunk()).await.unwrap().unwrap(), "begun, ");
        server.hold_handshakes();
        let waiter = tokio::spawn(client.get(server.url("/waiter")).send());
        server.held(1).await;
        gate.open();
        assert_eq!(soon(slow.bytes()).await.unwrap(), "done");
        soon(waiter).await.unwrap().unwrap().bytes().await.unwrap();
        assert!(server.seen().iter().all(|seen| seen.connection == 0), "its connect is left behind");

        let second = ca.issue("client");
        dir.swap(&second).unwrap();
        soon(client.reload()).await.unwrap();
        assert_eq!(server.handshakes().len(), 1);
        server.release();
        if has_tickets {
            until("it ends", || server.handshakes().len() == 2).await;
            assert!(server.handshakes()[1].is_resumed);
        } else {
            until("it is refused", || server.failures() == 1).await;
            assert_eq!(server.handshakes().len(), 1);
        }
        until("nothing is open", || server.open() == 0).await;
        client.get(server.url("/")).send().await.unwrap();
        let last = server.last();
        assert_eq!((last.connection, last.client), (2, Some(second.leaf_der())));
        assert!(server.seen().iter().all(|seen| seen.connection != 1));
    }
}
