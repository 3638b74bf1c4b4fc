//! nginx never refuses a client's certificate in the handshake: it answers 400. A client that is told so (`reactive_on`)
//! looks at its files and sends the request again, whatever its method, since nginx has not looked at it. What is true
//! is read from nginx's log.
//! needs: nginx openssl
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::time::Duration;

use certsource_client::certsource_rustls::rustls::SupportedProtocolVersion;
use certsource_client::certsource_rustls::rustls::version::{TLS12, TLS13};
use certsource_client::{Builder, Client, Files, Policy};
use certsource_tests::disk::{Disk, Writer};
use certsource_tests::nginx::{Nginx, Options};
use certsource_tests::openssl::{Minted, OpensslCa};
use certsource_tests::{tool, until};

/// Requests at the moment of a rotation.
const CROWD: usize = 100;

macro_rules! every_case {
    ($($of:ident: $test:path;)*) => {$(
        mod $of {
            use super::*;
            every_case!(@case $test, http1_tls12: false, TLS12);
            every_case!(@case $test, http1_tls13: false, TLS13);
            every_case!(@case $test, http2_tls12: true, TLS12);
            every_case!(@case $test, http2_tls13: true, TLS13);
        }
    )*};
    (@case $test:path, $name:ident: $http2:literal, $tls:ident) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            if tool::are_here(&["nginx", "openssl"]) {
                $test(Scene::new($http2, &$tls)).await;
            }
        }
    };
}

every_case! {
    mended: a_refusal_is_mended_for_every_method_and_body;
    crowd: a_crowd_is_mended_by_a_few_looks;
    unmended: a_refusal_that_newer_files_do_not_mend_reaches_the_user;
}

/// An nginx that takes clients of the second of two CAs only, and a client with a certificate of the first.
struct Scene {
    http2: bool,
    tls: &'static SupportedProtocolVersion,
    trust: String,
    old: Minted,
    new: Minted,
    disk: Disk,
    nginx: Nginx,
}

impl Scene {
    fn new(http2: bool, tls: &'static SupportedProtocolVersion) -> Self {
        let (servers, first, second) =
            (OpensslCa::new("servers"), OpensslCa::new("clients 1"), OpensslCa::new("clients 2"));
        let (old, new) = (first.client(0x1000), second.client(0x1001));
        let protocol = if tls.version == TLS12.version { "TLSv1.2" } else { "TLSv1.3" };
        let options = Options { http2, protocol, requests_per_connection: 1_000_000 };
        let nginx = Nginx::start(options, &servers.server(0xA), &second.certificate());
        let trust = servers.certificate();
        let disk = Disk::new(Writer::Kubelet, &trust, &old);
        Self { http2, tls, trust, old, new, disk, nginx }
    }

    /// A client that never looks by itself.
    fn builder(&self) -> Builder {
        let address = self.nginx.address();
        let builder = Client::builder()
            .files(Files::kubernetes(self.disk.path()))
            .policy(Policy::every(Duration::from_secs(3600)))
            .tls_versions(&[self.tls])
            .no_proxy()
            .reqwest(move |builder| builder.resolve("localhost", address));
        if self.http2 { builder } else { builder.http1_only() }
    }

    /// A client that knows what nginx's refusal looks like.
    async fn client(&self) -> Client {
        let is_refusal = |response: &reqwest::Response| {
            let server = response.headers().get("server").and_then(|server| server.to_str().ok());
            response.status() == 400 && server.is_some_and(|server| server.starts_with("nginx"))
        };
        self.builder().reactive_on(is_refusal).build().await.unwrap()
    }

    /// What nginx said to the requests of this path, once there are so many: its status, and whose certificate it was.
    fn answers(&self, path: &str, expected: usize) -> Vec<(u16, String, bool)> {
        let lines = self.nginx.requests(path, expected);
        lines.into_iter().map(|line| (line.status, line.serial, line.verify == "SUCCESS")).collect()
    }
}

async fn a_refusal_is_mended_for_every_method_and_body(scene: Scene) {
    for (path, method, body) in [
        ("/get", "GET", None),
        ("/post", "POST", None),
        ("/post-body", "POST", Some("b".repeat(3000))),
        ("/delete", "DELETE", None),
    ] {
        // Without the hint the answer is just an answer.
        scene.disk.write(&scene.trust, &scene.old);
        let url = scene.nginx.url(path);
        let send = |client: &Client| {
            let request = client.request(method.parse().unwrap(), &url);
            match &body {
                Some(body) => request.body(body.clone()).send(),
                None => request.send(),
            }
        };
        let (plain, client) = (scene.builder().build().await.unwrap(), scene.client().await);
        scene.disk.write(&scene.trust, &scene.new);
        assert_eq!(send(&plain).await.unwrap().status(), 400, "{path}");
        assert_eq!(plain.generation().number(), 1);

        let response = send(&client).await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
        assert_eq!(response.text().await.unwrap(), scene.new.serial);
        assert_eq!(client.generation().number(), 2);
        let refused = (400, scene.old.serial.clone(), false);
        let taken = (200, scene.new.serial.clone(), true);
        assert_eq!(scene.answers(path, 3), [refused.clone(), refused, taken], "{path}");
    }
}

async fn a_crowd_is_mended_by_a_few_looks(scene: Scene) {
    let client = scene.client().await;
    scene.disk.write(&scene.trust, &scene.new);
    let requests: Vec<_> = (0..CROWD)
        .map(|number| {
            tokio::spawn(client.post(scene.nginx.url(&format!("/crowd/{number}"))).body("b").send())
        })
        .collect();
    for request in requests {
        assert_eq!(request.await.unwrap().unwrap().status(), 200);
    }
    assert_eq!(client.generation().number(), 2);
    let taken =
        |answers: &[(u16, String, bool)]| answers.iter().filter(|(status, ..)| *status == 200).count();
    // nginx writes a line after the answer, and the refused ones are lines too.
    let answers = until("each request that was taken is written down", || {
        let answers = scene.answers("/crowd/", CROWD + 1);
        (taken(&answers) >= CROWD).then_some(answers)
    });
    assert_eq!(taken(&answers), CROWD, "each is taken once: {answers:?}");
    for (status, serial, verified) in answers {
        let expected = if status == 200 { &scene.new.serial } else { &scene.old.serial };
        assert_eq!((&serial, verified), (expected, status == 200));
    }
}

async fn a_refusal_that_newer_files_do_not_mend_reaches_the_user(scene: Scene) {
    let client = scene.client().await;
    for number in 0..5 {
        let response = client.get(scene.nginx.url(&format!("/bad/{number}"))).send().await.unwrap();
        assert_eq!(response.status(), 400);
        assert!(response.text().await.unwrap().contains("SSL certificate"), "nginx's own words arrive");
    }
    assert_eq!(client.generation().number(), 1);
    assert_eq!(scene.answers("/bad/", 5).len(), 5, "nothing was sent twice");
}
