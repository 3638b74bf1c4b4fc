//! The builder's options: what is loaded, what contradicts, and to whom the identity is shown.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;
#[path = "../../certsource/tests/secret_support/mod.rs"]
mod secret_support;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use certsource_client::certsource_reload::certsource::parts::Parts;
use certsource_client::certsource_reload::certsource::{Origin, PrivateKey, push};
use certsource_client::detect::Sha256;
use certsource_client::reqwest::dns::{Addrs, Name, Resolve, Resolving};
use certsource_client::rustls::pki_types::UnixTime;
use certsource_client::rustls::time_provider::TimeProvider;
use certsource_client::rustls::version::{TLS12, TLS13};
use certsource_client::{Client, Files, Proxy, Reason};
use certsource_testkit::{Ca, KubeletDir, TestDir};

use common::{NEVER, Server, Tls, builder, client, provider, soon};
use secret_support::Secret;

#[tokio::test]
async fn paths_are_named_one_by_one() {
    let (one, two) = (Ca::new("one"), Ca::new("two"));
    let dir = TestDir::new().unwrap();
    let identity = one.issue("client");
    let paths = [
        dir.write("one.pem", one.certificate_pem()).unwrap(),
        dir.write("two.pem", two.certificate_pem()).unwrap(),
        dir.write("chain.pem", identity.chain_pem()).unwrap(),
        dir.write("key.pem", identity.key_pem()).unwrap(),
        dir.write("combined.pem", identity.combined_pem()).unwrap(),
    ];
    let roots = || {
        let named = Client::builder().root_certificate(&paths[0]).root_certificate(&paths[1]);
        named.reload_every(NEVER).no_proxy().detect(Sha256::new()).crypto_provider(provider())
    };
    for client in [
        roots().identity(&paths[2], &paths[3]).build().await.unwrap(),
        roots().identity_file(&paths[4]).build().await.unwrap(),
    ] {
        for ca in [&one, &two] {
            let leaf = ca.issue("localhost");
            let server = Server::start(Tls::of(&leaf).clients(&[&one])).await;
            client.get(server.url("/")).send().await.unwrap();
            assert_eq!(server.last().client, Some(identity.leaf_der()));
        }
    }
}

#[tokio::test]
async fn a_revoked_server_is_refused() {
    let ca = Ca::new("ca");
    let (good, bad) = (ca.issue("localhost"), ca.issue("localhost"));
    let dir = TestDir::new().unwrap();
    let trust = dir.write("ca.pem", ca.certificate_pem()).unwrap();
    ca.revoke(&bad);
    let list = dir.write("ca.crl", ca.crl().pem()).unwrap();
    let client = Client::builder().root_certificate(trust).crl(list).no_proxy().build().await.unwrap();
    let (good, bad) = (Server::start(Tls::of(&good)).await, Server::start(Tls::of(&bad)).await);
    client.get(good.url("/")).send().await.unwrap();
    let error = client.get(bad.url("/")).send().await.unwrap_err();
    assert!(format!("{error:?}").contains("Revoked"), "{error:?}");
}

#[tokio::test]
async fn a_pushed_source_rotates() {
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let origin = Origin::named("a test");
    let (pusher, source) = push(origin.clone());
    let push = |ca: &Ca| {
        let (root, origin) = (ca.root_der(), origin.clone());
        pusher.push(move || Ok(Parts::new().with_trust(&origin, [root.clone()])));
    };
    push(&old);
    let client = Client::builder().source(source).no_proxy().build().await.unwrap();
    let leaf = new.issue("localhost");
    let server = Server::start(Tls::of(&leaf)).await;
    client.get(server.url("/")).send().await.unwrap_err();
    let mut generations = client.reloader().watch();
    push(&new);
    soon(generations.changed()).await.unwrap();
    client.get(server.url("/")).send().await.unwrap();
}

/// What only adds has its turn within the time that was asked for, and at once where none was.
#[tokio::test]
async fn what_only_adds_takes_its_turn_if_that_is_asked_for() {
    let cas: Vec<_> = (0..5).map(|n| Ca::new(&n.to_string()).root_der()).collect();
    let origin = Origin::named("a test");
    let (at_once, first) = push(origin.clone());
    let (in_turn, second) = push(origin.clone());
    let push = |count: usize| {
        for pusher in [&at_once, &in_turn] {
            let (roots, origin) = (cas[..count].to_vec(), origin.clone());
            pusher.push(move || Ok(Parts::new().with_trust(&origin, roots.clone())));
        }
    };
    push(1);
    let control = Client::builder().source(first).no_proxy().build().await.unwrap();
    let within = Client::builder().source(second).no_proxy().adopt_within(Duration::from_secs(5));
    let client = within.build().await.unwrap();
    let (mut early, mut late) = (control.reloader().watch(), client.reloader().watch());
    for count in 2..=cas.len() {
        push(count);
        soon(early.changed()).await.unwrap();
        let adopted = std::time::Instant::now();
        soon(late.changed()).await.unwrap();
        // A turn is at a random moment: four are not all that early.
        if adopted.elapsed() > Duration::from_millis(300) {
            return;
        }
    }
    panic!("four turns were all at once");
}

