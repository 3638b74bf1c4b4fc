//! How the demo is told: live in a terminal, as lines where there is none, or as JSON.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::Args;
use super::load::Tally;
use super::proof::Refused;
use super::scene::{Frame, Scene};
use super::view::View;
use crate::args::Detect;
use crate::duration::latency;
use crate::error;
use crate::output::Output;

/// One rotation that is over.
pub(super) struct Rotation {
    pub(super) rotation: usize,
    /// The CA that was withdrawn.
    pub(super) withdrawn: usize,
    /// The slowest side in the slowest step.
    pub(super) adopted: Duration,
    /// Whether a request went through with everything new.
    pub(super) seen: bool,
    pub(super) refused: Refused,
    pub(super) problems: Vec<String>,
    pub(super) client_generation: u64,
    pub(super) server_generation: u64,
}

#[derive(Serialize)]
struct RotationLine<'a> {
    rotation: usize,
    rotations: usize,
    client_generation: u64,
    server_generation: u64,
    adopted_ms: f64,
    requests: u64,
    failed: u64,
    seen: bool,
    withdrawn_ca_refused: bool,
    refused: Refused,
    problems: &'a [String],
}

#[derive(Serialize)]
struct FailedLine<'a> {
    error: &'a str,
}

#[derive(Serialize)]
struct Summary {
    requests: u64,
    failed: u64,
    rotations: usize,
    rotations_asked: usize,
    rotations_seen: usize,
    withdrawn_ca_refused: bool,
    client_generation: u64,
    server_generation: u64,
    adopted_ms_max: f64,
    latency_us_p50: u64,
    latency_us_p99: u64,
    latency_us_max: u64,
    handshakes_full: u64,
    handshakes_resumed: u64,
    handshakes_refused: u64,
    seconds: f64,
    detect: String,
    /// What an operator should see to: with `notify`, that changes were found by polling is a failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    degraded: Option<String>,
    concurrency: u16,
    rate: f64,
    message: Option<String>,
}

/// Tells the demo.
pub(super) struct Show {
    output: Output,
    scene: Arc<Scene>,
    tally: Arc<Tally>,
    view: Mutex<Option<View>>,
    asked: Asked,
    done: AtomicUsize,
    seen: AtomicUsize,
    refused: AtomicUsize,
}

struct Asked {
    rotations: usize,
    needs_events: bool,
    detect: String,
    concurrency: u16,
    rate: f64,
}

impl Show {
    pub(super) fn new(args: &Args, scene: &Arc<Scene>, tally: &Arc<Tally>) -> anyhow::Result<Self> {
        let output = Output::new(args.format);
        let detect = clap::ValueEnum::to_possible_value(&args.detect)
            .map_or_else(String::new, |value| value.get_name().to_owned());
        let asked = Asked {
            rotations: args.rotations as usize,
            needs_events: args.detect == Detect::Notify,
            detect,
            concurrency: args.concurrency,
            rate: args.rate,
        };
        let view = if !output.is_json() && std::io::stdout().is_terminal() {
            View::start(&asked.detect, scene, tally)
        } else {
            None
        };
        if view.is_none() && !output.is_json() {
            output.text(&format!(
                "{} rotations of CA, server and client certificates; changes are noticed by {}; {} at a time",
                asked.rotations,
                asked.detect,
                if asked.rate > 0.0 {
                    format!("{} requests a second, {}", asked.rate, asked.concurrency)
                } else {
                    format!("as many requests as go through, {}", asked.concurrency)
                },
            ))?;
        }
        Ok(Self {
            output,
            scene: Arc::clone(scene),
            tally: Arc::clone(tally),
            view: Mutex::new(view),
            asked,
            done: AtomicUsize::new(0),
            seen: AtomicUsize::new(0),
            refused: AtomicUsize::new(0),
        })
    }

