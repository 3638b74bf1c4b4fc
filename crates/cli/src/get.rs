//! `certsource get`: requests by a client that follows its files: one, or many at a steady rate while they rotate.
//!
//! What is not here: what a request is made of and who sends it (`get/call.rs`), connections whose handshake is shown
//! (`get/direct.rs`), why there is no answer (`get/why.rs`), and the figures of a repeated run (`get/summary.rs`).

mod call;
mod direct;
mod summary;
mod why;

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use certsource::Reason;
use certsource_client::{Client, EventKind};
use reqwest::header::{HeaderName, HeaderValue};
use reqwest::{Method, StatusCode, Url};
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use self::call::{Answer, Call, Sender};
use self::direct::{Direct, Facts};
use self::summary::{Live, Summary};
use crate::args::{Format, Material, Patience};
use crate::duration;
use crate::error;
use crate::latency::Latencies;
use crate::output::{self, Output};
use crate::pace::Pace;
use crate::signals::{self, Ending};
use crate::watch::event;

const EXAMPLES: &str = "\
Examples:
  certsource get https://localhost:8443/ --ca ca.pem
      one request: the body on standard output, the status on standard error
  certsource get https://localhost/ --kubernetes /etc/tls --every 100ms
      ten requests a second while the files rotate, until Ctrl-C: does one fail?
  certsource get https://localhost/ --ca ca.pem --count 1000 --concurrency 8
      1000 requests, as fast as 8 at a time go
  certsource get https://localhost/ --ca ca.pem --every 1s --format json | jq
      one JSON object a line: request, reloaded, failed; a summary at the end
  certsource get https://localhost/ --ca ca.pem -v -o /dev/null
      TLS version, cipher, resumed or not, the server's chain, the generation
  certsource get https://localhost/x --ca ca.pem -X PUT -H X-A:b -d @body
      another method, a header, a body from a file (@- is standard input)

With -v each request has a connection of its own, so that its handshake can be
shown, and redirects are not followed. On a terminal a repeated run shows one
line that lives, and what failed.
The system's roots are never used: name the CA of the server.
An answer of 400 and above counts as failed: servers such as nginx refuse a
client certificate that way.
Exit code 0 only if no request failed, 1 if one did, 2 if the files cannot be
loaded.";

/// Send requests with the certificates of these files, and go on while they rotate.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// What to get; https only
    #[arg(value_name = "URL", value_parser = url)]
    url: Url,

    #[command(flatten)]
    material: Material,

    #[command(flatten)]
    patience: Patience,

    /// The method; without it GET, and POST with -d
    #[arg(short = 'X', long = "request", value_name = "METHOD", value_parser = call::method)]
    method: Option<Method>,

    /// A header: 'Name: value'. May be given again
    #[arg(short = 'H', long = "header", value_name = "HEADER", value_parser = call::header)]
    headers: Vec<(HeaderName, HeaderValue)>,

    /// Send this body; @PATH sends a file, @- standard input
    #[arg(short = 'd', long = "data", value_name = "DATA")]
    data: Option<String>,

    /// Write the body of the answer to this file
    #[arg(short = 'o', long = "output", value_name = "PATH", conflicts_with_all = ["every", "count", "duration"])]
    out: Option<PathBuf>,

    /// Show the handshake of each request: version, cipher, resumed or not, chain, generation
    #[arg(short = 'v', long)]
    verbose: bool,

    /// Go on: a request each so often
    #[arg(long, value_name = "TIME", value_parser = duration::positive)]
    every: Option<Duration>,

    /// Go on until so many requests are sent
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,

    /// Go on for so long
    #[arg(long, value_name = "TIME", value_parser = duration::positive)]
    duration: Option<Duration>,

    /// Requests at the same time, at the most
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    concurrency: u16,

    /// A request that takes longer has failed
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration::positive)]
    timeout: Duration,

    /// For people, or one JSON object a line
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

fn url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("{error}; write it as https://HOST:PORT/PATH"))?;
    if url.scheme() == "https" { Ok(url) } else { Err(String::from("write it as https://HOST:PORT/PATH")) }
}

#[derive(Serialize)]
struct Request<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    generation: u64,
    latency_us: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls: Option<&'a Facts>,
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let runtime = signals::runtime(&mut tokio::runtime::Builder::new_multi_thread())?;
    let result = runtime.block_on(perform(args));
    runtime.shutdown_background();
    result
}

