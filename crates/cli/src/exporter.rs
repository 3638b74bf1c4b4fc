//! `certsource exporter`: Prometheus metrics of certificates, CRLs and rotations, over plain HTTP.
//!
//! What is not here: reading (`exporter/collect.rs`), patterns (`exporter/pattern.rs`), the text format
//! (`exporter/text.rs`) and the server (`exporter/http.rs`).

mod collect;
mod follow;
mod http;
mod pattern;
mod text;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::sync::oneshot;

use self::collect::{Collector, Snapshot, Target};
use self::follow::Followed;
use crate::args::{Format, Material, Patience};
use crate::output::Output;
use crate::signals::{self, Ending};

/// What cannot be read in this time is served when it can.
const FIRST: Duration = Duration::from_secs(5);

const EXAMPLES: &str = "\
Examples:
  certsource exporter /etc/ssl/web /etc/pki/*.crt
      files, directories and patterns, read again every 10 s
  certsource exporter web=/etc/web/tls db=/etc/db/tls
      with names of your own in the label source, instead of 1, 2, ...
  certsource exporter --kubernetes /etc/tls
      follow a source as an application does: its generation, its reloads, and
      why one is refused; /readyz is 200 while what is served is valid
  certsource exporter --listen 0.0.0.0:9793 --allow-host node1.example /etc/tls
      reachable from elsewhere, under this name or by address

http://127.0.0.1:9793/metrics, /healthz and /readyz; docs/alerts holds rules for
Prometheus, docs/dashboard a dashboard for Grafana.
Metrics: x509_cert_not_after, x509_cert_not_before, x509_cert_expired,
x509_crl_next_update, x509_source_up, x509_source_errors_total, and for what is
followed certsource_generation, certsource_reloads_total and others.
Paths and error texts are not shown, unless --show-details asks for them.
Ends with 0 on SIGTERM and SIGINT, with 2 if it cannot listen.";

/// Serve Prometheus metrics of certificates and of their rotation.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Files, directories or patterns such as '/etc/*/tls.crt'; with a name: NAME=PATH
    #[arg(value_name = "PATH", value_parser = Target::parse)]
    paths: Vec<Target>,

    #[command(flatten)]
    material: Material,

    #[command(flatten)]
    patience: Patience,

    /// Where to listen
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9793", value_parser = address)]
    listen: SocketAddr,

    /// Answer requests for this host too, besides localhost and bare addresses. May be given again
    #[arg(long, value_name = "NAME")]
    allow_host: Vec<String>,

    /// Show paths as labels, and errors in words at /problems
    #[arg(long)]
    show_details: bool,
}

fn address(text: &str) -> Result<SocketAddr, String> {
    let text =
        text.strip_prefix("localhost:").map_or_else(|| text.to_owned(), |port| format!("127.0.0.1:{port}"));
    let wrong = "write it as ADDRESS:PORT, such as 127.0.0.1:9793, 0.0.0.0:9793 or [::]:9793";
    text.parse().map_err(|_| String::from(wrong))
}

/// What requests are answered from.
pub(crate) struct State {
    /// `None` until everything was read once.
    snapshot: Mutex<Option<Arc<Snapshot>>>,
    followed: Option<Arc<Followed>>,
    hosts: Vec<String>,
    show_details: bool,
}

impl State {
    fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.snapshot.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether what is followed is served and valid. Without it, to have read once is enough.
    fn is_ready(&self) -> bool {
        self.snapshot().is_some() && self.followed.as_ref().is_none_or(|followed| followed.is_ready())
    }
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let runtime = signals::runtime(&mut tokio::runtime::Builder::new_current_thread())?;
    let result = runtime.block_on(serve(args));
    // A thread that hangs on a dead disk must not hold up the end.
    runtime.shutdown_background();
    result
}

async fn serve(args: Args) -> anyhow::Result<ExitCode> {
    let files = args.material.files();
    if args.paths.is_empty() && files.is_none() {
        bail!(
            "nothing to export: name files, directories or patterns, or follow a source with --ca, --cert, …"
        );
    }
    let taken = files.is_some().then_some(follow::NAME);
    if let Some(name) = collect::name_twice(&args.paths, taken) {
        bail!("two sources would have the name {name}: give each one of its own, as NAME=PATH");
    }
    let mut ending = Ending::new().context("cannot wait for signals")?;
    let listener = tokio::net::TcpListener::bind(args.listen).await.with_context(|| {
        format!("cannot listen on {}; choose another address or port with --listen", args.listen)
    })?;
    let address = listener.local_addr().context("cannot listen")?;
    let mut collector = Collector::new(args.paths, args.show_details);
    let state = Arc::new(State {
        snapshot: Mutex::new(None),
        followed: files
            .map(|files| Followed::start(files, args.material.policy(&args.patience), args.show_details)),
        hosts: args.allow_host,
        show_details: args.show_details,
    });
    let (sender, first) = oneshot::channel();
    let (shared, mut sender) = (Arc::downgrade(&state), Some(sender));
    let interval = args.material.interval;
    // A thread of its own: a disk that hangs stops no scrape, and no end.
    std::thread::Builder::new()
        .name("certsource-scan".into())
        .spawn(move || {
            loop {
                let snapshot = Arc::new(collector.collect());
                let Some(state) = shared.upgrade() else { return };
                *state.snapshot.lock().unwrap_or_else(PoisonError::into_inner) = Some(snapshot);
                drop(state);
                if let Some(sender) = sender.take() {
                    // Nobody waits any more when that took long.
                    let _ = sender.send(());
                }
                std::thread::sleep(interval);
            }
        })
        .context("cannot start a thread")?;
    // The first scrape should see everything, if it can be read in time.
    tokio::select! {
        _ = first => {}
        () = tokio::time::sleep(FIRST) => {}
        () = ending.wait() => return Ok(ExitCode::SUCCESS),
    }
    Output::new(Format::Text).text(&format!("listening on http://{address}/metrics"))?;
    tokio::select! {
        () = ending.wait() => {}
        () = http::accept(listener, state) => {}
    }
    Ok(ExitCode::SUCCESS)
}
