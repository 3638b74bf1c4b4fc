//! `certsource get`: requests by a client that follows its files: one, or many at a steady rate while they rotate.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use certsource_client::{Client, EventKind};
use reqwest::{Response, StatusCode, Url};
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::args::{Format, Material};
use crate::duration;
use crate::error;
use crate::latency::Latencies;
use crate::output::{self, Output};
use crate::pace::Pace;
use crate::signals::Ending;
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
}

#[derive(Serialize)]
struct Summary {
    requests: u64,
    failed: u64,
    reloads: u64,
    latency_us_p50: u64,
    latency_us_p99: u64,
    latency_us_max: u64,
    seconds: f64,
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start")?;
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
    let run = Arc::new(Run::new(&args));
    let told = Arc::downgrade(&run);
    let client = Client::builder()
        .files(files)
        .policy(args.material.policy())
        .timeout(args.timeout)
        // Told as results, so not logged too.
        .on_failure(|_| ())
        .on_event(move |event| {
            let Some(run) = told.upgrade().filter(|_| is_repeated) else { return };
            match &event.kind {
                EventKind::Reloaded(_) => drop(run.reloads.fetch_add(1, Ordering::Relaxed)),
                EventKind::Loaded(_) | EventKind::Retired(_) => return,
                _ => {}
            }
            run.keep(event::tell(&run.output, event));
        });
    let client = client.build().await?;
    if is_repeated {
        return repeat(&args, client, run, &mut ending).await;
    }
    tokio::select! {
        result = once(&args, &client, &run) => result,
        // Ended by somebody else: no answer, and no error of ours.
        () = ending.wait() => Ok(ExitCode::from(1)),
    }
}

/// What all workers share.
struct Run {
    output: Output,
    requests: AtomicU64,
    failed: AtomicU64,
    reloads: AtomicU64,
    latencies: Mutex<Latencies>,
    over: AtomicBool,
    /// Why results can be written no more; and somebody who waits for that.
    broken: Mutex<Option<anyhow::Error>>,
    is_broken: tokio::sync::Notify,
}

impl Run {
    fn new(args: &Args) -> Self {
        Self {
            output: Output::new(args.format),
            requests: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            reloads: AtomicU64::new(0),
            latencies: Mutex::default(),
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
    fn tell(
        &self,
        generation: u64,
        took: Duration,
        answer: &Result<StatusCode, String>,
    ) -> anyhow::Result<()> {
        let is_good = answer.as_ref().is_ok_and(|status| is_good(*status));
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.failed.fetch_add(u64::from(!is_good), Ordering::Relaxed);
        self.latencies.lock().unwrap_or_else(PoisonError::into_inner).add(took);
        let record = Request {
            status: answer.as_ref().ok().map(StatusCode::as_u16),
            error: answer.as_ref().err().map(String::as_str),
            generation,
            latency_us: micros(took),
        };
        event::line(&self.output, SystemTime::now(), "request", &record, || {
            let took = duration::latency(took);
            match answer {
                Ok(status) => {
                    let word = if is_good { "" } else { "FAILED " };
                    format!("{word}{status} generation {generation} in {took}")
                }
                Err(why) => format!("FAILED generation {generation} after {took}: {why}"),
            }
        })
    }

    fn finish(&self, took: Duration) -> anyhow::Result<ExitCode> {
        if let Some(error) = self.broken.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Err(error);
        }
        let latencies = self.latencies.lock().unwrap_or_else(PoisonError::into_inner);
        let (p50, p99) = (latencies.percentile(0.5), latencies.percentile(0.99));
        let summary = Summary {
            requests: self.requests.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            reloads: self.reloads.load(Ordering::Relaxed),
            latency_us_p50: micros(p50),
            latency_us_p99: micros(p99),
            latency_us_max: micros(latencies.max()),
            seconds: (took.as_secs_f64() * 1e3).round() / 1e3,
        };
        event::line(&self.output, SystemTime::now(), "summary", &summary, || {
            format!(
                "{} requests, {} failed, {} reloads in {:.1} s; latency p50 {}, p99 {}, at most {}",
                summary.requests,
                summary.failed,
                summary.reloads,
                took.as_secs_f64(),
                duration::latency(p50),
                duration::latency(p99),
                duration::latency(latencies.max()),
            )
        })?;
        Ok(if summary.failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) })
    }
}

async fn repeat(args: &Args, client: Client, run: Arc<Run>, ending: &mut Ending) -> anyhow::Result<ExitCode> {
    let began = Instant::now();
    let end = args.duration.map(|duration| began + duration);
    let pace = Arc::new(Pace::new(args.every.unwrap_or_default()));
    let left = Arc::new(AtomicU64::new(args.count.unwrap_or(u64::MAX)));
    let mut workers = JoinSet::new();
    for _ in 0..args.concurrency {
        let (client, url, run) = (client.clone(), args.url.clone(), Arc::clone(&run));
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
                let generation = client.generation().number();
                let began = Instant::now();
                let answer = exchange(&client, &url).await;
                run.keep(run.tell(generation, began.elapsed(), &answer));
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
    drop(client);
    run.finish(began.elapsed())
}

async fn exchange(client: &Client, url: &Url) -> Result<StatusCode, String> {
    let mut response = client.get(url.clone()).send().await.map_err(|error| error::chain(&error))?;
    while response.chunk().await.map_err(|error| error::chain(&error))?.is_some() {}
    Ok(response.status())
}

/// One request for people: the body as it is, to standard output. For scripts: as a `request` line and a summary.
async fn once(args: &Args, client: &Client, run: &Run) -> anyhow::Result<ExitCode> {
    let generation = client.generation().number();
    let began = Instant::now();
    if run.output.is_json() {
        let answer = exchange(client, &args.url).await;
        run.tell(generation, began.elapsed(), &answer)?;
        return run.finish(began.elapsed());
    }
    match client.get(args.url.clone()).send().await {
        Ok(response) => show(response, generation, began, &run.output).await,
        Err(failed) => {
            output::stderr(&format!("error: {}", error::chain(&failed)));
            Ok(ExitCode::from(1))
        }
    }
}

async fn show(
    mut response: Response,
    generation: u64,
    began: Instant,
    output: &Output,
) -> anyhow::Result<ExitCode> {
    let status = response.status();
    let head = format!(
        "{:?} {status} generation {generation} in {}",
        response.version(),
        duration::latency(began.elapsed())
    );
    output::stderr(&head);
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) => output.raw(&chunk)?,
            Ok(None) => break,
            Err(failed) => {
                output.finish()?;
                output::stderr(&format!("error: the body was cut: {}", error::chain(&failed)));
                return Ok(ExitCode::from(1));
            }
        }
    }
    output.finish()?;
    Ok(if is_good(status) { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn is_good(status: StatusCode) -> bool {
    !status.is_client_error() && !status.is_server_error()
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
