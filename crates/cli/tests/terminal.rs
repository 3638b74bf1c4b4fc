//! On a terminal: colour, unless `NO_COLOR` says no, and a time line unasked. The terminal is made by `script`.
//! needs: script

#![allow(clippy::unwrap_used, reason = "a panic in a helper fails the test that called it")]
#![cfg(target_os = "linux")]

mod common;

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, SystemTime};

use certsource_testkit::{Ca, TestDir};

use crate::common::{BOUND, not_run};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// What the program writes to a terminal of 200 columns; `None` where there is no `script`.
fn on_terminal(args: &str, no_color: Option<&str>) -> Option<String> {
    on_terminal_of((200, 50), args, no_color)
}

/// The same for a terminal of so many columns and rows.
fn on_terminal_of((columns, rows): (u16, u16), args: &str, no_color: Option<&str>) -> Option<String> {
    let program = env!("CARGO_BIN_EXE_certsource");
    let mut command = Command::new("script");
    let script = format!("stty cols {columns} rows {rows}; exec '{program}' {args}");
    command.args(["-qec", &script, "/dev/null"]);
    command.env("TERM", "xterm").env_remove("NO_COLOR").env_remove("COLUMNS").stdin(Stdio::null());
    if let Some(value) = no_color {
        command.env("NO_COLOR", value);
    }
    match command.output() {
        Ok(output) => Some(String::from_utf8(output.stdout).unwrap()),
        Err(_) => {
            not_run("there is no script(1) to make a terminal");
            None
        }
    }
}

/// What the program writes to a terminal while it waits for a certificate on standard input, until this word is seen; and
/// what it writes after that, when the certificate has come. `None` where there is no `script`.
fn while_it_waits(dir: &TestDir, args: &str, word: Option<&str>) -> Option<(String, String)> {
    let gate = dir.join("gate");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &gate,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    // For both directions: so nobody waits for the other one to open it.
    let mut open = std::fs::File::options().read(true).write(true).open(&gate).unwrap();
    let program = env!("CARGO_BIN_EXE_certsource");
    let mut command = Command::new("script");
    let script = format!("stty cols 200; exec '{program}' {args} <'{}'", gate.display());
    command.args(["-qec", &script, "/dev/null"]).stdin(Stdio::null()).stdout(Stdio::piped());
    command.env("TERM", "xterm").env_remove("NO_COLOR").env_remove("COLUMNS").current_dir(dir.path());
    let Ok(mut child) = command.spawn() else {
        not_run("there is no script(1) to make a terminal");
        return None;
    };
    let mut stdout = child.stdout.take().unwrap();
    let (sender, pieces) = channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = stdout.read(&mut buffer) {
            if sender.send(buffer[..read].to_vec()).is_err() {
                return;
            }
        }
    });
    let mut seen = Vec::new();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match word {
        Some(word) => {
            while !text(&seen).contains(word) {
                seen.extend(
                    pieces.recv_timeout(BOUND).unwrap_or_else(|_| panic!("no {word:?} in {:?}", text(&seen))),
                );
            }
        }
        // Longer than it waits before it shows a bar.
        None => std::thread::sleep(Duration::from_millis(900)),
    }
    open.write_all(Ca::new("late").certificate_pem().as_bytes()).unwrap();
    drop(open);
    let mut after = Vec::new();
    loop {
        match pieces.recv_timeout(BOUND) {
            Ok(piece) => after.extend(piece),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                let _ = child.kill();
                panic!("it does not end: {:?}", text(&after));
            }
        }
    }
    assert!(child.wait().unwrap().success(), "{:?}", text(&after));
    std::fs::remove_file(&gate).unwrap();
    Some((text(&seen), text(&after)))
}

/// Standard input stands for a file on a slow disk.
#[test]
fn a_bar_is_there_while_reading_takes_long_and_is_taken_away() {
    let dir = TestDir::new().unwrap();
    for at in 0..3 {
        dir.write(format!("cas/{at}.pem"), Ca::new(&format!("ca {at}")).certificate_pem()).unwrap();
    }
    for args in ["inspect cas -", "check --expires-in 1d cas -"] {
        // Seen as it was drawn last: three quarters, and it is drawn again while it waits.
        let bar = format!("[{}{}] 3 of 4 files", "█".repeat(22), "·".repeat(8));
        let Some((seen, after)) = while_it_waits(&dir, args, Some(&format!("{bar}\r\x1b[K{bar}"))) else {
            return;
        };
        // Where the machine stands still, also before: with fewer files.
        let (whole, _) = seen.rsplit_once(&bar).unwrap();
        assert!(
            whole.split("\r\x1b[K").all(|frame| {
                frame.is_empty() || frame.starts_with('[') && frame.ends_with(" of 4 files")
            }),
            "{args}: {seen:?}"
        );
        let (rest, result) = after.rsplit_once("\r\x1b[K").unwrap();
        // Whatever is drawn of the last moments goes before the result comes.
        assert!(rest.split("\r\x1b[K").all(|frame| frame.is_empty() || frame.starts_with('[')), "{after:?}");
        assert!(
            result.contains("CN=") && !result.contains('█') && !result.contains(" of 4 files"),
            "{after:?}"
        );
    }
}