#[tokio::test]
async fn versions_of_tls() {
    let ca = Ca::new("ca");
    let leaf = ca.issue("localhost");
    let dir = KubeletDir::new(&leaf).unwrap();
    let server = Server::start(Tls::of(&leaf).versions(&[&TLS12])).await;
    builder(dir.path())
        .tls_versions(&[&TLS12])
        .build()
        .await
        .unwrap()
        .get(server.url("/"))
        .send()
        .await
        .unwrap();
    let newest = builder(dir.path()).tls_versions(&[&TLS13]).build().await.unwrap();
    newest.get(server.url("/")).send().await.unwrap_err();
}

#[tokio::test]
async fn a_first_load_that_fails_is_an_error_or_is_waited_for() {
    let dir = TestDir::new().unwrap();
    let path = dir.join("ca.pem");
    let error = Client::builder().root_certificate(&path).build().await.unwrap_err();
    assert_eq!(error.reason(), Reason::NotFound);
    assert_eq!(error.path(), Some(path.as_path()));
    let waiting = tokio::spawn(
        Client::builder().root_certificate(&path).wait_for_initial(common::SOON).no_proxy().build(),
    );
    tokio::task::yield_now().await;
    dir.write("ca.pem", Ca::new("ca").certificate_pem()).unwrap();
    soon(waiting).await.unwrap().unwrap();
}

#[tokio::test]
async fn contradictions_are_told_in_one_line() {
    let ca = Ca::new("ca");
    let dir = KubeletDir::new(ca.issue("client")).unwrap();
    let files = || Files::kubernetes(dir.path());
    let source = || push(Origin::named("a test")).1;
    let none = Client::builder();
    let identity_only = Client::builder().identity(dir.cert_path(), dir.key_path());
    let both = Client::builder().root_certificate(dir.ca_path()).source(source());
    let both_again = Client::builder().source(source()).root_certificate(dir.ca_path());
    let late_files = Client::builder().root_certificate(dir.ca_path()).files(files());
    let detector = Client::builder().source(source()).detect(Sha256::new());
    let never = Client::builder().files(files()).reload_every(Duration::ZERO);
    let proxied = builder(dir.path()).reqwest(|b| b.proxy(reqwest_proxy()));
    #[cfg(feature = "cookies")]
    for jar in [builder(dir.path()).reqwest(|b| b.cookie_store(true)), {
        let jar = Arc::new(certsource_client::reqwest::cookie::Jar::default());
        builder(dir.path()).reqwest(move |b| b.cookie_provider(Arc::clone(&jar)))
    }] {
        let error = soon(jar.build()).await.unwrap_err().to_string();
        assert!(error.contains("Builder::cookie_jar") && !error.contains('\n'), "{error}");
    }
    for (builder, words) in [
        (none, "Builder::root_certificate"),
        (identity_only, "no trust anchors"),
        (both, "either files or one source"),
        (both_again, "either files or one source"),
        (late_files, "Builder::files must come before"),
        (detector, "Builder::detect is for files"),
        (never, "above zero"),
        (proxied, "Builder::proxy"),
    ] {
        let error = soon(builder.build()).await.unwrap_err().to_string();
        assert!(error.contains(words) && !error.contains('\n'), "{error}");
    }
}

fn reqwest_proxy() -> certsource_client::reqwest::Proxy {
    certsource_client::reqwest::Proxy::all("http://127.0.0.1:9").unwrap()
}

