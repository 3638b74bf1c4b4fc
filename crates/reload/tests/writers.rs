//! Every row of docs/WRITERS.md on a real disk, by the programs themselves, and the events that come of it: the whole
//! sequence, not only where it ends. One test for each detector and file system; in each, all rows run at once on one hub.
//!
//! What stands where: this file has the table, `writers/special.rs` the rows that need surroundings of their own, `writers/apart.rs`
//! the children that have these, `writers/scene.rs` the stage and what counts as the expected sequence. Row 19 is all other rows once
//! more, on an overlay.
//! Not here: every moment at which a writer could be interrupted. That is the simulator's work (`certsource-sim`).
//!
//! What this machine cannot perform is said and passed over; where the variable `CERTSOURCE_STRICT` is set, that is a failure.
//! needs: unshare setpriv python3
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "writers/apart.rs"]
mod apart;
#[path = "writers/scene.rs"]
mod scene;
#[path = "writers/special.rs"]
mod special;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use certsource::files::Files;
use certsource_testkit::{AgentFiles, CertbotLive, KubeletDir, TestDir, write};

use scene::{Begin, Expected, Row, Strategy, cell, overlaid};
use special::APART;

/// After these of a hundred swaps of a volume, the writer rests until the content is served: after the first and the second,
/// for those are a watch's or a descriptor's first times, and then now and again.
const RESTS: &[usize] = &[1, 2, 25, 50, 75, 100];
/// Between two steps of a writer that is at work; so its states can be met, and it is far below the settle time.
const STEP: Duration = Duration::from_millis(20);
/// Between two files of one writer, or two writes: long enough that the reader meets what stands meanwhile, also where that
/// looks whole, and an eighth of the settle time.
const GAP: Duration = Duration::from_millis(500);

/// A row that is all others, performed on an overlay. Of it a network file system is not here, which needs a server: the simulator's disk
/// has cached attributes, coarse time stamps, calls that hang and lost events, and crates/certsource/tests/detect_poll.rs has volumes that
/// are not local.
const OVERLAID: u8 = 19;

/// Rows that no program of an ordinary machine performs, and where they are held instead.
const ELSEWHERE: [(u8, &str); 1] = [(
    23,
    "would set the clock of the machine; the simulator sets its own, in crates/sim/tests/properties.rs",
)];

/// A program that works on `ca.crt`, where the bundle of round 0 stands; `new`, `newer` and `newest` beside it are those
/// of rounds 1 to 3 with the same size, `both` is that of 1 and 2. `$OTHER` is a directory on another file system. What stands after a `THEN` comes when the part before was served.
fn bundle(number: u8, name: &'static str, command: &'static str, expected: &'static [&'static str]) -> Row {
    prepared(number, name, "true", "ca.crt", command, expected)
}

/// The same, with something to do before, and another path to the bundle.
fn prepared(
    number: u8,
    name: &'static str,
    before: &'static str,
    path: &'static str,
    command: &'static str,
    expected: &'static [&'static str],
) -> Row {
    Row::new(number, name, Expected::Sequence(expected), move |place| {
        place.shell(before);
        Begin::new(Files::trust(place.join(path)), move |scene| scene.shells(command))
    })
}

/// A source of three files in a directory of this name, and a program.
fn set(
    number: u8,
    name: &'static str,
    before: &'static str,
    directory: &'static str,
    command: &'static str,
    expected: &'static [&'static str],
) -> Row {
    Row::new(number, name, Expected::Sequence(expected), move |place| {
        place.shell(before);
        Begin::new(Files::kubernetes(place.join(directory)), move |scene| scene.shells(command))
    })
}

const ONCE: &[&str] = &["loaded 0", "reloaded 1"];
/// A pair that does not match yet may be seen, or not.
const ONCE_OR_PENDING: &[&str] = &["loaded 0", "pending?", "reloaded 1"];
/// For writers after which a watch or an inode is another: the next time must be seen too.
const TWICE: &[&str] = &["loaded 0", "reloaded 1", "reloaded 2"];
/// The same in a directory that is another by now.
const THEN_FILES: &[&str] = &["loaded 0", "reloaded 1", "pending?", "reloaded 2"];
const NOTHING: &[&str] = &["loaded 0"];

