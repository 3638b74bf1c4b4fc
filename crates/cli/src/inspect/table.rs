//! The table of `inspect`: a row per certificate, CRL or key, columns as wide as their content. On a terminal they are
//! cut to its width; on one that is too narrow for a table there is a block of lines instead of each row.

use std::io::IsTerminal;
use std::time::{Duration, SystemTime};

use crate::duration;
use crate::output::{self, Output};
use crate::scan::{File, Found, What, place};

use super::Shown;

const HEAD: [&str; COLUMNS] =
    ["ROLE", "SUBJECT", "NAMES", "ISSUER", "NOT AFTER", "", "KEY", "SHA-256", "FILE"];
const COLUMNS: usize = 9;
/// Columns that may be cut, and the width that they keep.
const ELASTIC: [(usize, usize); 4] = [(2, 12), (1, 12), (3, 12), (8, 16)];
/// So much of a fingerprint tells certificates apart at a glance.
const SHORT: usize = 16;
const SOON: Duration = Duration::from_secs(30 * 24 * 3600);

/// Rows that wait to be written together, so that their columns line up.
pub(super) struct Table {
    now: SystemTime,
    rows: Vec<Row>,
    hidden: usize,
    /// The width of the terminal, if there is one.
    width: Option<usize>,
}

struct Row {
    cells: [String; COLUMNS],
    colour: Option<&'static str>,
}

impl Table {
    pub(super) fn new(now: SystemTime) -> Self {
        let width = if std::io::stdout().is_terminal() {
            crossterm::terminal::size()
                .ok()
                .map(|(columns, _)| usize::from(columns))
                .filter(|columns| *columns > 0)
        } else {
            None
        };
        Self { now, rows: Vec::new(), hidden: 0, width }
    }

    /// The width of the terminal, if there is one.
    pub(super) fn terminal(&self) -> Option<usize> {
        self.width
    }

    /// Adds what is in a file.
    pub(super) fn add(&mut self, file: &File, all: bool) {
        let shown = Shown::of(file, all);
        for item in &file.items {
            let file = place(&file.path, item.line);
            match &item.what {
                What::Certificate(found) if shown.shows(found) => self.certificate(found, file),
                What::Certificate(_) => self.hidden += 1,
                What::Crl(found) => {
                    let crl = &found.inspection;
                    let entries = match crl.entries() {
                        1 => String::from("1 entry"),
                        entries => format!("{entries} entries"),
                    };
                    let number = crl.number().map_or_else(String::new, |number| format!("number {number}"));
                    let until = crl.next_update_text().unwrap_or_else(|| String::from("no next update"));
                    let (left, colour) = match crl.next_update() {
                        Some(next) => self.left(crl.this_update(), next),
                        None => (String::new(), None),
                    };
                    let cells = [
                        "crl".into(),
                        number,
                        entries,
                        crl.issuer().into(),
                        until,
                        left,
                        String::new(),
                        String::new(),
                        file,
                    ];
                    self.rows.push(Row { cells, colour });
                }
                What::Key(format) => {
                    let mut cells: [String; COLUMNS] = Default::default();
                    cells[0] = String::from("key");
                    cells[1] = format!("private key, {format}");
                    cells[8] = file;
                    self.rows.push(Row { cells, colour: None });
                }
                What::Other => {}
            }
        }
    }

    fn certificate(&mut self, found: &Found, file: String) {
        let inspection = &found.inspection;
        let names: Vec<_> = inspection.sans().iter().map(ToString::to_string).collect();
        let mut fingerprint = inspection.fingerprint().to_string();
        if self.width.is_some() {
            fingerprint.truncate(SHORT);
        }
        let (left, colour) = self.left(inspection.not_before(), inspection.not_after());
        let cells = [
            found.role().into(),
            or_dash(inspection.subject().into()),
            or_dash(names.join(" ")),
            or_dash(inspection.issuer().into()),
            inspection.not_after_text(),
            left,
            inspection.key().into(),
            fingerprint,
            file,
        ];
        self.rows.push(Row { cells, colour });
    }

    /// How long it is still valid, in words and in a colour.
    fn left(&self, from: SystemTime, until: SystemTime) -> (String, Option<&'static str>) {
        match (until.duration_since(self.now), from.duration_since(self.now)) {
            (Err(over), _) => (format!("EXPIRED {} ago", duration::rough(over.duration())), Some("\x1b[31m")),
            (Ok(_), Ok(ahead)) if !ahead.is_zero() => {
                (format!("valid in {}", duration::rough(ahead)), Some("\x1b[33m"))
            }
            (Ok(left), _) => (format!("in {}", duration::rough(left)), (left < SOON).then_some("\x1b[33m")),
        }
    }