#[tokio::test]
async fn the_identity_is_not_shown_to_an_https_proxy_unasked() {
    let ca = Ca::new("ca");
    let dir = KubeletDir::new(ca.issue("client")).unwrap();
    let proxy = Proxy::all("https://proxy.example:8443").unwrap();
    let with =
        || Client::builder().files(Files::kubernetes(dir.path())).reload_every(NEVER).proxy(proxy.clone());
    let error = with().build().await.unwrap_err().to_string();
    assert!(error.contains("Builder::identity_to_proxy"), "{error}");
    with().identity_to_proxy(true).build().await.unwrap();
    // Without an identity there is nothing to show.
    let trust = Client::builder().root_certificate(dir.ca_path()).proxy(proxy.clone());
    trust.build().await.unwrap();
    let plain = Proxy::all("http://proxy.example:3128").unwrap();
    Client::builder().files(Files::kubernetes(dir.path())).proxy(plain).build().await.unwrap();
}

/// An identity that appears later is held back as well: that generation is refused, the last good one stays.
#[tokio::test]
async fn an_identity_that_comes_later_is_not_shown_to_an_https_proxy() {
    let ca = Ca::new("ca");
    let origin = Origin::named("a test");
    let (pusher, source) = push(origin.clone());
    let (root, at) = (ca.root_der(), origin.clone());
    pusher.push(move || Ok(Parts::new().with_trust(&at, [root.clone()])));
    let proxy = Proxy::all("https://proxy.example:8443").unwrap();
    let client = Client::builder().source(source).proxy(proxy).build().await.unwrap();
    let (root, identity) = (ca.root_der(), ca.issue("client"));
    pusher.push(move || {
        let key = PrivateKey::from_der(identity.key_der().secret_der().to_vec().into())?;
        Ok(Parts::new().with_trust(&origin, [root.clone()]).with_identity(&origin, identity.chain_der(), key))
    });
    let error = soon(client.reload()).await.unwrap_err();
    assert!(error.to_string().contains("Builder::identity_to_proxy"), "{error}");
    assert_eq!(client.generation().number(), 1);
}

/// reqwest reads the proxies of the environment by itself. Runs as a process of its own, for its variables.
#[test]
fn the_environments_proxies_are_checked_too() {
    const CHILD: &str = "CERTSOURCE_TEST_CHILD";
    if let Ok(dir) = std::env::var(CHILD) {
        let build = |builder: certsource_client::Builder| builder.build_blocking();
        let files = || Client::builder().files(Files::kubernetes(&dir));
        let error = build(files()).unwrap_err().to_string();
        assert!(error.contains("HTTPS_PROXY"), "{error}");
        build(files().no_proxy()).unwrap();
        build(files().identity_to_proxy(true)).unwrap();
        build(files().proxy(Proxy::all("http://proxy.example").unwrap())).unwrap();
        return;
    }
    let ca = Ca::new("ca");
    let dir = KubeletDir::new(ca.issue("client")).unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_environments_proxies_are_checked_too", "--nocapture"])
        .env(CHILD, dir.path())
        .env("HTTPS_PROXY", "https://proxy.example:8443")
        .output()
        .unwrap();
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stderr));
}

/// What the user asks of reqwest by a closure is asked for every generation.
#[tokio::test]
async fn the_users_options_hold_in_every_generation() {
    let ca = Ca::new("ca");
    let leaf = ca.issue("localhost");
    let server = Server::start(Tls::of(&leaf)).await;
    let dir = KubeletDir::new(&leaf).unwrap();
    let client = builder(dir.path()).reqwest(|b| b.user_agent("mine")).build().await.unwrap();
    for _ in 0..2 {
        client.get(server.url("/")).send().await.unwrap();
        assert_eq!(server.last().headers["user-agent"], "mine");
        dir.swap(ca.issue("localhost")).unwrap();
        client.reload().await.unwrap();
    }
}

/// A resolver that caches is asked by every generation, so its cache outlives a rotation.
#[tokio::test]
async fn a_resolver_is_shared_by_all_generations() {
    /// Knows one name, and counts what it had to look up.
    struct Caching {
        address: SocketAddr,
        cache: Mutex<HashSet<String>>,
        asked: AtomicUsize,
        looked_up: AtomicUsize,
    }
    impl Resolve for Caching {
        fn resolve(&self, name: Name) -> Resolving {
            self.asked.fetch_add(1, Ordering::SeqCst);
            if self.cache.lock().unwrap().insert(name.as_str().to_owned()) {
                self.looked_up.fetch_add(1, Ordering::SeqCst);
            }
            let address = self.address;
            Box::pin(async move { Ok(Box::new(std::iter::once(address)) as Addrs) })
        }
    }
    let ca = Ca::new("ca");
    let leaf = ca.issue("service.example");
    let server = Server::start(Tls::of(&leaf)).await;
    let dir = KubeletDir::new(&leaf).unwrap();
    let resolver = Arc::new(Caching {
        address: server.address(),
        cache: Mutex::default(),
        asked: AtomicUsize::new(0),
        looked_up: AtomicUsize::new(0),
    });
    let client = builder(dir.path()).dns_resolver(Arc::clone(&resolver)).build().await.unwrap();
    let url = format!("https://service.example:{}/", server.address().port());
    for asked in 1..4 {
        client.get(&url).send().await.unwrap();
        assert_eq!(resolver.asked.load(Ordering::SeqCst), asked, "once for each generation's connection");
        assert_eq!(resolver.looked_up.load(Ordering::SeqCst), 1);
        dir.swap(ca.issue("client")).unwrap();
        client.reload().await.unwrap();
    }
}