/// How to read the sequences: the number is the round that the content belongs to, so `reloaded 0/1` would be trust of
/// round 0 with an identity of round 1. An event with a `?` may be left out: whether it comes is a matter of who is
/// first, the reader or the writer. Every other one must come, in this order, and nothing else may. (While a failure lasts,
/// another reason for it is told at once: so a file that `cp` has just made may be told as empty there.)
fn rows(strategy: Strategy) -> Vec<Row> {
    let mut rows = vec![
        bundle(1, "cp", "cp new ca.crt", ONCE),
        bundle(1, "a shell's >", "cat both > ca.crt", &["loaded 0", "reloaded 1+2"]),
        bundle(
            1,
            "two programs with a gap, one >",
            "{ cat new; sleep 0.5; cat newer; } > ca.crt",
            &["loaded 0", "reloaded 1+2"],
        ),
        bundle(2, "cp -p of an older file", "touch -d 2001-01-01 new && cp -p new ca.crt", ONCE),
        bundle(3, "mv, and again", "mv new ca.crt THEN mv newer ca.crt", TWICE),
        bundle(
            3,
            "mv twice, back to back",
            "mv new ca.crt && mv newer ca.crt",
            &["loaded 0", "reloaded 1?", "reloaded 2"],
        ),
        prepared(
            4,
            "mv across file systems",
            "cp new \"$OTHER/new\"",
            "ca.crt",
            "mv \"$OTHER/new\" ca.crt",
            ONCE,
        ),
        bundle(5, "install", "install -m 644 new ca.crt", ONCE),
        bundle(5, "cp --remove-destination", "cp --remove-destination new ca.crt", ONCE),
        prepared(
            5,
            "tar x of an older file",
            "mkdir src && cp new src/ca.crt && touch -d 2001-01-01 src/ca.crt && tar -cf new.tar -C src ca.crt",
            "ca.crt",
            "tar -xf new.tar",
            ONCE,
        ),
        // With -n, what `r` reads is all that is written.
        bundle(6, "sed -i", "sed -i -n '1r new' ca.crt", ONCE),
        bundle(
            7,
            "sed -i.bak, and again",
            "sed -i.bak -n '1r new' ca.crt THEN sed -i.bak -n '1r newer' ca.crt",
            TWICE,
        ),
        bundle(
            8,
            "a hard link and mv, and again",
            "ln ca.crt ca.crt.bak && mv new ca.crt THEN ln -f ca.crt ca.crt.bak && mv newer ca.crt",
            TWICE,
        ),
        prepared(
            9,
            "ln -sf to a file of the same time and size, and again",
            "mv ca.crt old && touch -r old new newer && ln -s old ca.crt",
            "ca.crt",
            "ln -sf new ca.crt THEN ln -sf newer ca.crt",
            TWICE,
        ),
        kubelet("the old directory removed", strategy, false),
        kubelet("the old directory kept", strategy, true),
        certbot(),
        agent(),
        set(
            12,
            "mv with a gap, a bundle and its pair",
            "cp -r full0 tls && cp -r full1 tls.new",
            "tls",
            "for name in ca.crt tls.crt tls.key; do mv tls.new/$name tls/$name; sleep 0.5; done",
            ONCE_OR_PENDING,
        ),
        in_place(),
        bundle(14, "touch", "touch ca.crt", NOTHING),
        bundle(14, "chmod", "chmod 600 ca.crt", NOTHING),
        prepared(14, "cp of the same", "cp ca.crt same", "ca.crt", "cp same ca.crt", NOTHING),
        prepared(14, "mv of the same", "cp ca.crt same", "ca.crt", "mv same ca.crt", NOTHING),
        set(
            16,
            "two mv of a directory, then its files",
            "cp -r full0 tls",
            "tls",
            "mv tls old && mv full1 tls THEN mv full2/* tls",
            THEN_FILES,
        ),
        set(
            16,
            "rm -r and cp -r, and again",
            "cp -r full0 tls",
            "tls",
            "rm -r tls && cp -r full1 tls THEN rm -r tls && cp -r full2 tls",
            TWICE,
        ),
        set(
            17,
            "ln -sfn above the directory, then its files",
            "for v in 0 1; do mkdir v$v && mv full$v v$v/tls; done; ln -s v0 current",
            "current/tls",
            "ln -sfn v1 current THEN mv full2/* current/tls",
            THEN_FILES,
        ),
        late(20, "a file that is not there yet", "true", "soon.crt", "mv new soon.crt"),
        late(
            20,
            "a directory that is not there yet",
            "true",
            "a/b/soon.crt",
            "mkdir -p a/b && cp new a/b/soon.crt",
        ),
        away(
            20,
            "removed and back",
            "mv ca.crt away",
            "mv away ca.crt",
            &["loaded 0", "failed not_found", "recovered"],
        ),
        away(
            20,
            "removed, and another comes",
            "rm ca.crt",
            "cp new ca.crt",
            &["loaded 0", "failed not_found", "failed empty?", "recovered", "reloaded 1"],
        ),
        withheld(),
        unreadable(),
        bundle(
            22,
            "three updates",
            "mv new ca.crt && mv newer ca.crt && mv newest ca.crt",
            &["loaded 0", "reloaded 1?", "reloaded 2?", "reloaded 3"],
        ),
        // A round that comes back is told as a step back, if it was seen to be away.
        prepared(
            22,
            "an update and its revert",
            "cp ca.crt old",
            "ca.crt",
            "mv new ca.crt && mv old ca.crt",
            &["loaded 0", "reloaded 1?", "reloaded 0?", "regressed?"],
        ),
    ];
    if scene::is_there("python3") {
        rows.push(mapped(strategy));
    } else {
        apart::not_run("row 15: no python3 here to store through a memory map");
    }
    rows
}