async fn perform(args: Args) -> anyhow::Result<ExitCode> {
    let Some(files) = args.material.files().filter(|_| args.material.has_trust()) else {
        bail!(
            "name the CA of the server with --ca (or --kubernetes); the system's roots are never used unasked"
        );
    };
    let mut ending = Ending::new().context("cannot wait for signals")?;
    let is_repeated =
        args.every.is_some() || args.count.is_some() || args.duration.is_some() || args.concurrency > 1;
    let call = Arc::new(Call::of(&args)?);
    // Before the first byte is asked for: a file that cannot be written is no reason to send anything.
    let out = match &args.out {
        Some(path) => Some(File::create(path).map_err(|error| cannot_write(path, error))?),
        None => None,
    };
    let run = Arc::new(Run::new(&args, is_repeated));
    let told = Arc::downgrade(&run);
    let hook = move |event: &certsource_client::Event| {
        let Some(run) = told.upgrade().filter(|_| is_repeated) else { return };
        match &event.kind {
            EventKind::Reloaded(_) => drop(run.reloads.fetch_add(1, Ordering::Relaxed)),
            EventKind::Loaded(_) | EventKind::Retired(_) => return,
            _ => {}
        }
        run.live.clear();
        run.keep(event::tell(&run.output, event));
    };
    let policy = args.material.policy(&args.patience);
    let sender = if args.verbose {
        let started = Direct::start(files, policy, hook).await;
        Sender::Direct(started.map_err(|error| args.material.explain(error))?)
    } else {
        let builder = Client::builder().files(files).policy(policy).timeout(args.timeout);
        // Told as results, so not logged too.
        let built = builder.on_failure(|_| ()).on_event(hook).build().await;
        Sender::Client(built.map_err(|error| args.material.explain(error.into()))?)
    };
    if is_repeated {
        return repeat(&args, sender, call, run, &mut ending).await;
    }
    tokio::select! {
        result = once(&args, &sender, &call, &run, out) => result,
        // Ended by somebody else: no answer, and no error of ours.
        () = ending.wait() => Ok(ExitCode::from(1)),
    }
}

/// Why there is no file for the body, and what to do.
fn cannot_write(path: &Path, error: io::Error) -> certsource::Error {
    let (reason, what) = match error.kind() {
        io::ErrorKind::NotFound => {
            (Reason::NotFound, "its directory does not exist; make it first (mkdir -p)")
        }
        io::ErrorKind::PermissionDenied => {
            (Reason::PermissionDenied, "permission denied; name a place that this user may write to")
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            (Reason::Io, "the file system is read-only; name a file on another one")
        }
        _ => return certsource::Error::io("write the body of the answer", path, error),
    };
    let message = format!("cannot write the body of the answer: {what}");
    certsource::Error::new(reason, message).at(path).caused_by(error)
}

/// What all workers share.
struct Run {
    output: Output,
    requests: AtomicU64,
    failed: AtomicU64,
    reloads: AtomicU64,
    latencies: Mutex<Latencies>,
    live: Live,
    began: Instant,
    over: AtomicBool,
    /// Why results can be written no more; and somebody who waits for that.
    broken: Mutex<Option<anyhow::Error>>,
    is_broken: tokio::sync::Notify,
}

impl Run {
    fn new(args: &Args, is_repeated: bool) -> Self {
        Self {
            live: if is_repeated && args.format == Format::Text { Live::on_terminal() } else { Live::none() },
            output: Output::new(args.format),
            requests: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            reloads: AtomicU64::new(0),
            latencies: Mutex::default(),
            began: Instant::now(),
            over: AtomicBool::new(false),
            broken: Mutex::default(),
            is_broken: tokio::sync::Notify::new(),
        }
    }

    /// Keeps the first error of writing: then the run is over.
    fn keep(&self, written: anyhow::Result<()>) {
        if let Err(error) = written {
            self.broken.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            self.over.store(true, Ordering::Relaxed);
            self.is_broken.notify_one();
        }
    }

    /// Counts an answer and tells it.
    fn tell(&self, took: Duration, answer: &Told) -> anyhow::Result<()> {
        let generation = answer.generation;
        let is_good = answer.status.as_ref().is_ok_and(|status| is_good(*status));
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.failed.fetch_add(u64::from(!is_good), Ordering::Relaxed);
        self.latencies.lock().unwrap_or_else(PoisonError::into_inner).add(took);
        if self.live.is_shown() {
            self.live.show(|| self.summary(self.began.elapsed()).line(generation));
            if is_good {
                return Ok(());
            }
            self.live.clear();
        }
        let record = Request {
            status: answer.status.as_ref().ok().map(StatusCode::as_u16),
            error: answer.status.as_ref().err().map(String::as_str),
            generation,
            latency_us: summary::micros(took),
            tls: answer.facts.as_deref(),
        };
        event::line(&self.output, SystemTime::now(), "request", &record, || {
            let took = duration::latency(took);
            let tls = answer.facts.as_ref().map_or_else(String::new, |facts| format!("; {facts}"));
            match &answer.status {
                Ok(status) => {
                    let word = if is_good { "" } else { "FAILED " };
                    format!("{word}{status} generation {generation} in {took}{tls}")
                }
                Err(why) => format!("FAILED generation {generation} after {took}: {why}{tls}"),
            }
        })
    }

    fn summary(&self, took: Duration) -> Summary {
        let latencies = self.latencies.lock().unwrap_or_else(PoisonError::into_inner);
        let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
        Summary::new([&self.requests, &self.failed, &self.reloads].map(count), &latencies, took)
    }

    fn finish(&self, took: Duration) -> anyhow::Result<ExitCode> {
        self.live.clear();
        if let Some(error) = self.broken.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Err(error);
        }
        let summary = self.summary(took);
        event::line(&self.output, SystemTime::now(), "summary", &summary, || summary.to_string())?;
        Ok(if summary.is_good() { ExitCode::SUCCESS } else { ExitCode::from(1) })
    }
}

