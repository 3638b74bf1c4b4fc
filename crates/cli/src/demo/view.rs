//! The live view of the demo: a few lines that are drawn again and again at the place where the demo was started.
//!
//! What is drawn is a pure function of a [`Frame`]; the terminal is only touched by [`View`].

use std::io::{self, Write};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossterm::cursor::{Hide, MoveToColumn, MoveUp, Show};
use crossterm::queue;
use crossterm::terminal::{self, Clear, ClearType};

use super::load::Tally;
use super::scene::{Frame, Kind, Scene, Window};
use crate::duration::latency;
use crate::output;

/// Below this there is no room for a view.
const LEAST: (u16, u16) = (50, 17);
const FRAME: Duration = Duration::from_millis(100);
/// Frames of the sparkline.
const HISTORY: usize = 600;
/// Rows of the time line for each kind of certificate.
const ROWS: usize = 2;

const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const RED: &str = "\x1b[31m";
const GREEN: &str = "\x1b[32m";
const CYAN: &str = "\x1b[36m";
const PLAIN: &str = "\x1b[0m";

/// Draws on a thread of its own, so that a busy runtime does not hold it up.
///
/// At its end it draws once more, and leaves that on the screen.
pub(super) struct View {
    over: Option<std::sync::mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl View {
    /// Begins to draw; `None` where there is no room.
    pub(super) fn start(detect: &str, scene: &Arc<Scene>, tally: &Arc<Tally>) -> Option<Self> {
        let (columns, lines) = terminal::size().ok()?;
        if columns < LEAST.0 || lines < LEAST.1 {
            return None;
        }
        let (scene, tally, detect) = (Arc::clone(scene), Arc::clone(tally), detect.to_owned());
        let (over, is_over) = std::sync::mpsc::channel::<()>();
        let thread = thread::Builder::new().name("certsource-view".into()).spawn(move || {
            let mut screen = Screen::new();
            let mut rates = Rates::default();
            loop {
                let is_last =
                    !matches!(is_over.recv_timeout(FRAME), Err(std::sync::mpsc::RecvTimeoutError::Timeout));
                let frame = scene.frame(&tally);
                rates.add(&frame);
                // A terminal that is gone is noticed by whoever writes results to it.
                if screen.draw(&detect, &frame, &rates).is_err() || is_last {
                    return;
                }
            }
        });
        thread.ok().map(|thread| Self { over: Some(over), thread: Some(thread) })
    }
}

impl Drop for View {
    fn drop(&mut self) {
        drop(self.over.take());
        if let Some(thread) = self.thread.take() {
            // It does not panic; and if it did, there would be nothing to save.
            let _ = thread.join();
        }
    }
}

/// Requests in each of the last frames.
#[derive(Default)]
struct Rates {
    counts: std::collections::VecDeque<(f64, u64)>,
}

impl Rates {
    fn add(&mut self, frame: &Frame) {
        self.counts.push_back((frame.seconds, frame.requests));
        if self.counts.len() > HISTORY {
            self.counts.pop_front();
        }
    }

    /// Requests a second over the last second.
    fn now(&self) -> f64 {
        let Some(&(end, requests)) = self.counts.back() else { return 0.0 };
        let from = self.counts.iter().rev().find(|(at, _)| end - at >= 1.0).or(self.counts.front());
        match from {
            Some(&(begin, before)) if end > begin => (requests - before) as f64 / (end - begin),
            _ => 0.0,
        }
    }

    /// Requests in each of the last `length` frames, as bars.
    fn spark(&self, length: usize) -> String {
        const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
        let counts: Vec<u64> = self
            .counts
            .iter()
            .zip(self.counts.iter().skip(1))
            .map(|(a, b)| b.1.saturating_sub(a.1))
            .collect();
        let shown = &counts[counts.len().saturating_sub(length)..];
        let most = shown.iter().copied().max().unwrap_or(0).max(1);
        shown.iter().map(|count| BARS[(count * 7 / most) as usize]).collect()
    }
}

/// The lines on the terminal.
struct Screen {
    drawn: u16,
    colour: bool,
}

impl Screen {
    fn new() -> Self {
        // If the terminal is gone, `draw` says so.
        let _ = queue!(io::stdout(), Hide);
        Self { drawn: 0, colour: output::is_colourful() }
    }

