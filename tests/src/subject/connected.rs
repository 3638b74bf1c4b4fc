//! certsource's connector as a subject: hyper-util's client above it, one for each generation, below [`Follow`] and [`Resend`].
//! hyper-util follows no redirects, so a loop above does, as a layer would.

use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use certsource::Files;
use certsource_hyper::{Connector, Follow, Resend};
use certsource_reload::{Error, Reloader};
use certsource_rustls::rustls::SupportedProtocolVersion;
use certsource_rustls::rustls::version::{TLS12, TLS13};
use certsource_rustls::{ClientTls, TlsGate};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use reqwest::Method;
use tower_service::Service;

use super::{PATIENCE, Sent, Setup, Subject};
use crate::whole;

/// As many redirects are followed.
const HOPS: u32 = 10;

/// hyper-util's client above certsource's connector. It speaks what a server chooses, or TLS 1.2 alone.
#[derive(Clone, Debug)]
pub struct Connected<const TLS_1_2: bool = false> {
    client: Resend<Follow<Client<Connector, Empty<Bytes>>>>,
    shown: Arc<Mutex<String>>,
}

impl<const TLS_1_2: bool> Connected<TLS_1_2> {
    fn reloader(&self) -> &Reloader {
        self.client.inner().reloader()
    }

    async fn once(&self, method: Method, uri: Uri) -> Result<Response<Incoming>, String> {
        let mut client = self.client.clone();
        let request = Request::builder().method(method).uri(uri).body(Empty::new()).unwrap();
        let ready = poll_fn(|context| Service::<Request<Empty<Bytes>>>::poll_ready(&mut client, context));
        ready.await.map_err(|error| whole(&error))?;
        client.call(request).await.map_err(|error| whole(&error))
    }
}

impl<const TLS_1_2: bool> Subject for Connected<TLS_1_2> {
    async fn start(setup: &Setup) -> Result<Self, String> {
        let shown = Arc::<Mutex<String>>::default();
        let told = Arc::clone(&shown);
        let mut files = Files::trust(&setup.trust);
        if let Some((certificate, key)) = &setup.identity {
            files = files.with_identity(certificate, key);
        }
        let words = |error: Error| error.to_string();
        let reloader = Reloader::builder(files)
            .policy(setup.policy.clone())
            .gate(TlsGate::new().map_err(words)?)
            .on_event(move |event| *told.lock().unwrap() += &format!("{event:?}\n"))
            .start_async()
            .await
            .map_err(words)?;
        let builder = Connector::builder(&reloader);
        let tls = ClientTls::new().map_err(words)?;
        let builder = builder.tls(if TLS_1_2 { tls.versions(&[&TLS12]) } else { tls });
        let builder = if setup.http2 { builder.http2_only() } else { builder.http1_only() };
        let wait = setup.reactive.then_some(Duration::from_secs(3));
        let connector = builder.reactive(wait).build().map_err(words)?;
        let (http2, pools) = (setup.http2, setup.pools);
        let client = move |connector| {
            let mut builder = Client::builder(TokioExecutor::new());
            builder.http2_only(http2);
            if !pools {
                builder.pool_max_idle_per_host(0);
            }
            Ok::<_, Error>(builder.build(connector))
        };
        let client = Resend::new(Follow::new(connector.derive(client).map_err(words)?));
        Ok(Self { client, shown })
    }

    fn versions() -> Vec<&'static SupportedProtocolVersion> {
        if TLS_1_2 { vec![&TLS12] } else { vec![&TLS12, &TLS13] }
    }

    fn send(&self, method: Method, url: String) -> Sent {
        let this = self.clone();
        Box::pin(async move {
            let mut uri: Uri = url.parse().unwrap();
            for _ in 0..HOPS {
                let response = this.once(method.clone(), uri.clone()).await?;
                let (status, location) = (response.status(), response.headers().get("location").cloned());
                let body = response.into_body().collect().await.map_err(|error| whole(&error))?.to_bytes();
                if let (true, Some(location)) = (status.is_redirection(), location) {
                    let mut parts = uri.into_parts();
                    parts.path_and_query = Some(location.to_str().unwrap().parse().unwrap());
                    uri = Uri::from_parts(parts).unwrap();
                    continue;
                }
                let text = String::from_utf8_lossy(&body).into_owned();
                return if status == 200 { Ok(text) } else { Err(format!("{status} {text}")) };
            }
            Err("too many redirects".to_owned())
        })
    }

    async fn tick(&self) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    async fn look(&self) -> Result<(), String> {
        match tokio::time::timeout(PATIENCE, self.reloader().reload()).await.expect("a look ends") {
            Ok(_) => Ok(()),
            Err(error) => {
                *self.shown.lock().unwrap() += &format!("{error}\n{error:?}\n");
                Err(error.to_string())
            }
        }
    }

    fn reloads(&self) -> u64 {
        self.reloader().current().number() - 1
    }

    fn is_failing(&self) -> bool {
        self.reloader().status().reason.is_some()
    }

    fn shown(&self) -> String {
        let current = self.reloader().current();
        let mut shown = self.shown.lock().unwrap().clone();
        for (role, certificate) in current.material().certificates() {
            shown += &format!("{role:?} {certificate:?} {}\n", certificate.inspection());
        }
        shown + &format!("{:?}\n{:?}\n{current:?}\n", self.client, self.reloader().status())
    }

    fn begin(&self) -> (Instant, u64) {
        (Instant::now(), 0)
    }

    fn is_too_late(&self, begun: (Instant, u64)) -> bool {
        begun.0.elapsed() > PATIENCE
    }
}
