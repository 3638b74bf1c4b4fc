//! `certsource demo`: a CA, a server that demands client certificates and a client under load; all of it rotates again
//! and again, and no request may fail.
//!
//! What is not here: the material and the operator's steps (`demo/stage.rs`), the servers (`demo/server.rs`), the load
//! (`demo/load.rs`), the proof that what was withdrawn is refused (`demo/proof.rs`), and how it is shown
//! (`demo/show.rs`, `demo/view.rs`).

mod load;
mod proof;
mod scene;
mod server;
mod show;
mod stage;
mod view;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context;
use certsource::Files;
use certsource::machine::Policy;
use certsource_client::Client;
use certsource_reload::{Derived, Reloader};
use certsource_rustls::{ClientAuth, ServerTls, TlsGate};
use rustls::ServerConfig;
use tokio::time::{Instant, sleep, sleep_until};

use self::load::{Load, Tally};
use self::proof::{OldServer, Proof};
use self::scene::{Kind, Scene};
use self::server::Server;
use self::show::{Rotation, Show};
use self::stage::{Era, OLD_HOST, Side, Step};
use crate::args::{Detect, Format};
use crate::duration;
use crate::signals::{self, Ending};

const EXAMPLES: &str = "\
Examples:
  certsource demo
      about 15 seconds: 20 rotations of everything under 500 requests a second
  certsource demo --rotations 200 --concurrency 32 --rate 0
      more of them, and as many requests as go through
  certsource demo --detect sha256
      the same with another way to notice changes: mtime, sha256, notify
  certsource demo --format json | jq -c 'select(.event == \"summary\")'
      for scripts: a line for each rotation, and a summary at the end

A rotation is what a careful operator does, by swaps as the kubelet makes them:
the new CA is trusted beside the old one; server and client get certificates of
the new CA; the old CA goes. Then all that is left of it must be refused: a
server, an identity, a session ticket.

Exit code 0 only if no request failed, every rotation was seen by the client,
and the withdrawn CA was refused.";

/// Rotate CA, server and client certificates under load, before your eyes, without one failed request.
///
/// It needs no input and no network: everything runs in this process, on 127.0.0.1, with certificates that are made
/// for it and thrown away.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// How often everything is rotated
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rotations: u32,

    /// Requests a second; 0 for as many as go through
    #[arg(long, value_name = "R", default_value = "500", value_parser = rate)]
    rate: f64,

    /// Requests at the same time, at the most
    #[arg(long, value_name = "C", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    concurrency: u16,

    /// The time that the rotations are spread over; they take longer if they need it
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = duration::parse)]
    duration: Duration,

    /// How changes are noticed: by events where they can be had and else by polling (auto, notify), by time stamps
    /// (mtime), by content (sha256)
    #[arg(long, value_enum, default_value_t = Detect::Auto, value_name = "HOW")]
    detect: Detect,

    /// Time between looks when polling
    #[arg(long, value_name = "TIME", default_value = "50ms", value_parser = duration::positive)]
    interval: Duration,

    /// For people (live in a terminal), or one JSON object a line
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (0.0..=1e6).contains(&rate) => Ok(rate),
        _ => Err(String::from("a number of requests a second, 0 to 1000000")),
    }
}

/// Certificates outlive the rotation that replaces them: what is refused is refused because it was withdrawn, not
/// because its time was over.
const SPARE: Duration = Duration::from_secs(120);
/// How long until a request is answered with what was adopted.
const BOUND: Duration = Duration::from_secs(15);

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let runtime = signals::runtime(&mut tokio::runtime::Builder::new_multi_thread())?;
    let result = runtime.block_on(perform(args));
    runtime.shutdown_background();
    result
}

async fn perform(args: Args) -> anyhow::Result<ExitCode> {
    let mut ending = Ending::new().context("cannot wait for signals")?;
    let demo = Demo::set_up(&args).await?;
    let show = Show::new(&args, &demo.scene, &demo.tally)?;
    let load = Load::start(&demo.client, &demo.url, args.rate, args.concurrency.into(), &demo.tally);
    let ended = tokio::select! {
        ended = demo.rotate(&args, &show) => ended.err(),
        () = ending.wait() => Some(anyhow::anyhow!("ended early, by a signal")),
    };
    load.stop().await;
    let code = show.finish(ended.as_ref())?;
    Ok(code)
}

/// Everything that is set up once.
struct Demo {
    server_side: Side,
    client_side: Side,
    configs: Derived<Arc<ServerConfig>>,
    server: Server,
    old_server: OldServer,
    client: Client,
    url: String,
    tally: Arc<Tally>,
    scene: Arc<Scene>,
    first: Arc<Era>,
    period: Duration,
    life: Duration,
}

