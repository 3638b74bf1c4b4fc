//! The time line of `inspect`: every validity window as a bar, with now, the time to renew, and where the windows of two
//! CAs overlap.
//!
//! Leaves, CAs and CRLs live for very different times, so each kind has a scale of its own.

use std::time::{Duration, SystemTime};

use certsource::clock::Utc;

use super::Shown;
use crate::duration;
use crate::scan::{File, What};

/// Width of the names on the left.
const NAME: usize = 28;
/// Width of the words on the right.
const WORDS: usize = 36;
/// A bar is at least this wide, however narrow the terminal.
const LEAST: usize = 24;
/// Of more windows than this the first to end are drawn.
const MOST: usize = 60;
/// Among more CAs than this, those of a public bundle, an overlap means nothing.
const ROTATING: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Group {
    Leaf,
    Ca,
    Crl,
}

#[derive(Clone, Debug)]
struct Window {
    group: Group,
    role: &'static str,
    who: String,
    from: SystemTime,
    until: SystemTime,
    /// Two of the same place or of the same name may be the old and the new one of a rotation.
    place: String,
    id: String,
}

/// Windows that wait to be drawn together.
pub(super) struct TimeLine {
    now: SystemTime,
    windows: Vec<Window>,
}

impl TimeLine {
    pub(super) fn new(now: SystemTime) -> Self {
        Self { now, windows: Vec::new() }
    }