/// Row 10. Each swap is one moment, so nothing mixed may ever be seen, and no failure. What is there when the writer rests
/// must be served in the time that is promised, whichever of the hundred it is. Between two rests the swaps come faster than the interval, and than a read under
/// `Notify`: the promise is about the last content, so some of these may be passed over; their order may not be another. Where
/// it has watches, a volume that changes all the time may be told as one that can not be watched that fast.
fn kubelet(name: &'static str, strategy: Strategy, keeps: bool) -> Row {
    let also: &[_] = if strategy.is_told_by_directories() { &["degraded"] } else { &[] };
    Row::new(10, name, Expected::Rising { rests: RESTS, also }, move |place| {
        let dir = TestDir::at(place.join("volume")).unwrap();
        let volume = KubeletDir::from_dir(dir).keep_old(keeps);
        volume.swap(&place.kit.rounds[0]).unwrap();
        Begin::new(Files::kubernetes(volume.path()), move |scene| {
            for (number, round) in scene.place.kit.rounds.iter().enumerate().skip(1) {
                volume.swap(round).unwrap();
                if RESTS.contains(&number) {
                    scene.wait_as_promised(&format!("reloaded {number}"));
                } else {
                    thread::sleep(STEP);
                }
            }
        })
    })
}

/// Row 11: four links, each of them away for a moment, and for four steps of two rounds.
fn certbot() -> Row {
    Row::new(11, "certbot's links", Expected::Sequence(ONCE_OR_PENDING), |place| {
        let dir = TestDir::at(place.join("letsencrypt")).unwrap();
        let live = CertbotLive::in_dir(dir, "example", &place.kit.rounds[0]).unwrap();
        Begin::new(Files::identity(live.cert_path(), live.key_path()), move |scene| {
            live.renew_steps(&scene.place.kit.rounds[1]).unwrap().finish_slowly(STEP).unwrap();
        })
    })
}

/// Row 12: the authority stays, so the certificate and the key are the two files that change.
fn agent() -> Row {
    const EXPECTED: &[&str] = &["loaded 0", "pending?", "reloaded 0/renewed"];
    Row::new(12, "an agent's renames with a gap", Expected::Sequence(EXPECTED), |place| {
        let files = AgentFiles::from_dir(TestDir::at(place.join("agent")).unwrap());
        files.swap(&place.kit.rounds[0]).unwrap();
        Begin::new(Files::kubernetes(files.path()), move |scene| {
            let mut steps = files.swap_steps(&scene.place.kit.renewed).unwrap();
            steps.run_through("rename tls.crt").unwrap();
            thread::sleep(GAP);
            steps.finish().unwrap();
        })
    })
}

