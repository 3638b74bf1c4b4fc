//! When the last handle goes, everything ends; and nothing keeps it by accident.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::sync::{Arc, OnceLock};

use certsource_client::{Hub, WeakClient};
use certsource_testkit::{Ca, KubeletDir};

use common::{Gate, Server, Tls, builder, reply, soon, until};

fn sources(hub: &Hub) -> bool {
    !format!("{hub:?}").contains("sources: 0,")
}

#[tokio::test]
async fn dropping_the_last_handle_ends_the_work() {
    let ca = Ca::new("ca");
    let leaf = ca.issue("localhost");
    let dir = KubeletDir::new(&leaf).unwrap();
    let server = Server::start(Tls::of(&leaf)).await;
    let hub = Hub::new();
    let client = builder(dir.path()).hub(hub.clone()).build().await.unwrap();
    let (weak, clone, draft) = (client.downgrade(), client.clone(), client.get(server.url("/")));
    let mut events = client.subscribe();
    assert!(sources(&hub));
    drop(client);
    weak.upgrade().unwrap().get(server.url("/")).send().await.unwrap();
    drop(clone);
    assert!(weak.upgrade().is_some(), "a request that is drafted is a handle too");
    draft.send().await.unwrap();
    assert!(weak.upgrade().is_none());
    assert!(soon(events.next()).await.is_none(), "the stream of events ends");
    assert!(!sources(&hub));
    until("connections close", || server.open() == 0).await;
}

/// A response is no handle: it is read to its end, and nothing is followed for it.
#[tokio::test]
async fn a_response_outlives_the_client() {
    let ca = Ca::new("ca");
    let leaf = ca.issue("localhost");
    let dir = KubeletDir::new(&leaf).unwrap();
    let gate = Gate::new();
    let server = Server::with(Tls::of(&leaf), {
        let gate = gate.clone();
        move |_| {
            let frames = common::Gated::new([(None, "first, "), (Some(gate.clone()), "last")]);
            async move { reply(200.try_into().unwrap(), "").map(|_| http_body_util::BodyExt::boxed(frames)) }
        }
    })
    .await;
    let client = builder(dir.path()).build().await.unwrap();
    let weak = client.downgrade();
    let response = client.get(server.url("/")).send().await.unwrap();
    drop(client);
    assert!(weak.upgrade().is_none());
    gate.open();
    assert_eq!(soon(response.text()).await.unwrap(), "first, last");
}

/// A hook that needs the client captures a weak handle.
#[tokio::test]
async fn a_hook_with_a_weak_handle_keeps_nothing() {
    let ca = Ca::new("ca");
    let dir = KubeletDir::new(ca.issue("client")).unwrap();
    let hub = Hub::new();
    let cell: Arc<OnceLock<WeakClient>> = Arc::default();
    let of_hook = Arc::clone(&cell);
    let client = builder(dir.path())
        .hub(hub.clone())
        .on_reload(move |_| {
            if let Some(client) = of_hook.get().and_then(WeakClient::upgrade) {
                client.status();
            }
        })
        .build()
        .await
        .unwrap();
    cell.set(client.downgrade()).unwrap();
    dir.swap(ca.issue("client")).unwrap();
    client.reload().await.unwrap();
    drop(client);
    until("the hook's own handle goes", || !sources(&hub)).await;
}

#[tokio::test]
async fn many_clients_made_and_dropped_while_reloading_leave_nothing() {
    let ca = Ca::new("ca");
    let dir = KubeletDir::new(ca.issue("client")).unwrap();
    let hub = Hub::new();
    for round in 0..10 {
        let mut clients = Vec::new();
        for _ in 0..20 {
            clients.push(builder(dir.path()).hub(hub.clone()).build().await.unwrap());
        }
        dir.swap(ca.issue("client")).unwrap();
        let reloads: Vec<_> = clients
            .into_iter()
            .enumerate()
            .map(|(n, client)| {
                tokio::spawn(async move {
                    if n % 2 == 0 {
                        client.reload().await.unwrap();
                    }
                })
            })
            .collect();
        for reload in reloads {
            soon(reload).await.unwrap();
        }
        until("all sources are gone", || !sources(&hub)).await;
        assert!(hub.threads() <= 64, "round {round}");
    }
}