    /// Adds what is in a file; the same certificate twice is one window.
    pub(super) fn add(&mut self, file: &File, all: bool) {
        let shown = Shown::of(file, all);
        for item in &file.items {
            let window = match &item.what {
                What::Certificate(found) if shown.shows(found) => {
                    let inspection = &found.inspection;
                    let who = match (inspection.subject(), inspection.sans().first()) {
                        ("", Some(name)) => name.to_string(),
                        ("", None) => String::from("(no subject)"),
                        (subject, _) => subject.to_owned(),
                    };
                    Window {
                        group: if inspection.is_ca() { Group::Ca } else { Group::Leaf },
                        role: found.role(),
                        who,
                        from: inspection.not_before(),
                        until: inspection.not_after(),
                        place: file.path.to_string_lossy().into_owned(),
                        id: inspection.fingerprint().to_string(),
                    }
                }
                What::Crl(found) => {
                    let Some(until) = found.inspection.next_update() else { continue };
                    Window {
                        group: Group::Crl,
                        role: "crl",
                        who: found.inspection.issuer().to_owned(),
                        from: found.inspection.this_update(),
                        until,
                        place: String::new(),
                        id: certsource::Fingerprint::of(&found.der).to_string(),
                    }
                }
                _ => continue,
            };
            if self.windows.iter().rev().take(MOST).all(|known| known.id != window.id) {
                self.windows.push(window);
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.windows.len()
    }

    /// The drawing, line by line, so wide at the most.
    pub(super) fn draw(&self, width: usize, colourful: bool) -> Vec<String> {
        let mut lines = Vec::new();
        for group in [Group::Leaf, Group::Ca, Group::Crl] {
            let mut windows: Vec<_> = self.windows.iter().filter(|window| window.group == group).collect();
            if windows.is_empty() {
                continue;
            }
            windows.sort_by_key(|window| window.until);
            let left_out = windows.len().saturating_sub(MOST);
            windows.truncate(MOST);
            windows.sort_by_key(|window| (window.from, window.until));
            lines.push(String::new());
            Chart::of(&windows, self.now, width, colourful).draw(&windows, &mut lines);
            if left_out > 0 {
                lines.push(format!("{left_out} more that end later"));
            }
        }
        if !lines.is_empty() {
            let signs = ["┣━┫ valid", "◆ renew at two thirds", "│ now", "░ two CAs valid: room to rotate"];
            let one = signs.join("   ");
            if one.chars().count() <= width { lines.push(one) } else { lines.extend(signs.map(String::from)) }
        }
        lines
    }
}

/// One scale.
struct Chart {
    now: SystemTime,
    begin: SystemTime,
    span: f64,
    columns: usize,
    colourful: bool,
    /// On a terminal that has no room for name, bar and words side by side, the bar is below the others.
    stacked: bool,
}

impl Chart {
    fn of(windows: &[&Window], now: SystemTime, width: usize, colourful: bool) -> Self {
        let begin = windows.iter().map(|window| window.from).min().unwrap_or(now).min(now);
        let end = windows.iter().map(|window| window.until).max().unwrap_or(now).max(now);
        let span = end.duration_since(begin).unwrap_or_default().as_secs_f64().max(1.0);
        let beside = width.saturating_sub(NAME + WORDS + 4);
        let stacked = beside < LEAST;
        let columns = if stacked { width.saturating_sub(2).max(LEAST) } else { beside };
        Self { now, begin, span, columns, colourful, stacked }
    }

    fn column(&self, at: SystemTime) -> usize {
        let share = at.duration_since(self.begin).unwrap_or_default().as_secs_f64() / self.span;
        ((share * (self.columns - 1) as f64).round() as usize).min(self.columns - 1)
    }

    fn draw(&self, windows: &[&Window], lines: &mut Vec<String>) {
        let end = self.begin + Duration::from_secs_f64(self.span);
        let (mut first, mut last) = (minute(self.begin), minute(end));
        if first.len() + last.len() >= self.columns {
            // The days alone.
            first.truncate(10);
            last.truncate(10);
        }
        let gap = self.columns.saturating_sub(first.len() + last.len());
        lines.push(format!("{}{first}{}{last}", self.margin(), " ".repeat(gap)));
        let authorities = windows.iter().filter(|window| window.group == Group::Ca).count();
        for (at, window) in windows.iter().enumerate() {
            lines.extend(self.row(
                &format!("{} {}", window.role, window.who),
                self.bar(window),
                &self.words(window),
            ));
            let Some(next) = windows.get(at + 1).filter(|_| authorities <= ROTATING) else { continue };
            if window.group == Group::Ca && (window.place == next.place || window.who == next.who) {
                lines.extend(self.between(window, next));
            }
        }
        let now = self.column(self.now);
        let label =
            if now + 4 > self.columns { format!("{:>1$}", "now", now + 1) } else { " ".repeat(now) + "now" };
        lines.push(format!("{}{label}", self.margin()).trim_end().to_owned());
    }

    /// What is left of a bar.
    fn margin(&self) -> String {
        if self.stacked { String::from("  ") } else { format!("{:NAME$}  ", "") }
    }

    /// What lies between an older and a newer CA.
    fn between(&self, older: &Window, newer: &Window) -> Vec<String> {
        let mut cells = self.empty();
        let (from, until) = (newer.from, older.until.min(newer.until));
        match until.duration_since(from) {
            Ok(overlap) if !overlap.is_zero() => {
                for cell in &mut cells[self.column(from)..=self.column(until)] {
                    *cell = '░';
                }
                self.mark_now(&mut cells);
                let words = match until.duration_since(self.now) {
                    Ok(left) if from <= self.now => format!("both valid, {} left", duration::rough(left)),
                    Ok(_) => format!("both valid for {}", duration::rough(overlap)),
                    Err(_) => format!("were both valid for {}", duration::rough(overlap)),
                };
                self.row("  overlap", cells, &words)
            }
            _ => {
                self.mark_now(&mut cells);
                let gap = from.duration_since(until).unwrap_or_default();
                self.row("  overlap", cells, &format!("NONE: {} between them", duration::rough(gap)))
            }
        }
    }

    fn empty(&self) -> Vec<char> {
        vec![' '; self.columns]
    }

    fn mark_now(&self, cells: &mut [char]) {
        let cell = &mut cells[self.column(self.now)];
        *cell = match *cell {
            '━' => '┿',
            ' ' | '░' => '│',
            other => other,
        };
    }

    fn bar(&self, window: &Window) -> Vec<char> {
        let mut cells = self.empty();
        let (from, until) = (self.column(window.from), self.column(window.until));
        for cell in &mut cells[from..=until] {
            *cell = '━';
        }
        if let Some(renew) = renewal(window) {
            let renew = self.column(renew);
            if renew > from && renew < until {
                cells[renew] = '◆';
            }
        }
        if from == until {
            cells[from] = '┃';
        } else {
            cells[from] = '┣';
            cells[until] = '┫';
        }
        self.mark_now(&mut cells);
        cells
    }

    fn words(&self, window: &Window) -> String {
        let now = self.now;
        if let Ok(ahead) = window.from.duration_since(now) {
            if !ahead.is_zero() {
                return format!("valid in {}", duration::rough(ahead));
            }
        }
        let Ok(left) = window.until.duration_since(now) else {
            let over = now.duration_since(window.until).unwrap_or_default();
            return format!("EXPIRED {} ago", duration::rough(over));
        };
        let left = duration::rough(left);
        match renewal(window).map(|renew| (renew.duration_since(now), now.duration_since(renew))) {
            Some((Ok(ahead), _)) => format!("{left} left, renew in {}", duration::rough(ahead)),
            Some((_, Ok(due))) => format!("{left} left, renewal due {} ago", duration::rough(due)),
            _ => format!("{left} left"),
        }
    }

    fn row(&self, name: &str, cells: Vec<char>, words: &str) -> Vec<String> {
        let room =
            if self.stacked { (self.columns + 2).saturating_sub(words.chars().count() + 2) } else { NAME };
        let mut shown: String = name.chars().take(room).collect();
        if name.chars().count() >= room {
            shown.pop();
            shown.push('…');
        }
        let colour = if words.contains("EXPIRED") || words.contains("NONE") {
            "\x1b[31m"
        } else if words.contains("due") {
            "\x1b[33m"
        } else {
            ""
        };
        let bar: String = cells.into_iter().collect();
        let words = match colour {
            colour if self.colourful && !colour.is_empty() => format!("{colour}{words}\x1b[0m"),
            _ => words.to_owned(),
        };
        let lines = if self.stacked {
            vec![format!("{shown}  {words}"), format!("  {bar}")]
        } else {
            vec![format!("{shown:NAME$}  {bar}  {words}")]
        };
        lines.iter().map(|line| line.trim_end().to_owned()).collect()
    }
}

/// When issuers and their tools renew: after two thirds of a leaf's life (cert-manager's and certbot's default).
fn renewal(window: &Window) -> Option<SystemTime> {
    let whole = window.until.duration_since(window.from).ok()?;
    (window.group == Group::Leaf).then(|| window.from + whole * 2 / 3)
}

/// To the minute: lives may be short.
fn minute(at: SystemTime) -> String {
    let text = Utc(at).to_string();
    text.get(..16).unwrap_or(&text).replace('T', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn window(group: Group, who: &str, from: u32, until: u32) -> Window {
        let epoch = SystemTime::UNIX_EPOCH;
        Window {
            group,
            role: if group == Group::Ca { "root" } else { "leaf" },
            who: who.into(),
            from: epoch + DAY * from,
            until: epoch + DAY * until,
            place: "ca.pem".into(),
            id: format!("{who}{from}"),
        }
    }

    fn drawn(windows: Vec<Window>, now: u32) -> Vec<String> {
        TimeLine { now: SystemTime::UNIX_EPOCH + DAY * now, windows }.draw(NAME + WORDS + 4 + 31, false)
    }

    #[test]
    fn a_leaf_shows_now_and_when_to_renew() {
        let lines = drawn(vec![window(Group::Leaf, "CN=a", 0, 30)], 12);
        assert_eq!(
            lines[2].trim_end(),
            format!("{:28}  ┣━━━━━━━━━━━┿━━━━━━━◆━━━━━━━━━┫  18 d left, renew in 8 d", "leaf CN=a")
        );
        assert_eq!(lines[3], format!("{:28}  {:12}now", "", ""));
        let late = drawn(vec![window(Group::Leaf, "CN=a", 0, 30)], 25);
        assert!(late[2].ends_with("5 d left, renewal due 5 d ago"), "{}", late[2]);
        let over = drawn(vec![window(Group::Leaf, "CN=a", 0, 15)], 30);
        assert!(over[2].ends_with("│  EXPIRED 15 d ago"), "{}", over[2]);
    }

    #[test]
    fn an_old_and_a_new_ca_show_their_overlap() {
        let cas = vec![window(Group::Ca, "CN=old", 0, 20), window(Group::Ca, "CN=new", 10, 30)];
        let lines = drawn(cas, 15);
        assert!(lines[3].contains("          ░░░░░│░░░░░          "), "{}", lines[3]);
        assert!(lines[3].ends_with("both valid, 5 d left"), "{}", lines[3]);
        let apart = vec![window(Group::Ca, "CN=old", 0, 10), window(Group::Ca, "CN=new", 20, 30)];
        assert!(drawn(apart, 5)[3].ends_with("NONE: 10 d between them"));
    }

    #[test]
    fn without_room_beside_them_the_bars_are_below_the_names() {
        let window = window(Group::Leaf, "CN=a-name-that-is-rather-long.example.org", 0, 30);
        for width in [30, 50, 60, 80, 91] {
            let lines = TimeLine { now: SystemTime::UNIX_EPOCH + DAY * 12, windows: vec![window.clone()] }
                .draw(width, false);
            assert!(lines.iter().all(|line| line.chars().count() <= width.max(31)), "{width}: {lines:#?}");
            assert!(lines[1].starts_with("  1970-01-01") && lines[1].ends_with("1970-01-31") == (width < 36));
            assert!(lines[2].starts_with("leaf") && lines[2].contains("18 d left"), "{lines:#?}");
            assert!(lines[3].starts_with("  ┣━") && lines[3].ends_with('┫'), "{lines:#?}");
        }
    }

    #[test]
    fn a_moment_among_years_is_still_seen() {
        let lines =
            drawn(vec![window(Group::Leaf, "CN=a", 0, 3650), window(Group::Leaf, "CN=b", 9, 10)], 100);
        assert!(lines[3].contains('┃') && lines[3].contains('│'), "{}", lines[3]);
    }
}