    fn is_live(&self) -> bool {
        self.view.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Tells a rotation.
    pub(super) fn rotation(&self, rotation: &Rotation) -> anyhow::Result<()> {
        self.done.fetch_add(1, Ordering::Relaxed);
        self.seen.fetch_add(rotation.seen.into(), Ordering::Relaxed);
        self.refused.fetch_add(rotation.refused.all().into(), Ordering::Relaxed);
        if self.is_live() {
            return Ok(());
        }
        self.failures()?;
        let frame = self.scene.frame(&self.tally);
        if self.output.is_json() {
            let line = RotationLine {
                rotation: rotation.rotation,
                rotations: self.asked.rotations,
                client_generation: rotation.client_generation,
                server_generation: rotation.server_generation,
                adopted_ms: millis(rotation.adopted),
                requests: frame.requests,
                failed: frame.failed,
                seen: rotation.seen,
                withdrawn_ca_refused: rotation.refused.all(),
                refused: rotation.refused,
                problems: &rotation.problems,
            };
            return self.output.json(SystemTime::now(), "rotation", &line);
        }
        let withdrawn = rotation.withdrawn;
        let mut line = format!(
            "rotation {}/{}: CA {} in place of CA {withdrawn}, adopted within {}; {} requests, {} failed; ",
            rotation.rotation,
            self.asked.rotations,
            withdrawn + 1,
            latency(rotation.adopted),
            frame.requests,
            frame.failed,
        );
        line.push_str(if rotation.seen { "seen by the client; " } else { "NOT SEEN by the client; " });
        if rotation.problems.is_empty() {
            line.push_str(&format!("CA {withdrawn} is refused"));
        } else {
            line.push_str(&format!("CA {withdrawn} IS NOT REFUSED: {}", rotation.problems.join("; ")));
        }
        self.output.text(&line)
    }

    /// Tells why requests failed, each for itself.
    fn failures(&self) -> anyhow::Result<()> {
        for why in self.tally.take_failures() {
            if self.output.is_json() {
                self.output.json(SystemTime::now(), "request_failed", &FailedLine { error: &why })?;
            } else {
                self.output.text(&format!("request failed: {why}"))?;
            }
        }
        Ok(())
    }

    /// Tells how it ended.
    pub(super) fn finish(&self, ended: Option<&anyhow::Error>) -> anyhow::Result<ExitCode> {
        drop(self.view.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.failures()?;
        let frame = self.scene.frame(&self.tally);
        let load = |count: &AtomicUsize| count.load(Ordering::Relaxed);
        let (done, seen, refused) = (load(&self.done), load(&self.seen), load(&self.refused));
        let withdrawn_ca_refused = done > 0 && refused == done;
        let degraded = self.scene.degraded();
        // Events were asked for by name: polling in their place proves nothing about them.
        let is_as_asked = !self.asked.needs_events || self.scene.is_watching();
        let is_good = ended.is_none()
            && is_as_asked
            && frame.requests > 0
            && frame.failed == 0
            && done == self.asked.rotations
            && seen == done
            && withdrawn_ca_refused;
        let message = ended.map(error::one_line);
        let is_clean = frame.failed == 0 && seen == done && refused == done;
        let verdict = match &message {
            None if is_good => String::from("ok"),
            Some(message) if is_clean => format!("NOT FINISHED, {message}"),
            Some(message) => format!("FAILED, {message}"),
            None => String::from("FAILED"),
        };
        if self.output.is_json() {
            let summary = Summary {
                requests: frame.requests,
                failed: frame.failed,
                rotations: done,
                rotations_asked: self.asked.rotations,
                rotations_seen: seen,
                withdrawn_ca_refused,
                client_generation: frame.client_generation,
                server_generation: frame.server_generation,
                adopted_ms_max: millis(frame.adopted_worst),
                latency_us_p50: micros(frame.p50),
                latency_us_p99: micros(frame.p99),
                latency_us_max: micros(frame.worst),
                handshakes_full: frame.full,
                handshakes_resumed: frame.resumed,
                handshakes_refused: frame.refused,
                seconds: (frame.seconds * 1e3).round() / 1e3,
                detect: self.asked.detect.clone(),
                degraded,
                concurrency: self.asked.concurrency,
                rate: self.asked.rate,
                message,
            };
            self.output.json(SystemTime::now(), "summary", &summary)?;
        } else {
            for line in in_words(&frame, &verdict, done, seen, refused) {
                self.output.text(&line)?;
            }
            if let Some(why) = degraded {
                self.output.text(&format!("degraded: {}", error::safe(&why)))?;
            }
        }
        Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::from(1) })
    }
}

fn in_words(frame: &Frame, verdict: &str, done: usize, seen: usize, refused: usize) -> [String; 2] {
    [
        format!(
            "{verdict}: {} requests, {} failed; {seen} of {done} rotations seen by the client; withdrawn CA refused \
             {refused} of {done} times",
            frame.requests, frame.failed
        ),
        format!(
            "{:.1} s; latency p50 {}, p99 {}, at most {}; a step was adopted within {}",
            frame.seconds,
            latency(frame.p50),
            latency(frame.p99),
            latency(frame.worst),
            latency(frame.adopted_worst)
        ),
    ]
}

fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