/// The time that is asked says what has expired, in every generation.
#[tokio::test]
async fn a_clock_of_the_users_judges_servers() {
    /// The system's time, and so many seconds.
    #[derive(Debug, Default)]
    struct Clock(AtomicU64);
    impl TimeProvider for Clock {
        fn current_time(&self) -> Option<UnixTime> {
            let ahead = Duration::from_secs(self.0.load(Ordering::SeqCst));
            Some(UnixTime::since_unix_epoch(Duration::from_secs(UnixTime::now().as_secs()) + ahead))
        }
    }
    let ca = Ca::new("ca");
    let leaf = ca.leaf("localhost").valid_for(Duration::from_secs(3600)).issue();
    let server = Server::start(Tls::of(&leaf)).await;
    let dir = KubeletDir::new(&leaf).unwrap();
    let clock = Arc::new(Clock::default());
    let time: Arc<dyn TimeProvider> = clock.clone();
    let client = builder(dir.path()).time_provider(time).reqwest(|b| b.pool_max_idle_per_host(0));
    let client = client.build().await.unwrap();
    for _ in 0..2 {
        clock.0.store(0, Ordering::SeqCst);
        client.get(server.url("/")).send().await.unwrap();
        clock.0.store(7200, Ordering::SeqCst);
        // Not by the session of a moment ago: a new generation has none.
        dir.swap(ca.issue("client")).unwrap();
        client.reload().await.unwrap();
        let error = client.get(server.url("/")).send().await.unwrap_err();
        assert!(error.is_connect() && format!("{error:?}").contains("Expired"), "{error:?}");
    }
}

/// A draft can not be sent by any client but ours, and HTTP/3 by none: its connections would pass by everything.
#[tokio::test]
async fn what_can_not_be_kept_true_fails() {
    let ca = Ca::new("ca");
    let leaf = ca.issue("localhost");
    let server = Server::start(Tls::of(&leaf)).await;
    let dir = KubeletDir::new(&leaf).unwrap();
    let client = client(&dir).await;
    let mut draft = None;
    let kept = client.get(server.url("/")).with(|inner| {
        draft = inner.try_clone();
        inner
    });
    let error = draft.unwrap().send().await.unwrap_err();
    assert!(error.is_connect() && format!("{error:?}").contains("drafted"), "{error:?}");
    kept.send().await.unwrap();
    let version = certsource_client::reqwest::Version::HTTP_3;
    client.get(server.url("/")).version(version).send().await.unwrap_err();
    assert_eq!(server.seen().len(), 1);
}

/// Nothing that is shown holds a piece of a key, in any form in which bytes are written; and the search would find it.
/// All public types, errors, events and logs: `secret.rs`.
#[tokio::test]
async fn no_key_byte_is_shown() {
    let ca = Ca::new("ca");
    let identity = ca.issue("client");
    let secret = Secret::of(&identity);
    let dir = KubeletDir::new(&identity).unwrap();
    let building = builder(dir.path());
    let before = format!("{building:?} {building:#?}");
    let client = building.build().await.unwrap();
    let generation = client.generation();
    let shown = format!(
        "{client:?} {client:#?} {generation:?} {generation:#?} {:?} {:?} {:?}",
        client.status(),
        client.certificates(),
        generation.identity().unwrap().key(),
    );
    secret.is_not_in("a builder", &before);
    secret.is_not_in("a client", &shown);
    assert!(shown.contains("PrivateKey") && shown.contains("Certificate"), "something is shown: {shown}");
    // The same text with the key in it, as it would be with a derived `Debug` or by a helpful message.
    let key = identity.key_der();
    let der = key.secret_der();
    let hex: String = der.iter().map(|byte| format!("{byte:02x}")).collect();
    let forms =
        [identity.key_pem(), format!("{der:?}"), format!("{der:02X?}"), hex, der.escape_ascii().to_string()];
    for form in forms {
        let half = &form[form.len() / 4..];
        assert!(secret.found_in(&format!("{shown} {half}")).is_some(), "{half}");
    }
}