    /// Writes everything.
    pub(super) fn write(&self, output: &Output) -> anyhow::Result<()> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let mut widths = HEAD.map(str::len);
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(&row.cells) {
                *width = (*width).max(columns(cell));
            }
        }
        let fits = self.width.is_none_or(|terminal| shrink(&mut widths, terminal));
        let colourful = output::is_colourful();
        if fits {
            output.text(line(&HEAD.map(String::from), &widths, None).trim_end())?;
        }
        for (at, row) in self.rows.iter().enumerate() {
            let colour = row.colour.filter(|_| colourful);
            if fits {
                output.text(line(&row.cells, &widths, colour).trim_end())?;
                continue;
            }
            if at > 0 {
                output.text("")?;
            }
            for line in block(&row.cells, colour) {
                output.text(&line)?;
            }
        }
        match self.hidden {
            0 => Ok(()),
            1 => output.text("1 more certificate in a chain: --all shows it"),
            hidden => output.text(&format!("{hidden} more certificates in chains: --all shows them")),
        }
    }
}

fn or_dash(text: String) -> String {
    if text.is_empty() { String::from("-") } else { text }
}

fn line(cells: &[String; COLUMNS], widths: &[usize; COLUMNS], colour: Option<&str>) -> String {
    let mut text = String::with_capacity(widths.iter().sum::<usize>() + 2 * COLUMNS + 16);
    for (column, (cell, width)) in cells.iter().zip(widths).enumerate() {
        // The remaining time alone: a whole row in colour is hard to read.
        let colour = colour.filter(|_| column == 5);
        text.push_str(colour.unwrap_or_default());
        let taken = columns(cell);
        if taken <= *width {
            text.push_str(cell);
        } else {
            text.push_str(&cut(cell, *width));
        }
        text.push_str(colour.map_or("", |_| "\x1b[0m"));
        text.extend(std::iter::repeat_n(' ', width.saturating_sub(taken) + 2));
    }
    text
}

/// How many columns a text takes. Most are ASCII, and there are many.
fn columns(text: &str) -> usize {
    if text.is_ascii() { text.len() } else { text.chars().count() }
}

fn cut(cell: &str, width: usize) -> String {
    if columns(cell) <= width {
        return cell.to_owned();
    }
    let mut text: String = cell.chars().take(width.saturating_sub(1)).collect();
    text.push('…');
    text
}

/// The role and the subject, and below them a line for each of the rest.
fn block(cells: &[String; COLUMNS], colour: Option<&str>) -> Vec<String> {
    let [role, subject, names, issuer, until, left, key, fingerprint, file] = cells;
    let left = match colour {
        Some(colour) => format!("{colour}{left}\x1b[0m"),
        None => left.clone(),
    };
    let until = if until.is_empty() { String::new() } else { format!("{until}  {left}") };
    let rest = [
        ("names", names),
        ("issuer", issuer),
        ("not after", &until),
        ("key", key),
        ("sha256", fingerprint),
        ("file", file),
    ];
    let rest = rest.into_iter().filter(|(_, value)| !value.is_empty() && *value != "-");
    let mut lines = vec![format!("{role}  {subject}")];
    lines.extend(rest.map(|(name, value)| format!("  {name:<9}  {value}")));
    lines
}

/// Takes from the elastic columns what the terminal does not hold, the widest first. Returns whether the table fits.
fn shrink(widths: &mut [usize; COLUMNS], terminal: usize) -> bool {
    loop {
        let total = widths.iter().sum::<usize>() + 2 * (COLUMNS - 1);
        let widest = ELASTIC
            .iter()
            .filter(|(column, least)| widths[*column] > *least)
            .max_by_key(|(column, _)| widths[*column]);
        match widest {
            Some((column, _)) if total > terminal => widths[*column] -= 1,
            _ => return total <= terminal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_narrow_terminal_cuts_the_widest_columns_first() {
        let mut widths = [4, 40, 80, 20, 20, 8, 11, 16, 10];
        assert!(shrink(&mut widths, 160));
        assert!(widths.iter().sum::<usize>() + 16 <= 160, "{widths:?}");
        assert_eq!((widths[0], widths[3], widths[4], widths[7]), (4, 20, 20, 16));
        // What is not elastic stays whole, however narrow the terminal.
        assert!(!shrink(&mut widths, 10));
        assert_eq!(widths, [4, 12, 12, 12, 20, 8, 11, 16, 10]);
    }

    #[test]
    fn a_block_leaves_out_what_is_not_there() {
        let mut cells: [String; COLUMNS] = Default::default();
        for (at, text) in
            [(0, "leaf"), (1, "CN=a"), (2, "-"), (4, "2026-01-01T00:00:00Z"), (5, "in 3 d"), (8, "a.pem:1")]
        {
            cells[at] = text.into();
        }
        let lines = block(&cells, None);
        assert_eq!(
            lines,
            ["leaf  CN=a", "  not after  2026-01-01T00:00:00Z  in 3 d", "  file       a.pem:1"]
        );
        assert!(block(&cells, Some("\x1b[31m"))[1].ends_with("\x1b[31min 3 d\x1b[0m"));
    }

    #[test]
    fn cut_cells_say_so() {
        assert_eq!(cut("abcdef", 4), "abc…");
        assert_eq!(cut("üüüü", 4), "üüüü");
    }
}
