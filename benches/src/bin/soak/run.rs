//! The run: what is started, sampled and reported.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use certsource_bench::server::Http;
use certsource_client::Retire;
use certsource_testkit::{AgentFiles, Ca, KubeletDir, Method, PlainDir, TestDir};
use clap::Parser;

use crate::churn;
use crate::dice::Dice;
use crate::place::Place;
use crate::record::{Record, Samples};
use crate::rest::Course;
use crate::unit::{Style, Unit};

/// Runs clients, writers and faults for a while and tells what grew.
#[derive(Debug, Parser)]
#[command(name = "certsource-soak")]
struct Arguments {
    /// How long
    #[arg(long, default_value_t = 60.0)]
    minutes: f64,
    /// A directory on a disk of a few hundred KiB, to fill it
    #[arg(long, value_name = "DIR")]
    small_disk: Option<PathBuf>,
    /// Request loops of each client
    #[arg(long, default_value_t = 2)]
    loops: usize,
    /// Milliseconds that a loop rests after each request
    #[arg(long, default_value_t = 20)]
    pause: u64,
    /// The seed of what happens when
    #[arg(long)]
    seed: Option<u64>,
}

/// So many times everything stops, to see what is held.
const RESTS: u32 = 10;

pub(crate) fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    match runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(soak(&arguments))) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("certsource-soak: {error}");
            ExitCode::from(2)
        }
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn soak(arguments: &Arguments) -> Result<bool, Failure> {
    let seed = arguments.seed.unwrap_or_else(|| u64::from(std::process::id()));
    let (record, course) = (Arc::new(Record::default()), Arc::new(Course::default()));
    let mut dice = Dice::new(seed);
    let mut writers = Vec::new();
    let mut loads = Vec::new();
    for (name, style, make) in plan(arguments) {
        let ca = Ca::new(name);
        let identity = ca.issue("client");
        let place = make(&identity)?;
        let dice = Dice::new(dice.below(u64::MAX));
        let unit = Unit::new(name, place, (ca, identity), style, &record, &course, dice).await?;
        loads.extend(unit.load(arguments.loops, Duration::from_millis(arguments.pause)));
        writers.push(std::thread::Builder::new().name(name.to_owned()).spawn(move || unit.run())?);
    }
    if arguments.small_disk.is_none() {
        record.skip(crate::place::Fault::DiskFull.name(), &"no small disk was given");
    }
    let churn = tokio::spawn(churn::run(Arc::clone(&record), Arc::clone(&course)));
    let (start, time) = (Instant::now(), Duration::from_secs_f64(arguments.minutes * 60.0));
    let mut samples = Samples::default();
    let every = (time / 400).clamp(Duration::from_millis(200), Duration::from_secs(10));
    let (mut told, mut rests) = (0, 1);
    while start.elapsed() < time {
        tokio::time::sleep(every).await;
        let requests = record.requests.load(Ordering::Relaxed);
        samples.push(start.elapsed(), requests);
        // The first after a while, the last near the end.
        if start.elapsed() >= time.mul_f64(f64::from(rests) / f64::from(RESTS) - 0.02) {
            rests += 1;
            match course.rest().await {
                Ok(held) => samples.push_rest(start.elapsed(), held),
                Err(problem) => record.problem(problem),
            }
        }
        let minute = start.elapsed().as_secs() / 60;
        if minute > told {
            told = minute;
            eprintln!("minute {minute}: {requests} requests, {} problems", record.problems().len());
        }
    }
    course.end();
    for load in loads {
        load.await?;
    }
    churn.await?;
    let ended =
        tokio::task::spawn_blocking(move || writers.into_iter().all(|writer| writer.join().is_ok())).await?;
    if !ended {
        record.problem("a writer panicked".to_owned());
    }
    let grown = samples.growth();
    let problems = record.problems();
    let is_good = grown.is_empty() && problems.is_empty();
    println!("{}", report(arguments, seed, &record, &samples, &grown, &problems));
    Ok(is_good)
}

type Make = Box<dyn FnOnce(&certsource_testkit::Issued) -> std::io::Result<Place>>;

/// Each writer with another detector, protocol and way to retire.
fn plan(arguments: &Arguments) -> Vec<(&'static str, Style, Make)> {
    let style = |detect, http, retire| Style { detect, http, retire };
    let mut plan: Vec<(&'static str, Style, Make)> = vec![
        (
            "kubelet",
            style("notify", Http::Two, Retire::Strict),
            Box::new(|first| Ok(Place::Kubelet(KubeletDir::new(first)?))),
        ),
        ("certbot", style("mtime", Http::One, Retire::Strict), Box::new(Place::certbot)),
        (
            "agent",
            style("notify", Http::One, Retire::Lazy),
            Box::new(|first| Ok(Place::Agent(AgentFiles::new(first)?))),
        ),
        (
            "in place",
            style("sha256", Http::Two, Retire::Strict),
            Box::new(|first| Ok(Place::Plain(PlainDir::new(Method::InPlace, first)?))),
        ),
        (
            "remove and create",
            style("mtime", Http::Two, Retire::Lazy),
            Box::new(|first| Ok(Place::Plain(PlainDir::new(Method::UnlinkCreate, first)?))),
        ),
    ];
    if let Some(disk) = arguments.small_disk.clone() {
        let make = move |first: &certsource_testkit::Issued| {
            let dir = TestDir::at(disk.join("tls"))?;
            dir.write_issued(first)?;
            Ok(Place::Small(dir))
        };
        plan.push(("a small disk", style("notify", Http::One, Retire::Strict), Box::new(make)));
    }
    plan
}

fn report(
    arguments: &Arguments,
    seed: u64,
    record: &Record,
    samples: &Samples,
    grown: &[String],
    problems: &[String],
) -> String {
    let verdict = if grown.is_empty() && problems.is_empty() {
        String::from(
            "No request failed, nothing broken was published, and every rotation was adopted. At rest, no more descriptors,\n\
             threads or watches were held. Memory did not grow by more than 5 % and 1 MiB from the second fifth of the run to\n\
             the last.",
        )
    } else {
        let mut all: Vec<String> = grown.iter().map(|what| format!("- grew: {what}")).collect();
        all.extend(problems.iter().take(50).map(|problem| format!("- {problem}")));
        all.join("\n")
    };
    format!(
        "{verdict}\n\n{} minutes, seed {seed}, {} request loops for each client.\n\n## Counts\n\n{}\n## What the process held\n\n{}",
        arguments.minutes,
        arguments.loops,
        record.to_markdown(),
        samples.to_markdown()
    )
}