/// Row 13: certificate, key, bundle, each in place and in pieces. Before the bundle comes, a whole pair stands beside the old one.
fn in_place() -> Row {
    Row::new(13, "in place, file by file", Expected::Sequence(ONCE_OR_PENDING), |place| {
        let directory = place.join("full0");
        Begin::new(Files::kubernetes(&directory), move |scene| {
            let [bundle, certificate, key] = scene.place.kit.rounds[1].files();
            for (name, content) in [certificate, key, bundle] {
                write::in_place(directory.join(name), content, 2).finish_slowly(STEP).unwrap();
                thread::sleep(GAP);
            }
        })
    })
}

/// Row 15. A store need not move a time stamp: under `Mtime` the promise is 5 minutes, so there the test asks for a read.
fn mapped(strategy: Strategy) -> Row {
    const STORE: &str = "import mmap; new = open('new', 'rb').read(); file = open('ca.crt', 'r+b'); \
         view = mmap.mmap(file.fileno(), len(new)); view[:] = new; view.close(); file.close()";
    Row::new(15, "stores through a memory map", Expected::Sequence(ONCE), move |place| {
        Begin::new(Files::trust(place.join("ca.crt")), move |scene| {
            scene.place.run("python3", ["-c", STORE]);
            if strategy == Strategy::Mtime {
                scene.ask();
            }
        })
    })
}

/// Row 20, with [`certsource_reload::Builder::wait_for_initial`].
fn late(
    number: u8,
    name: &'static str,
    before: &'static str,
    path: &'static str,
    command: &'static str,
) -> Row {
    const EXPECTED: &[&str] = &["failed not_found", "failed empty?", "recovered", "loaded 1"];
    Row::new(number, name, Expected::Sequence(EXPECTED), move |place| {
        place.shell(before);
        Begin::new(Files::trust(place.join(path)), move |scene| {
            scene.wait_for("failed not_found");
            scene.place.shell(command);
        })
        .before_the_first_load()
    })
}

/// Away until that was told as a failure, and back.
fn away(
    number: u8,
    name: &'static str,
    go: &'static str,
    back: &'static str,
    expected: &'static [&'static str],
) -> Row {
    Row::new(number, name, Expected::Sequence(expected), move |place| {
        Begin::new(Files::trust(place.join("ca.crt")), move |scene| {
            scene.place.shell(go);
            scene.wait_for(expected[1]);
            scene.place.shell(back);
        })
    })
}

/// Row 21, EIO: a process's own memory has nothing at its beginning, and reading there is that error.
fn unreadable() -> Row {
    const EXPECTED: &[&str] = &["loaded 0", "degraded?", "failed io", "recovered", "reloaded 1"];
    Row::new(21, "a file that gives EIO", Expected::Sequence(EXPECTED), |place| {
        Begin::new(Files::trust(place.join("ca.crt")), |scene| {
            scene.place.shell("ln -s /proc/self/mem bad && mv bad ca.crt");
            scene.wait_for("failed io");
            scene.failed_and_serves_the_first("failed io", "ca.crt");
            scene.failed_and_serves_the_first("failed io", "os error 5");
            scene.place.shell("mv new ca.crt");
        })
    })
}

/// Row 21, as any user: a file stands where the directory was, and nothing for a moment.
fn withheld() -> Row {
    const EXPECTED: &[&str] = &["loaded 0", "failed io", "failed not_found?", "recovered"];
    Row::new(21, "a file in the directory's place", Expected::Sequence(EXPECTED), |place| {
        Begin::new(Files::kubernetes(place.join("full0")), |scene| {
            scene.place.shell("mv full0 away && : > full0");
            scene.wait_for(EXPECTED[1]);
            scene.place.shell("rm full0 && mv away full0");
        })
    })
}

#[test]
fn mtime_tells_the_same_of_every_writer_on_tmpfs() {
    cell("mtime_tells_the_same_of_every_writer_on_tmpfs", Strategy::Mtime, scene::TMPFS, rows, APART);
}

#[test]
fn mtime_tells_the_same_of_every_writer_on_the_disk() {
    cell("mtime_tells_the_same_of_every_writer_on_the_disk", Strategy::Mtime, scene::DISK, rows, APART);
}

#[test]
fn sha256_tells_the_same_of_every_writer_on_tmpfs() {
    cell("sha256_tells_the_same_of_every_writer_on_tmpfs", Strategy::Sha256, scene::TMPFS, rows, APART);
}

#[test]
fn sha256_tells_the_same_of_every_writer_on_the_disk() {
    cell("sha256_tells_the_same_of_every_writer_on_the_disk", Strategy::Sha256, scene::DISK, rows, APART);
}