/// What is said of files is not for a source; what is said of revocation is heard.
#[tokio::test]
async fn revocation_is_a_choice() {
    use certsource_client::Revocation;
    let (ca, other) = (Ca::new("ca"), Ca::new("other"));
    let dir = TestDir::new().unwrap();
    let trust = dir.write("ca.pem", ca.certificate_pem() + &other.certificate_pem()).unwrap();
    let list = dir.write("ca.crl", ca.crl().pem()).unwrap();
    let leaf = other.issue("localhost");
    let server = Server::start(Tls::of(&leaf)).await;
    let builder = || Client::builder().root_certificate(&trust).crl(&list).no_proxy();
    builder().build().await.unwrap().get(server.url("/")).send().await.unwrap();
    let strict = builder().revocation(Revocation::new().deny_unknown(true)).build().await.unwrap();
    let error = strict.get(server.url("/")).send().await.unwrap_err();
    assert!(format!("{error:?}").contains("UnknownRevocationStatus"), "{error:?}");
}

#[cfg(feature = "encrypted-keys")]
#[tokio::test]
async fn a_key_may_have_a_password() {
    use pkcs5::der::Encode as _;
    use pkcs5::pbes2::{EncryptionScheme, Kdf, Parameters, Pbkdf2Params, Pbkdf2Prf};

    const PASSWORD: &[u8] = b"horse";
    fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
        let length = u16::try_from(content.len()).unwrap().to_be_bytes();
        [&[tag, 0x82][..], &length, content].concat()
    }
    let ca = Ca::new("ca");
    let identity = ca.issue("client");
    let kdf = Pbkdf2Params {
        salt: b"saltsalt",
        iteration_count: 1_000,
        key_length: None,
        prf: Pbkdf2Prf::HmacWithSha256,
    };
    let parameters =
        Parameters { kdf: Kdf::Pbkdf2(kdf), encryption: EncryptionScheme::Aes256Cbc { iv: &[7; 16] } };
    let plain = identity.key_der().secret_der().to_vec();
    let mut buffer = [&plain[..], &[0; 16]].concat();
    let length = parameters.encrypt_in_place(PASSWORD, &mut buffer, plain.len()).unwrap().len();
    let mut scheme = [0; 512];
    let scheme = pkcs5::EncryptionScheme::from(parameters).encode_to_slice(&mut scheme).unwrap().to_vec();
    let info = tlv(0x30, &[scheme, tlv(0x04, &buffer[..length])].concat());
    let dir = TestDir::new().unwrap();
    let trust = dir.write("ca.pem", ca.certificate_pem()).unwrap();
    let chain = dir.write("chain.pem", identity.chain_pem()).unwrap();
    let key = dir.write("key.der", info).unwrap();
    let builder = || Client::builder().root_certificate(&trust).identity(&chain, &key).no_proxy();
    let leaf = ca.issue("localhost");
    let server = Server::start(Tls::of(&leaf).clients(&[&ca])).await;
    let client = builder().key_password(|| Ok(PASSWORD.to_vec())).build().await.unwrap();
    client.get(server.url("/")).send().await.unwrap();
    assert_eq!(server.last().client, Some(identity.leaf_der()));
    for client in [builder().key_password(|| Ok(b"donkey".to_vec())), builder()] {
        let error = client.build().await.unwrap_err();
        assert_eq!(error.reason(), Reason::Encrypted, "{error}");
    }
    let (_pusher, source) = push(Origin::named("stream"));
    let error = Client::builder().source(source).key_password(|| Ok(Vec::new())).build().await.unwrap_err();
    assert!(error.to_string().contains("key_password"), "{error}");
}

/// The system's roots are there only when they are asked for; on a system without any, that is an error.
#[cfg(feature = "system-roots")]
#[tokio::test]
async fn the_systems_roots_are_added_when_asked_for() {
    let ca = Ca::new("ca");
    let dir = TestDir::new().unwrap();
    let trust = dir.write("ca.pem", ca.certificate_pem()).unwrap();
    let builder = || Client::builder().root_certificate(&trust).no_proxy();
    assert_eq!(builder().build().await.unwrap().certificates().len(), 1);
    match builder().with_system_roots().build().await {
        Ok(client) => assert!(client.certificates().len() > 1),
        Err(error) => assert_eq!(error.reason(), Reason::Empty, "{error}"),
    }
}
