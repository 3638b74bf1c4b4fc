//! The rows that need surroundings of their own: mounts, few descriptors, or a user that may not do everything.
#![allow(unreachable_pub, reason = "a part of one test")]

use std::fs::{self, File};
use std::thread;
use std::time::{Duration, Instant};

use certsource::files::Files;

use crate::GAP;
use crate::apart::{Apart, Surroundings};
use crate::scene::{Begin, Expected, Row, Strategy};

/// What needs surroundings of its own.
pub const APART: &[Apart] = &[
    (Surroundings::Mounts, bound),
    (Surroundings::Mounts, full),
    (Surroundings::Descriptors(100), starved),
    (Surroundings::Ordinary, forbidden),
];

/// Row 18, in a mount namespace of its own: what is written into the file is seen, what replaces it is not, and what
/// stands behind the mount stays served. The file's own directory is elsewhere, and with it the events: under `Notify` the
/// promise is the safety poll, after 60 s, so there the test asks for a read.
fn bound(strategy: Strategy) -> Row {
    const EXPECTED: &[&str] = &["loaded 0", "reloaded 1", "degraded?"];
    Row::new(18, "a bind-mounted file", Expected::Sequence(EXPECTED), move |place| {
        place.shell("mkdir host && cp ca.crt host/ca.crt && : > mounted && mount --bind host/ca.crt mounted");
        Begin::new(Files::trust(place.join("mounted")), move |scene| {
            scene.place.shell("cp new host/ca.crt");
            if strategy.is_told_by_directories() {
                scene.ask();
            }
            scene.wait_for("reloaded 1");
            scene.place.shell("mv newer host/ca.crt");
        })
    })
}

/// Row 21, as one that may not read what its mode forbids.
fn forbidden(_: Strategy) -> Row {
    const EXPECTED: &[&str] = &["loaded 0", "failed permission_denied", "recovered", "reloaded 1"];
    Row::new(21, "permission taken away", Expected::Sequence(EXPECTED), |place| {
        Begin::new(Files::trust(place.join("ca.crt")), |scene| {
            scene.place.shell("chmod 000 ca.crt");
            scene.wait_for("failed permission_denied");
            scene.failed_and_serves_the_first("failed permission_denied", "ca.crt");
            scene.place.shell("chmod 644 ca.crt");
            scene.wait_for("recovered");
            scene.place.shell("mv new ca.crt");
        })
    })
}

/// Row 21, in a mount namespace of its own: the disk is full, and so what a writer writes in place is cut. It is written
/// again when there is room.
fn full(_: Strategy) -> Row {
    const EXPECTED: &[&str] = &[
        "loaded 0",
        "failed empty?",
        "failed malformed",
        "failed empty?",
        "failed malformed?",
        "recovered",
        "reloaded 1",
    ];
    Row::new(21, "a full disk", Expected::Sequence(EXPECTED), |place| {
        // Four pages: one for the bundle, and three that are filled. The new bundle needs two, and ends in the second.
        place.shell(
            "mkdir small && mount -t tmpfs -o size=16k none small && cp ca.crt small/ca.crt && \
             { yes '# padding' | head -n 380; cat new; } > big && \
             { head -c 1000000 /dev/zero > small/filler || true; } && test \"$(stat -f -c %f small)\" = 0",
        );
        Begin::new(Files::trust(place.join("small/ca.crt")), |scene| {
            scene
                .place
                .shell("if cat big > small/ca.crt; then exit 1; fi; test \"$(stat -f -c %f small)\" = 0");
            scene.wait_for("failed malformed");
            scene.failed_and_serves_the_first("failed malformed", "have it written again (a full disk");
            scene.place.shell("rm small/filler && cat big > small/ca.crt");
        })
    })
}

/// Row 21, in a process with few descriptors, all of which are in use: nothing can be read. A rename needs none.
fn starved(_: Strategy) -> Row {
    const EXPECTED: &[&str] = &["loaded 0", "failed io", "recovered", "reloaded 1"];
    Row::new(21, "no descriptor left", Expected::Sequence(EXPECTED), |place| {
        Begin::new(Files::trust(place.join("ca.crt")), |scene| {
            let mut held = Vec::new();
            // Again and again: a look may have had one open, and given it back.
            let mut hold = || held.extend(std::iter::from_fn(|| File::open("/dev/null").ok()));
            let end = Instant::now() + GAP;
            while Instant::now() < end {
                hold();
                thread::sleep(Duration::from_millis(5));
            }
            fs::rename(scene.place.join("new"), scene.place.join("ca.crt")).unwrap();
            scene.until("failed io", hold);
            scene.failed_and_serves_the_first("failed io", "too many files are open; raise the limit");
            drop(held);
        })
    })
}
