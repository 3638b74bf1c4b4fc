//! A client follows what rotates: the CA, the identity, both in one swap; clones, and requests that were built before.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use certsource_client::{Reason, Role};
use certsource_testkit::{Ca, KubeletDir, Part};

use common::{HTTP, Server, TLS, Tls, builder, client};

#[tokio::test]
async fn a_rotated_ca_is_trusted_and_the_old_one_is_not() {
    for http in HTTP {
        for versions in TLS {
            let (old, new) = (Ca::new("old"), Ca::new("new"));
            let (old_leaf, new_leaf) = (old.issue("localhost"), new.issue("localhost"));
            let server = Server::start(Tls::of(&old_leaf).http(http).versions(&[versions])).await;
            let dir = KubeletDir::new(&old_leaf).unwrap();
            let client = client(&dir).await;
            client.get(server.url("/")).send().await.unwrap().error_for_status().unwrap();

            dir.swap(&new_leaf).unwrap();
            let generation = client.reload().await.unwrap();
            assert_eq!(generation.number(), 2);
            client.get(server.url("/")).send().await.unwrap_err();
            server.set(Tls::of(&new_leaf).http(http).versions(&[versions]));
            client.get(server.url("/")).send().await.unwrap().error_for_status().unwrap();
            assert_eq!(server.seen().len(), 2, "{http:?} {versions:?}");
        }
    }
}

#[tokio::test]
async fn a_rotated_identity_is_shown() {
    for http in HTTP {
        for versions in TLS {
            let ca = Ca::new("ca");
            let server_leaf = ca.issue("localhost");
            let server =
                Server::start(Tls::of(&server_leaf).clients(&[&ca]).http(http).versions(&[versions])).await;
            let first = ca.issue("client");
            let dir = KubeletDir::new(&first).unwrap();
            let client = client(&dir).await;
            for _ in 0..2 {
                client.get(server.url("/")).send().await.unwrap().bytes().await.unwrap();
                assert_eq!(server.last().client, Some(first.leaf_der()));
            }
            let second = ca.issue("client");
            dir.swap(&second).unwrap();
            client.reload().await.unwrap();
            for _ in 0..2 {
                client.get(server.url("/")).send().await.unwrap().bytes().await.unwrap();
                assert_eq!(server.last().client, Some(second.leaf_der()));
            }
            let connections: Vec<_> = server.seen().iter().map(|seen| seen.connection).collect();
            assert_eq!(connections, [0, 0, 1, 1], "a connection is kept within a generation, and no longer");
            assert!(server.seen().iter().all(|seen| !seen.is_resumed));
        }
    }
}

#[tokio::test]
async fn clones_and_requests_built_before_follow() {
    let ca = Ca::new("ca");
    let server_leaf = ca.issue("localhost");
    let server = Server::start(Tls::of(&server_leaf).clients(&[&ca])).await;
    let dir = KubeletDir::new(ca.issue("client")).unwrap();
    let client = client(&dir).await;
    let clone = client.clone();
    let (before, request) =
        (client.post(server.url("/built")).body("x"), client.get(server.url("/executed")).build().unwrap());
    let second = ca.issue("client");
    dir.swap(&second).unwrap();
    client.reload().await.unwrap();
    clone.get(server.url("/clone")).send().await.unwrap();
    before.send().await.unwrap();
    clone.execute(request).await.unwrap();
    let seen = server.seen();
    assert_eq!(seen.iter().map(|seen| &seen.path[..]).collect::<Vec<_>>(), ["/clone", "/built", "/executed"]);
    assert!(seen.iter().all(|seen| seen.client == Some(second.leaf_der())));
}

#[tokio::test]
async fn the_client_tells_what_it_uses() {
    let ca = Ca::new("the ca");
    let first = ca.issue("client");
    let dir = KubeletDir::new(&first).unwrap();
    let client = client(&dir).await;
    let certificates = client.certificates();
    assert_eq!(certificates.len(), 2);
    let of = |wanted: Role| certificates.iter().find(|(role, _)| *role == wanted).unwrap().1.clone();
    assert_eq!(of(Role::Leaf).der(), &first.leaf_der());
    assert_eq!(of(Role::Anchor).der(), &ca.root_der());
    assert!(of(Role::Anchor).inspection().to_string().contains("the ca"));
    assert_eq!(client.expires_at(), Some(first.not_after()));
    assert_eq!(client.status().generation, 1);
    assert!(format!("{client:?}").contains("generation: 1"));
}

#[tokio::test]
async fn a_bad_bundle_keeps_the_last_good_one() {
    let ca = Ca::new("ca");
    let leaf = ca.issue("localhost");
    let server = Server::start(Tls::of(&leaf).clients(&[&ca])).await;
    let dir = KubeletDir::new(&leaf).unwrap();
    let client = client(&dir).await;
    dir.torn_write(Part::Trust).unwrap();
    let error = client.reload().await.unwrap_err();
    assert!(matches!(error.reason(), Reason::Malformed | Reason::Empty), "{error}");
    dir.write([("ca.crt", ""), ("tls.crt", &leaf.chain_pem()), ("tls.key", &leaf.key_pem())]).unwrap();
    assert_eq!(client.reload().await.unwrap_err().reason(), Reason::Empty);
    assert_eq!(client.generation().number(), 1);
    client.get(server.url("/")).send().await.unwrap();
    assert!(client.status().reason.is_some());
    dir.swap(&leaf).unwrap();
    client.reload().await.unwrap();
    assert_eq!(client.generation().number(), 1, "the same content is no new generation");
    assert_eq!(client.status().reason, None);
}

#[test]
fn a_client_is_built_without_a_runtime_and_outlives_runtimes() {
    let ca = Ca::new("ca");
    let leaf = ca.issue("localhost");
    let dir = KubeletDir::new(&leaf).unwrap();
    let client = builder(dir.path()).build_blocking().unwrap();
    for round in 1..=2 {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let server = Server::start(Tls::of(&leaf)).await;
            client.get(server.url("/")).send().await.unwrap();
            dir.swap(ca.issue("localhost")).unwrap();
            assert_eq!(client.reload().await.unwrap().number(), round + 1);
        });
    }
}