impl Demo {
    async fn set_up(args: &Args) -> anyhow::Result<Self> {
        let period = args.duration / args.rotations;
        let life = period * 4 + SPARE;
        let first = Era::mint(1, life);
        let (server_side, client_side) = (Side::server(&first)?, Side::client(&first)?);
        let policy = Policy::every(args.interval);

        let files = args.detect.of(Files::kubernetes(server_side.dir().path()));
        let reloader =
            Reloader::builder(files).policy(policy.clone()).gate(TlsGate::new()?).start_async().await;
        let reloader = reloader.context("the server cannot load its volume")?;
        let tls = ServerTls::new()?.alpn(["h2", "http/1.1"]).client_auth(ClientAuth::Required);
        let configs = reloader.derive(move |generation| tls.config(generation.material()).map(Arc::new))?;
        let server = Server::following(configs.clone()).await?;
        let old_server = OldServer::start().await?;

        let old_address = old_server.address();
        let client = Client::builder()
            .files(args.detect.of(Files::kubernetes(client_side.dir().path())))
            .policy(policy)
            .no_proxy()
            .reqwest(move |builder| builder.tls_info(true).resolve(OLD_HOST, old_address))
            .build()
            .await
            .context("the client cannot load its volume")?;

        let tally = Arc::new(Tally::default());
        tally.expect(&first);
        let scene =
            Arc::new(Scene::new(args.rotations as usize, period, &server.handshakes, &reloader, &client));
        for kind in Kind::ALL {
            scene.begin(kind, &first);
        }
        Ok(Self {
            url: format!("https://127.0.0.1:{}/", server.address.port()),
            server_side,
            client_side,
            configs,
            server,
            old_server,
            client,
            tally,
            scene,
            first,
            period,
            life,
        })
    }

    async fn rotate(&self, args: &Args, show: &Show) -> anyhow::Result<()> {
        self.until_seen(&self.first).await.context("no request went through")?;
        let began = Instant::now();
        let mut old = Arc::clone(&self.first);
        for number in 1..=args.rotations {
            let life = self.life;
            let new = tokio::task::spawn_blocking(move || Era::mint(number as usize + 1, life)).await?;
            let due = began + self.period * (number - 1);
            let rotation = self.rotate_once(number as usize, due, &old, &new).await;
            let rotation = rotation.with_context(|| format!("rotation {number}"))?;
            show.rotation(&rotation)?;
            old = new;
        }
        Ok(())
    }

    async fn rotate_once(
        &self,
        number: usize,
        due: Instant,
        old: &Arc<Era>,
        new: &Arc<Era>,
    ) -> anyhow::Result<Rotation> {
        self.tally.expect(new);
        self.scene.rotation(number);
        let third = self.period / 3;
        let mut adopted = Duration::ZERO;

        sleep_until(due).await;
        self.scene.begin(Kind::Ca, new);
        adopted = adopted.max(self.step(Step::TrustBoth, old, new).await?);
        // The config that the server has now, with a certificate of the old CA: the server that stays behind.
        self.old_server.set(self.configs.load().value());

        sleep_until(due + third).await;
        self.scene.begin(Kind::Server, new);
        self.scene.begin(Kind::Client, new);
        adopted = adopted.max(self.step(Step::Reissue, old, new).await?);
        self.scene.end(Kind::Server, old);
        self.scene.end(Kind::Client, old);
        self.tally.least_identity.store(new.number, Ordering::Release);
        let proof = Proof::prepare(self.server.address, &self.old_server, &self.client, old, new).await?;

        sleep_until(due + third * 2).await;
        adopted = adopted.max(self.step(Step::Withdraw, old, new).await?);
        self.scene.end(Kind::Ca, old);
        self.tally.least_server.store(new.number, Ordering::Release);
        let (refused, problems) = proof.check(old, new).await?;
        let seen = self.until_seen(new).await;
        self.scene.proven(refused.all());
        Ok(Rotation {
            rotation: number,
            withdrawn: old.number,
            adopted,
            seen: seen.is_ok(),
            refused,
            problems,
            client_generation: self.client.generation().number(),
            server_generation: self.configs.reloader().current().number(),
        })
    }

    /// Both sides at the same time, as two pods would.
    async fn step(&self, step: Step, old: &Arc<Era>, new: &Arc<Era>) -> anyhow::Result<Duration> {
        self.scene.step(step);
        let (server, client) = tokio::try_join!(
            self.server_side.take(step, old, new, self.configs.reloader(), || {
                Arc::clone(self.configs.load().generation())
            }),
            self.client_side.take(step, old, new, self.client.reloader(), || self.client.generation()),
        )?;
        let adopted = server.max(client);
        self.scene.adopted(adopted);
        Ok(adopted)
    }

    /// Waits until a whole request went with the server certificate and the identity of this era.
    async fn until_seen(&self, era: &Era) -> anyhow::Result<()> {
        let until = Instant::now() + BOUND;
        let tally = &self.tally;
        while tally.seen_identity.load(Ordering::Acquire) < era.number
            || tally.seen_server.load(Ordering::Acquire) < era.number
        {
            if Instant::now() > until {
                anyhow::bail!(
                    "no request was answered with the certificates of CA {} within {BOUND:?}",
                    era.number
                );
            }
            sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }
}