#[cfg(feature = "notify")]
#[test]
fn notify_tells_the_same_of_every_writer_on_tmpfs() {
    cell("notify_tells_the_same_of_every_writer_on_tmpfs", Strategy::Notify, scene::TMPFS, rows, APART);
}

#[cfg(feature = "notify")]
#[test]
fn notify_tells_the_same_of_every_writer_on_the_disk() {
    cell("notify_tells_the_same_of_every_writer_on_the_disk", Strategy::Notify, scene::DISK, rows, APART);
}

#[test]
fn mtime_tells_the_same_of_every_writer_on_an_overlay() {
    overlaid("mtime_tells_the_same_of_every_writer_on_an_overlay", Strategy::Mtime, rows);
}

#[test]
fn sha256_tells_the_same_of_every_writer_on_an_overlay() {
    overlaid("sha256_tells_the_same_of_every_writer_on_an_overlay", Strategy::Sha256, rows);
}

#[cfg(feature = "notify")]
#[test]
fn notify_tells_the_same_of_every_writer_on_an_overlay() {
    overlaid("notify_tells_the_same_of_every_writer_on_an_overlay", Strategy::Notify, rows);
}

/// The rows of the page are those of the table, of what stands apart, the overlay, and what is held elsewhere. A row that this machine cannot
/// perform is said where it is performed.
#[test]
fn every_row_of_the_page_is_performed_or_says_where_else() {
    let mut here: BTreeSet<u8> = rows(Strategy::Mtime).iter().map(|row| row.number).collect();
    here.extend(APART.iter().map(|(_, row)| row(Strategy::Mtime).number));
    here.extend([mapped(Strategy::Mtime).number, OVERLAID]);
    for (number, reason) in ELSEWHERE {
        assert!(here.insert(number), "row {number} is performed, and said to be elsewhere: {reason}");
    }
    assert_eq!(here, (1..=23).collect());
    // The page is not in the package.
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/WRITERS.md");
    if let Ok(page) = fs::read_to_string(page) {
        let cells = page.lines().filter_map(|line| line.strip_prefix("| ")?.split(' ').next()?.parse().ok());
        assert_eq!(here, cells.collect());
    }
}

/// What counts as the expected sequence can say no.
#[test]
fn a_sequence_that_is_not_the_expected_one_is_refused() {
    let told = |events: &[&str]| events.iter().map(ToString::to_string).collect::<Vec<_>>();
    let once = Expected::Sequence(ONCE_OR_PENDING);
    assert!(once.is_met_by(&told(&["loaded 0", "reloaded 1"])));
    assert!(once.is_met_by(&told(&["loaded 0", "pending", "reloaded 1"])));
    for wrong in [
        &["loaded 0"][..],
        &["loaded 0", "reloaded 0/1", "reloaded 1"],
        &["loaded 0", "reloaded 1", "reloaded 1"],
        &["loaded 0", "pending", "pending", "reloaded 1"],
        &["loaded 0", "failed empty", "recovered", "reloaded 1"],
    ] {
        assert!(!once.is_met_by(&told(wrong)), "{wrong:?}");
    }
    let rising = Expected::Rising { rests: &[2, 5], also: &["degraded"] };
    assert!(rising.is_met_by(&told(&["loaded 0", "reloaded 2", "degraded", "reloaded 5"])));
    assert!(rising.is_met_by(&told(&["loaded 0", "reloaded 1", "reloaded 2", "reloaded 4", "reloaded 5"])));
    for wrong in [
        &["loaded 0", "reloaded 2"][..],
        // One that the writer rested at is passed over.
        &["loaded 0", "reloaded 5"],
        &["loaded 0", "reloaded 1", "reloaded 3", "reloaded 4", "reloaded 5"],
        &["loaded 0", "reloaded 2", "reloaded 1", "reloaded 5"],
        &["loaded 0", "reloaded 2", "reloaded 5", "reloaded 6"],
        &["loaded 0", "reloaded 1/2", "reloaded 2", "reloaded 5"],
        &["loaded 0", "failed not_found", "recovered", "reloaded 2", "reloaded 5"],
    ] {
        assert!(!rising.is_met_by(&told(wrong)), "{wrong:?}");
    }
}