#[test]
fn no_bar_where_nobody_sees_it_or_results_go_to_the_same_terminal() {
    let dir = TestDir::new().unwrap();
    for args in ["inspect - 2>errors", "inspect --format=json -", "inspect --format=pem -"] {
        let Some((seen, after)) = while_it_waits(&dir, args, None) else { return };
        assert_eq!(seen, "");
        assert!(
            after.contains("CN=late") && !after.contains('█') && !after.contains("\r\x1b[K"),
            "{after:?}"
        );
    }
    assert_eq!(std::fs::read_to_string(dir.join("errors")).unwrap(), "");
}

fn soon(dir: &TestDir) -> std::path::PathBuf {
    let issued = Ca::new("a").leaf("localhost").not_after(SystemTime::now() + DAY * 10 + DAY / 2).issue();
    dir.write("tls.crt", issued.leaf_pem()).unwrap()
}

fn inspect(path: &Path, no_color: Option<&str>) -> Option<String> {
    on_terminal(&format!("inspect '{}'", path.display()), no_color)
}

#[test]
fn colour_is_for_terminals_that_want_it() {
    let dir = TestDir::new().unwrap();
    let path = soon(&dir);
    let Some(shown) = inspect(&path, None) else { return };
    assert!(shown.contains("\x1b[33min 10 d\x1b[0m"), "{shown:?}");
    assert!(inspect(&path, Some("")).unwrap().contains("\x1b[33m"), "an empty value says nothing");
    let plain = inspect(&path, Some("1")).unwrap();
    assert!(plain.contains("in 10 d") && !plain.contains('\x1b'), "{plain:?}");
}

#[test]
fn few_windows_are_drawn_unasked() {
    let dir = TestDir::new().unwrap();
    let Some(shown) = inspect(&soon(&dir), Some("1")) else { return };
    assert!(shown.contains("leaf CN=localhost             ┣"), "{shown}");
    // A whole bundle is a table only.
    let bundle: String = (0..20).map(|at| Ca::new(&format!("ca {at}")).certificate_pem()).collect();
    let bundle = dir.write("bundle.pem", bundle).unwrap();
    assert!(!inspect(&bundle, Some("1")).unwrap().contains('┣'));
}

#[test]
fn a_repeated_run_shows_a_line_that_lives() {
    let dir = TestDir::new().unwrap();
    let ca = dir.write("ca.pem", Ca::new("a").certificate_pem()).unwrap();
    // Nobody listens there: each request fails, and that is a lasting line.
    let args = format!("get https://127.0.0.1:1/ --ca '{}' --count 2", ca.display());
    let Some(shown) = on_terminal(&args, None) else { return };
    assert!(shown.contains("\r\x1b[K1 requests (") && shown.contains(" 1 failed, generation 1"), "{shown:?}");
    assert!(
        shown.contains("FAILED generation 1 after ") && shown.contains("summary 2 requests, 2 failed"),
        "{shown:?}"
    );
}

/// The final letters of the control sequences in a text: `m` is a colour.
fn sequences(text: &str) -> Vec<char> {
    let pieces = text.split("\x1b[").skip(1);
    pieces.filter_map(|piece| piece.chars().find(char::is_ascii_alphabetic)).collect()
}

/// Long enough for some pictures, also where the machine stands still for a while.
const DEMO: &str = "demo --rotations 1 --duration 3s --rate 100";

#[test]
fn the_demo_lives_on_a_terminal() {
    let Some(shown) = on_terminal(DEMO, None) else { return };
    // Drawn again and again at one place, without a cursor, and that comes back.
    assert!(shown.starts_with("\x1b[?25l") && shown.matches("certsource demo").count() > 2, "{shown:?}");
    assert!(shown.contains("\x1b[?25h"), "{shown:?}");
    let redrawn = sequences(&shown).iter().filter(|letter| **letter == 'A').count();
    assert!(redrawn > 2, "{redrawn}: {shown:?}");
    assert!(shown.contains("\x1b[1mcertsource demo\x1b[0m") && shown.contains("\x1b[32m0 failed\x1b[0m"));
    assert!(
        shown.contains("time line") && shown.contains('━') && shown.contains("refused 1 of 1"),
        "{shown:?}"
    );
    // The last picture stays, and what came of it stands below.
    let (_, end) = shown.rsplit_once("\x1b[?25h").unwrap();
    assert!(
        end.starts_with("ok: ") && end.contains("0 failed; 1 of 1 rotations seen by the client"),
        "{end:?}"
    );
    assert!(sequences(end).is_empty() && !end.contains("rotation 1/1"), "{end:?}");

    let plain = on_terminal(DEMO, Some("1")).unwrap();
    assert!(plain.matches("certsource demo").count() > 2 && !sequences(&plain).contains(&'m'), "{plain:?}");
}

#[test]
fn without_room_the_demo_is_a_line_for_each_rotation() {
    let Some(shown) = on_terminal_of((40, 50), DEMO, None) else { return };
    assert!(shown.contains("rotation 1/1: CA 2 in place of CA 1") && shown.contains("\nok: "), "{shown:?}");
    assert!(sequences(&shown).is_empty(), "{shown:?}");
}

#[test]
fn a_narrow_terminal_has_no_line_that_is_too_long() {
    let dir = TestDir::new().unwrap();
    let path = soon(&dir);
    let Some(shown) = on_terminal_of((60, 50), &format!("inspect '{}'", path.display()), Some("1")) else {
        return;
    };
    assert!(shown.contains("leaf  CN=localhost") && shown.contains("  not after  20"), "{shown}");
    let named = path.to_string_lossy();
    for line in shown.lines().filter(|line| !line.contains(&*named)) {
        assert!(line.trim_end().chars().count() <= 60, "{line}");
    }
}