    fn draw(&mut self, detect: &str, frame: &Frame, rates: &Rates) -> io::Result<()> {
        let (columns, lines) = terminal::size().unwrap_or(LEAST);
        // Room for the cursor's own line, and for a terminal that lies about its last column.
        let width = usize::from(columns.saturating_sub(1));
        let mut rows = rows(detect, frame, rates, width);
        rows.truncate(usize::from(lines.saturating_sub(1)));
        let mut bytes = Vec::with_capacity(4096);
        if self.drawn > 0 {
            queue!(bytes, MoveUp(self.drawn))?;
        }
        queue!(bytes, MoveToColumn(0), Clear(ClearType::FromCursorDown))?;
        for row in &rows {
            row.write(&mut bytes, self.colour);
            bytes.extend_from_slice(b"\r\n");
        }
        self.drawn = u16::try_from(rows.len()).unwrap_or(0);
        let mut stdout = io::stdout().lock();
        stdout.write_all(&bytes)?;
        stdout.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let mut stdout = io::stdout();
        let _ = queue!(stdout, Show);
        let _ = stdout.flush();
    }
}

/// A row: pieces of text, each in its colour.
#[derive(Default)]
struct Row(Vec<(&'static str, String)>);

impl Row {
    fn of(text: impl Into<String>) -> Self {
        Self::default().and(PLAIN, text)
    }

    fn and(mut self, colour: &'static str, text: impl Into<String>) -> Self {
        self.0.push((colour, text.into()));
        self
    }

    /// Cuts it to a width.
    fn cut(mut self, width: usize) -> Self {
        let mut left = width;
        for (_, text) in &mut self.0 {
            let length = text.chars().count();
            if length > left {
                *text = text.chars().take(left).collect();
            }
            left = left.saturating_sub(length);
        }
        self
    }

    fn write(&self, bytes: &mut Vec<u8>, colour: bool) {
        for (code, text) in &self.0 {
            if colour && *code != PLAIN {
                bytes.extend_from_slice(code.as_bytes());
                bytes.extend_from_slice(text.as_bytes());
                bytes.extend_from_slice(PLAIN.as_bytes());
            } else {
                bytes.extend_from_slice(text.as_bytes());
            }
        }
    }
}

fn rows(detect: &str, frame: &Frame, rates: &Rates, width: usize) -> Vec<Row> {
    let field = |name: &str| Row::of(format!("  {name:<12}"));
    let failed = if frame.failed == 0 { GREEN } else { RED };
    let refused = if frame.unproven == 0 { GREEN } else { RED };
    let mut rows = vec![
        Row::default()
            .and(BOLD, "certsource demo")
            .and(PLAIN, format!("   everything rotates, no request may fail   {:5.1} s", frame.seconds))
            .and(DIM, format!("   detect: {detect}   Ctrl-C ends it")),
        Row::default(),
        field("requests")
            .and(BOLD, format!("{:<9}", frame.requests))
            .and(failed, format!("{} failed", frame.failed))
            .and(PLAIN, format!("   {:.0}/s   {} in flight", rates.now(), frame.in_flight)),
        field("latency").and(
            PLAIN,
            format!(
                "p50 {:<9} p99 {:<9} at most {}",
                latency(frame.p50),
                latency(frame.p99),
                latency(frame.worst)
            ),
        ),
        field("rotations")
            .and(BOLD, format!("{} of {}", frame.rotation, frame.rotations))
            .and(PLAIN, format!("   {}", frame.step.unwrap_or("warming up"))),
        field("adopted")
            .and(PLAIN, format!("in {:<9} at most {}", latency(frame.adopted), latency(frame.adopted_worst))),
        field("generation").and(
            PLAIN,
            format!(
                "client {:<5} server {:<5} handshakes: {} full, {} resumed, {} refused",
                frame.client_generation, frame.server_generation, frame.full, frame.resumed, frame.refused
            ),
        ),
        field("withdrawn CA")
            .and(refused, format!(" refused {} of {}", frame.proven, frame.proven + frame.unproven))
            .and(DIM, "   as server, as identity, with a session ticket"),
        Row::default(),
    ];
    rows.extend(time_line(frame, width));
    rows.push(Row::default());
    rows.push(field("requests").and(CYAN, rates.spark(width.saturating_sub(16))));
    rows.into_iter().map(|row| row.cut(width)).collect()
}

/// The width of a row's name on the time line.
const NAME: usize = 14;

/// When each certificate is in use (`━`), and when it would be valid by its dates alone (`┄`).
fn time_line(frame: &Frame, width: usize) -> Vec<Row> {
    let bar = width.saturating_sub(NAME + 1).max(10);
    // So that the last two rotations are in it. A quarter of the picture is the future.
    let past = (frame.period * 2.5).max(2.0);
    let (from, until) = (frame.seconds - past, frame.seconds + past / 3.0);
    let at = |column: usize| from + (until - from) * (column as f64 + 0.5) / bar as f64;
    let now = bar * 3 / 4;
    let mut rows = vec![
        Row::of(format!("{:<NAME$}", "  time line"))
            .and(DIM, format!("{:<now$}", format!("the last {past:.0} s")))
            .and(PLAIN, "now"),
    ];
    for kind in Kind::ALL {
        let windows: Vec<&Window> = frame.windows.iter().filter(|window| window.kind == kind).collect();
        for row in 0..ROWS {
            let Some(window) = (windows.len() + row).checked_sub(ROWS).and_then(|at| windows.get(at)) else {
                rows.push(Row::default());
                continue;
            };
            let name = format!("  {} {}", kind.name(), window.era);
            let mut line = Row::of(format!("{name:<NAME$}"));
            let mut piece = (PLAIN, String::new());
            for column in 0..bar {
                let (colour, sign) = sign(window, at(column), frame.seconds);
                let (colour, sign) = if column == now && sign == ' ' { (DIM, '│') } else { (colour, sign) };
                if colour != piece.0 {
                    line = line.and(piece.0, std::mem::take(&mut piece.1));
                    piece.0 = colour;
                }
                piece.1.push(sign);
            }
            rows.push(line.and(piece.0, piece.1));
        }
    }
    rows.push(
        Row::of(format!("{:<NAME$}", ""))
            .and(GREEN, "━━")
            .and(DIM, " in use   ")
            .and(DIM, "┄┄ still to come   ")
            .and(RED, "┄┄")
            .and(DIM, " withdrawn: valid by its dates, and refused"),
    );
    rows
}

fn sign(window: &Window, at: f64, now: f64) -> (&'static str, char) {
    let (used_from, used_until) = window.used;
    let is_valid = window.valid.0 <= at && at <= window.valid.1;
    match used_until {
        _ if !is_valid || at < used_from => (PLAIN, ' '),
        Some(until) if at >= until => (RED, '┄'),
        _ if at > now => (DIM, '┄'),
        _ if window.kind == Kind::Ca => (GREEN, '━'),
        _ => (CYAN, '━'),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame() -> Frame {
        let window = |kind, era, from, until| Window { kind, era, valid: (0.0, 100.0), used: (from, until) };
        Frame {
            seconds: 9.0,
            rotation: 2,
            rotations: 20,
            period: 4.0,
            requests: 1000,
            windows: vec![
                window(Kind::Ca, 1, 0.0, Some(6.0)),
                window(Kind::Ca, 2, 3.0, None),
                window(Kind::Server, 2, 4.0, None),
                window(Kind::Client, 2, 4.0, None),
            ],
            ..Frame::default()
        }
    }

    fn text(row: &Row) -> String {
        row.0.iter().map(|(_, text)| text.as_str()).collect()
    }

    #[test]
    fn every_row_fits() {
        for width in [50, 79, 200] {
            for row in rows("notify", &frame(), &Rates::default(), width) {
                assert!(text(&row).chars().count() <= width, "{}", text(&row));
            }
        }
    }

    #[test]
    fn the_time_line_shows_use_and_withdrawal() {
        let rows = time_line(&frame(), 80);
        let old = text(&rows[1]);
        let new = text(&rows[2]);
        assert!(old.starts_with("  CA 1") && new.starts_with("  CA 2"), "{old}\n{new}");
        // The old CA: in use, then withdrawn, though its dates go on.
        let last_use = old.rfind('━').unwrap();
        assert!(old[last_use..].contains('┄') && old.trim_end().ends_with('┄'));
        // The overlap: both in use at some column.
        let both = old.chars().zip(new.chars()).any(|(old, new)| old == '━' && new == '━');
        assert!(both, "{old}\n{new}");
    }

    #[test]
    fn rates_are_of_the_last_second() {
        let mut rates = Rates::default();
        for tenth in 0..30 {
            rates.add(&Frame {
                seconds: f64::from(tenth) / 10.0,
                requests: tenth as u64 * 50,
                ..Frame::default()
            });
        }
        assert!((rates.now() - 500.0).abs() < 60.0, "{}", rates.now());
        assert_eq!(rates.spark(10).chars().count(), 10);
    }
}