/// What came of a request, its body read to the end.
struct Told {
    status: Result<StatusCode, String>,
    /// The generation that answered, or failed to.
    generation: u64,
    facts: Option<Box<Facts>>,
}

async fn repeat(
    args: &Args,
    sender: Sender,
    call: Arc<Call>,
    run: Arc<Run>,
    ending: &mut Ending,
) -> anyhow::Result<ExitCode> {
    let began = Instant::now();
    let end = args.duration.map(|duration| began + duration);
    let pace = Arc::new(Pace::new(args.every.unwrap_or_default()));
    let left = Arc::new(AtomicU64::new(args.count.unwrap_or(u64::MAX)));
    let mut workers = JoinSet::new();
    for _ in 0..args.concurrency {
        let (sender, call, run) = (sender.clone(), Arc::clone(&call), Arc::clone(&run));
        let (pace, left) = (Arc::clone(&pace), Arc::clone(&left));
        workers.spawn(async move {
            loop {
                let is_left =
                    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
                if is_left.is_err() {
                    return;
                }
                pace.turn().await;
                if run.over.load(Ordering::Relaxed) || end.is_some_and(|end| Instant::now() >= end) {
                    return;
                }
                let began = Instant::now();
                let told = exchange(&sender, &call).await;
                run.keep(run.tell(began.elapsed(), &told));
            }
        });
    }
    let all = async { while workers.join_next().await.is_some() {} };
    let late = async {
        match end {
            // What is under way may end by its own timeout.
            Some(end) => sleep_until(end + args.timeout).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = all => {}
        () = late => {}
        () = run.is_broken.notified() => {}
        () = ending.wait() => {}
    }
    run.over.store(true, Ordering::Relaxed);
    // The engine goes before the summary: nothing is told behind it.
    workers.shutdown().await;
    drop(sender);
    run.finish(began.elapsed())
}

async fn exchange(sender: &Sender, call: &Call) -> Told {
    match sender.send(call).await {
        Err(failed) => Told { status: Err(failed.why), generation: failed.generation, facts: failed.facts },
        Ok(mut answer) => {
            let status = loop {
                match answer.chunk().await {
                    Ok(Some(_)) => {}
                    Ok(None) => break Ok(answer.status),
                    Err(why) => break Err(why),
                }
            };
            Told { status, generation: answer.generation, facts: answer.facts }
        }
    }
}

/// One request for people: the body as it is, to standard output. For scripts: as a `request` line and a summary.
async fn once(
    args: &Args,
    sender: &Sender,
    call: &Call,
    run: &Run,
    out: Option<File>,
) -> anyhow::Result<ExitCode> {
    let began = Instant::now();
    if run.output.is_json() && args.out.is_none() {
        let told = exchange(sender, call).await;
        run.tell(began.elapsed(), &told)?;
        return run.finish(began.elapsed());
    }
    match sender.send(call).await {
        Ok(answer) => show(answer, call, began, run, out).await,
        Err(failed) => {
            if let Some(facts) = &failed.facts {
                facts.lines(failed.generation).iter().for_each(|line| output::stderr(line));
            }
            output::stderr(&format!("error: {}", failed.why));
            Ok(ExitCode::from(1))
        }
    }
}

async fn show(
    mut answer: Answer,
    call: &Call,
    began: Instant,
    run: &Run,
    mut out: Option<File>,
) -> anyhow::Result<ExitCode> {
    let (status, generation) = (answer.status, answer.generation);
    if let Some(facts) = &answer.facts {
        facts.lines(generation).iter().for_each(|line| output::stderr(line));
        output::stderr(&format!("> {} {}", call.method, error::safe(call.url.path())));
        output::stderr(&format!("< {:?} {status}", answer.version));
        for (name, value) in &answer.headers {
            output::stderr(&format!("< {name}: {}", error::safe(&String::from_utf8_lossy(value.as_bytes()))));
        }
    }
    let took = duration::latency(began.elapsed());
    if !run.output.is_json() {
        output::stderr(&format!("{:?} {status} generation {generation} in {took}", answer.version));
    }
    let status = loop {
        match answer.chunk().await {
            Ok(Some(chunk)) => match &mut out {
                Some(file) => file.write_all(&chunk).context("cannot write the body")?,
                None => run.output.raw(&chunk)?,
            },
            Ok(None) => break Ok(status),
            Err(why) => break Err(format!("the body was cut: {why}")),
        }
    };
    run.output.finish()?;
    if run.output.is_json() {
        let told = Told { status, generation, facts: answer.facts };
        run.tell(began.elapsed(), &told)?;
        return run.finish(began.elapsed());
    }
    match status {
        Ok(status) if is_good(status) => Ok(ExitCode::SUCCESS),
        Ok(_) => Ok(ExitCode::from(1)),
        Err(why) => {
            output::stderr(&format!("error: {why}"));
            Ok(ExitCode::from(1))
        }
    }
}

fn is_good(status: StatusCode) -> bool {
    !status.is_client_error() && !status.is_server_error()
}
